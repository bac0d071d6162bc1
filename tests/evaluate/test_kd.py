"""Knowledge distillation at evaluation: both variants against sums written out."""

import csv
import dataclasses
import math

import pytest
import torch

from dd.command import main
from dd.config.recipes import resolve_evaluation
from dd.data.synthetic import SyntheticSet, save
from dd.evaluate import kd
from dd.evaluate.protocols import PROTOCOLS, KDSettings, Task
from dd.rng import generator
from dd.training.recipe import Recipe


def softmax(values):
    top = max(values)
    powers = [math.exp(v - top) for v in values]
    return [p / sum(powers) for p in powers]


def slow_loss(student, teacher, labels, tau, alpha, variant):
    total = 0.0
    for s, t, y in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        hard = -math.log(softmax(s)[y])
        if variant == "paper":  # from the teacher to the student, both softened
            p, q = softmax([v / tau for v in t]), softmax([v / tau for v in s])
            weight = alpha * tau**2
        else:  # from the student to the teacher, neither softened
            p, q = softmax(s), softmax(t)
            weight = alpha * tau**3
        kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        total += weight * kl + (1 - alpha) * hard
    return total / len(labels)


def logits(seed, rows=4, classes=5):
    return torch.randn(rows, classes, generator=generator(seed), dtype=torch.float64) * 2


@pytest.mark.parametrize("variant", kd.VARIANTS)
@pytest.mark.parametrize("tau", [0.05, 0.5, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_loss_against_sums(variant, tau, alpha):
    student, teacher, labels = logits(0), logits(1), torch.tensor([0, 3, 4, 1])
    expected = slow_loss(student, teacher, labels, tau, alpha, variant)
    found = kd.loss(student, teacher, labels, tau, alpha, variant).item()
    assert found == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("variant", kd.VARIANTS)
def test_temperature_zero_is_the_limit(variant):
    student, teacher, labels = logits(0), logits(1), torch.tensor([0, 3, 4, 1])
    limit = kd.loss(student, teacher, labels, 1e-7, 0.4, variant).item()
    assert kd.loss(student, teacher, labels, 0.0, 0.4, variant).item() == pytest.approx(limit, 1e-5)


@pytest.mark.parametrize("tau", [1e-18, 2.7e-23, 2.6e-23, 1e-30, 3 * 0.9**950, 1e-300])
def test_a_small_temperature_is_its_limit_in_float32(tau):
    """On both sides of the bound, and where logits / tau overflow: the loss of float64, whose
    divergence at such a tau is (s_k - s_t) / tau, t the teacher's and k the student's class."""
    student, teacher, labels = logits(0), logits(1), torch.tensor([0, 3, 4, 1])
    top = teacher.argmax(1, keepdim=True)
    gap = student.max(1).values - student.gather(1, top)[:, 0]
    hard = torch.nn.functional.cross_entropy(student, labels)
    expected = 0.5 * tau * gap.mean() + 0.5 * hard
    single = student.float().requires_grad_(True)
    found = kd.loss(single, teacher.float(), labels, tau, 0.5)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    (slope,) = torch.autograd.grad(found, single)
    plain = 0.5 * torch.nn.functional.cross_entropy(single, labels)
    assert torch.equal(slope, torch.autograd.grad(plain, single)[0])


@pytest.mark.parametrize("variant", kd.VARIANTS)
def test_gradient_by_finite_differences(variant):
    student, teacher = logits(0).requires_grad_(True), logits(1)
    labels = torch.tensor([0, 3, 4, 1])
    assert torch.autograd.gradcheck(
        lambda s: kd.loss(s, teacher, labels, 2.0, 0.6, variant), student
    )


def test_released_loss_by_hand():
    """Two classes, a student at (3/4, 1/4), a teacher at (1/2, 1/2): KL(student || teacher) is
    3/4 ln(3/2) + 1/4 ln(1/2) = 0.130812; the other direction would be ln(2) - ln(3) / 2 =
    0.143841. Label 0: CE = ln(4/3) = 0.287682."""
    student = torch.tensor([[math.log(3), 0.0]], dtype=torch.float64)
    teacher, labels = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([0])
    found = kd.loss(student, teacher, labels, 2.0, 0.5, "released").item()
    assert found == pytest.approx(0.5 * 0.287682072 + 0.5 * 8 * 0.130812036, abs=1e-8)


def test_where_probabilities_underflow_released_diverges_as_the_public_code_does():
    """exp(-200) is 0 in float32: the loss is finite, KL((1, 0) || (1/2, 1/2)) = ln 2, and its
    gradient is not, though the true one vanishes."""
    student = torch.tensor([[200.0, 0.0]], requires_grad=True)
    paid = kd.loss(student, torch.zeros(1, 2), torch.tensor([0]), 2.0, 0.5, "released")
    paid.backward()
    assert paid.item() == pytest.approx(0.5 * 8 * math.log(2))
    assert student.grad.isnan().any()
    precise = torch.tensor([[200.0, 0.0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.zeros(1, 2, dtype=torch.float64)
    kd.loss(precise, teacher, torch.tensor([0]), 2.0, 0.5, "released").backward()
    assert precise.grad.abs().max() < 1e-30
    paper = torch.tensor([[200.0, 0.0]], requires_grad=True)
    kd.loss(paper, torch.zeros(1, 2), torch.tensor([0]), 1.0, 1.0).backward()
    assert paper.grad.tolist() == [[0.5, -0.5]]  # p_student - p_teacher


def test_a_student_like_its_teacher_pays_for_the_labels_only():
    teacher, labels = logits(1), torch.tensor([0, 3, 4, 1])
    paid = kd.loss(teacher, teacher, labels, 3.0, 0.25).item()
    expected = 0.75 * torch.nn.functional.cross_entropy(teacher, labels).item()
    assert paid == pytest.approx(expected, 1e-12)


def test_soft_labels():
    student, teacher = logits(0), logits(1)
    soft = torch.softmax(logits(2), 1)
    hard = -(soft * torch.log_softmax(student, 1)).sum(1).mean().item()
    found = kd.loss(student, teacher, soft, 0.0, 0.5).item()
    assert found == pytest.approx(0.5 * hard, 1e-12)


@pytest.mark.parametrize("variant", kd.VARIANTS)
@pytest.mark.parametrize(("temperature", "alpha"), [(0.0, 0.4), (3.0, 0.0)])
def test_without_weight_no_teacher_is_asked(variant, temperature, alpha):
    student, labels = logits(0), torch.tensor([0, 3, 4, 1])
    expected = (1 - alpha) * torch.nn.functional.cross_entropy(student, labels).item()
    found = kd.loss(student, None, labels, temperature, alpha, variant).item()
    assert found == pytest.approx(expected, 1e-12)


def task(digits, archs: list[str]) -> Task:
    """Ten digits, three epochs; the architectures that were trained are added to ``archs``."""

    class Noted(Task):
        def train(self, arch, *rest, **more):
            archs.append(arch)
            return super().train(arch, *rest, **more)

    images = digits.train.take(torch.stack([indices[0] for indices in digits.train.by_class]))
    recipe = Recipe(**resolve_evaluation("dc", "digits", 1, {"epochs": 3}))
    return Noted(digits, images, torch.arange(10), recipe, 0, 0.125, False, True)


@pytest.mark.parametrize("teachers", [None, ["teacher"]])
def test_teachers_come_before_the_labels_of_views(teachers, digits, monkeypatch):
    given = {}
    monkeypatch.setattr("dd.evaluate.protocols.train", lambda *_, **named: given.update(named))
    task(digits, []).train("mlp", [0], teachers=teachers, views="views")
    assert given["teachers"] == teachers and given["guide"] == (None if teachers else "views")


def test_the_temperature_decays_by_epoch(digits):
    """0.5 CE + 0.5 (2 x 0.9^e)^3 KL(student || teacher) in epoch e."""
    settings = KDSettings(variant="released", temperature=2.0, temperature_decay=0.9)
    protocol = PROTOCOLS["kd"](settings, task(digits, []))
    student, teacher, labels = logits(0), logits(1), torch.tensor([0, 3, 4, 1])
    for epoch in (0, 1, 7):
        tau = 2.0 * 0.9**epoch
        expected = slow_loss(student, teacher, labels, tau, 0.5, "released")
        assert protocol._loss(student, labels, teacher, epoch).item() == pytest.approx(expected)


def test_no_teacher_is_trained_for_nothing(digits):
    for temperature, alpha, trained in ((0.0, 0.5, 1), (3.0, 0.0, 1), (3.0, 0.5, 2)):
        archs: list[str] = []
        protocol = PROTOCOLS["kd"](
            KDSettings(teacher="lenet", temperature=temperature, alpha=alpha), task(digits, archs)
        )
        protocol.train("mlp", [0])
        assert archs == ["lenet", "mlp"][-trained:]
        assert (protocol.facts(0)["teacher_accuracy"] == "") == (trained == 1)


def test_a_student_does_not_start_as_its_teacher(digits):
    """The public code draws both anew. Networks of any number, student or teacher, all differ."""
    asked = task(digits, [])
    first, second = asked.networks("mlp", [0, 1]), asked.networks("mlp", [0, 1], ["teacher"])
    weights = [next(network.parameters()) for network in (*first, *second)]
    for number, one in enumerate(weights):
        assert not any(torch.equal(one, other) for other in weights[number + 1 :])
    protocol = PROTOCOLS["kd"](KDSettings(teacher="mlp"), asked)
    (trained,) = protocol.train("mlp", [0])
    (teacher,) = protocol.teachers.values()
    again = asked.train("mlp", [0], role=["teacher"])[0]
    assert all(map(torch.equal, teacher.parameters(), again.parameters()))
    assert not torch.equal(next(trained.parameters()), next(teacher.parameters()))


def test_half_the_cross_entropy_is_plain_training_at_half_the_loss(digits):
    """Without a teacher, SGD on half the loss is SGD at half the rate and twice the decay."""
    whole = task(digits, [])
    settings = KDSettings(variant="released", temperature=0.0)
    (half,) = PROTOCOLS["kd"](settings, whole).train("mlp", [0])
    recipe = dataclasses.replace(whole.recipe, lr=whole.recipe.lr / 2, weight_decay=2 * 5e-4)
    (plain,) = dataclasses.replace(whole, recipe=recipe).train("mlp", [0])
    for one, other in zip(half.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_rows_without_a_teacher_have_no_teacher_accuracy(digits, digits_file, tmp_path):
    images = digits.train.take(torch.stack([indices[0] for indices in digits.train.by_class]))
    save(tmp_path / "set.safetensors", SyntheticSet(images, torch.arange(10)))
    for name, words in (("none", ["--temperature", "0"]), ("some", ["--temperature", "1"])):
        command = ["evaluate", "--synthetic", str(tmp_path / "set.safetensors"), "--epochs", "2",
                   "--data", str(digits_file), "--arch", "mlp", "--networks", "2", "--protocol",
                   "kd", "--variant", "released", "--temperature-decay", "0.9", "--width-factor",
                   "0.125", "--out", str(tmp_path / f"{name}.csv"), "--device", "cpu"]  # fmt: skip
        assert main([*command, *words]) == 0
    rows = {}
    for name in ("none", "some"):
        with open(tmp_path / f"{name}.csv", newline="", encoding="utf-8") as file:
            rows[name] = list(csv.DictReader(file))
    assert list(rows["none"][0]) == list(rows["some"][0])
    assert [row["teacher_accuracy"] for row in rows["none"]] == ["", ""]
    assert all(float(row["teacher_accuracy"]) > 0 for row in rows["some"])
