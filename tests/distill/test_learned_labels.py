"""Labels that are learned with any parametrisation, and what becomes of them in files."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch.func import functional_call

from dd.artifacts.headers import read_header
from dd.artifacts.text import load_rows
from dd.command import main
from dd.data import synthetic
from dd.distill.parametrisations import Labelled, LearnedLabels, Pixels
from dd.errors import DDError
from dd.rng import generator
from tests.distill.test_dd import SPEC, batch_members, drawn, in_double

START = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3]], dtype=torch.float64)
DD = [
    "--objective", "dd", "--ipc", "2", "--steps", "2", "--student-epochs", "1", "--batch-real",
    "30", "--lr-student", "0.1", "--network", SPEC, "--device", "cpu", "--threads", "1",
]  # fmt: skip


def sgd(groups):
    return torch.optim.SGD(groups, momentum=0.5)


def labelled(kind, lr=0.3):
    images = torch.randn(2, 1, 4, 4, dtype=torch.float64, generator=generator(0))
    canvas = Pixels(images, torch.tensor([0, 1]), 0.1, sgd)
    return Labelled(canvas, LearnedLabels(START, kind, lr), sgd)


@pytest.mark.parametrize("kind", synthetic.LEARNED)
def test_labels_begin_as_given_and_move_as_their_kind_says(kind):
    canvas = labelled(kind)
    torch.testing.assert_close(canvas.labels, START)
    slope = torch.randn(2, 3, dtype=torch.float64, generator=generator(1))
    canvas.update_labels(slope, factor=0.5)
    if kind == "targets":
        torch.testing.assert_close(canvas.labels, START - 0.15 * slope)
        return
    # the gradient by v, by autograd
    v = START.log().requires_grad_()
    (by_v,) = torch.autograd.grad((v.softmax(1) * slope).sum(), v)
    torch.testing.assert_close(canvas.labels, (START.log() - 0.15 * by_v).softmax(1))
    torch.testing.assert_close(canvas.labels.sum(1), torch.ones(2, dtype=torch.float64))


def test_images_move_as_without_learned_labels():
    canvas, alone = labelled("targets"), labelled("targets").canvas
    slope = torch.ones_like(canvas.images())
    for each in (canvas, alone):
        each.update(slope)
        each.update(slope, 0.5)
    assert torch.equal(canvas.images(), alone.images())


@pytest.mark.parametrize("kind", synthetic.LEARNED)
def test_state_goes_on_bit_for_bit(kind):
    slopes = torch.randn(4, 2, 3, dtype=torch.float64, generator=generator(1))
    steady, other = labelled(kind), labelled(kind)
    for slope in slopes[:2]:
        steady.update(torch.ones_like(steady.images()))
        steady.update_labels(slope)
    other.load_state({name: value.clone() for name, value in steady.state().items()})
    assert torch.equal(other.labels, steady.labels)
    for slope in slopes[2:]:
        for each in (steady, other):
            each.update(torch.ones_like(each.images()))
            each.update_labels(slope)
    assert torch.equal(other.labels, steady.labels) and torch.equal(other.images(), steady.images())


def test_state_of_other_labels_is_refused():
    canvas = labelled("targets")
    state = canvas.state() | {"labels.values": torch.zeros(2, 4)}
    with pytest.raises(DDError, match=r"'labels.values' is .* must be \[2, 3\]"):
        canvas.load_state(state)


def test_fixed_labels_do_not_move():
    with pytest.raises(TypeError, match="labels are fixed"):
        labelled("targets").canvas.update_labels(START)


def test_dd_moves_labels_down_its_loss(digits):
    """By finite differences, from labels that are all different."""
    objective, canvas = in_double("dd", digits, lr_label=0.1, label_start=0.6)
    labels = torch.randn(30, 10, dtype=torch.float64, generator=generator(4)).softmax(1)
    canvas.labels, seen = labels, {}
    canvas.update_labels = lambda gradient, factor=1.0: seen.update(labels=gradient)
    images, rates = canvas.images().clone(), objective.rates()
    objective.iteration(1, canvas)
    other, _ = in_double("dd", digits)
    network, start = drawn(other, 1, 0, other.streams)
    real = torch.randperm(len(digits.train), generator=generator(3, "host"))[:40]

    def value(moved):
        parameters = {name: p.clone().requires_grad_() for name, p in start.items()}
        for step, rate in enumerate(rates):
            own = [i for i in range(30) if i % 3 in batch_members(3, 2)[step % 2]]
            logits = functional_call(network, parameters, (images[own],))
            loss = -(moved[own] * F.log_softmax(logits, 1)).sum(1).mean()
            slopes = torch.autograd.grad(loss, list(parameters.values()))
            parameters = {
                name: (p - rate * g).detach().requires_grad_()
                for (name, p), g in zip(parameters.items(), slopes, strict=True)
            }
        logits = functional_call(network, parameters, (digits.train.take(real).double(),))
        return F.cross_entropy(logits, digits.train.labels[real]).item()

    along = torch.randn(labels.shape, dtype=torch.float64, generator=generator(5))
    expected = (value(labels + 1e-5 * along) - value(labels - 1e-5 * along)) / 2e-5
    assert (seen["labels"] * along).sum().item() == pytest.approx(expected, rel=1e-5)


def test_probabilities_at_the_start(digits):
    objective, _ = in_double("dd", digits, lr_label=0.1, label_start=0.7)
    learned = objective.learned_labels()
    assert learned.kind == "probabilities" and learned.lr == 0.1
    assert learned.start[4].tolist() == pytest.approx(
        [0.7 if k == 1 else 0.3 / 9 for k in range(10)]
    )
    with pytest.raises(DDError, match="and less than 1"):
        in_double("dd", digits, lr_label=0.1, label_start=1.0)
    assert in_double("dd", digits)[0].learned_labels() is None


@pytest.fixture(scope="module")
def learned(digits_file, tmp_path_factory):
    """A set whose labels were learned."""
    out = tmp_path_factory.mktemp("learned")
    words = ["--lr-label", "0.5", "--snapshots", "0", "2"]
    assert main(["distill", "--data", str(digits_file), "--out", str(out), *DD, *words]) == 0
    return out


def test_a_set_keeps_learned_labels(learned, digits_file, tmp_path):
    start, end = (synthetic.load(learned / f"it{n}.safetensors") for n in (0, 2))
    assert start.labels.shape == (20, 10) and end.header["labels"] == "probabilities"
    assert start.labels.amax(1).tolist() == pytest.approx([0.9] * 20)
    assert ((end.labels - start.labels).abs().amax(1) > 0).all() and not end.regresses
    out = tmp_path / "e.csv"
    words = ["--arch", "mlp", "--networks", "1", "--epochs", "3", "--width-factor", "0.1"]
    what = ["--synthetic", str(learned / "it2.safetensors"), "--data", str(digits_file)]
    more = ["--out", str(out), "--device", "cpu", "--protocol"]
    for protocol in ("hard", "kd"):
        assert main(["evaluate", *what, *words, *more, protocol]) == 0
    assert load_rows(out)[0]["protocol"] == "kd"


def targets(path, out, **header):
    """A copy of a set, with labels that are no probabilities."""
    made = synthetic.load(path)
    made.labels = 3 * made.labels - 1
    made.header = made.header | header
    synthetic.save(out, made)
    return out


@pytest.mark.parametrize("said", [None, "target"])
def test_the_kind_of_labels_in_a_header(said, learned, tmp_path):
    """Null is as if it were not there."""
    path = learned / "it2.safetensors"
    header = read_header(path) | {"labels": said}
    save_file(load_file(path), tmp_path / "s.safetensors", {"dd": json.dumps(header)})
    if said is None:
        assert not synthetic.load(tmp_path / "s.safetensors").regresses
    else:
        with pytest.raises(DDError, match="kind of labels 'target': did you mean 'targets'"):
            synthetic.load(tmp_path / "s.safetensors")


def test_targets_are_no_probabilities(learned, digits_file, tmp_path, capsys):
    source = learned / "it2.safetensors"
    bad = targets(source, tmp_path / "bad.safetensors")
    with pytest.raises(DDError, match="must be probabilities"):
        synthetic.load(bad)
    with pytest.raises(DDError, match=r"kind of labels 'target'.*did you mean 'targets'"):
        synthetic.load(targets(source, tmp_path / "odd.safetensors", labels="target"))
    good = targets(source, tmp_path / "good.safetensors", labels="targets")
    made = synthetic.load(good)
    assert made.regresses and torch.equal(made.hard_labels, synthetic.load(source).hard_labels)
    for protocol in ("hard", "kd"):
        words = ["--arch", "mlp", "--out", str(tmp_path / "e.csv"), "--protocol", protocol]
        where = ["--synthetic", str(good), "--data", str(digits_file), "--device", "cpu"]
        assert main(["evaluate", *where, *words]) == 2
        assert "targets of a regression" in capsys.readouterr().err
    tensors = load_file(good)
    save_file(
        {"images": tensors["images"], "labels": tensors["labels"]}, tmp_path / "bare.safetensors"
    )
    with pytest.raises(DDError, match="must be probabilities"):
        synthetic.load(tmp_path / "bare.safetensors")
