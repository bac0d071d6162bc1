"""Knowledge distillation at evaluation: both variants against sums written out."""

import math

import pytest
import torch

from dd import kd
from dd.rng import generator


def softmax(values):
    top = max(values)
    powers = [math.exp(v - top) for v in values]
    return [p / sum(powers) for p in powers]


def slow_loss(student, teacher, labels, tau, alpha, variant):
    total = 0.0
    for s, t, y in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        hard = -math.log(softmax(s)[y])
        divide = tau if variant == "paper" else 1.0
        p, q = softmax([v / divide for v in t]), softmax([v / divide for v in s])
        kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        weight = alpha * tau**2 if variant == "paper" else alpha * tau**3
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


@pytest.mark.parametrize("variant", kd.VARIANTS)
def test_gradient_by_finite_differences(variant):
    student, teacher = logits(0).requires_grad_(True), logits(1)
    labels = torch.tensor([0, 3, 4, 1])
    assert torch.autograd.gradcheck(
        lambda s: kd.loss(s, teacher, labels, 2.0, 0.6, variant), student
    )


def test_variants_agree_at_temperature_one_only():
    student, teacher, labels = logits(0), logits(1), torch.tensor([0, 3, 4, 1])

    def both(tau):
        return [kd.loss(student, teacher, labels, tau, 0.5, v).item() for v in kd.VARIANTS]

    assert both(1.0)[0] == pytest.approx(both(1.0)[1], 1e-12)
    assert abs(both(2.0)[0] - both(2.0)[1]) > 1e-2


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
