"""DD against its algorithm written out, with one graph of all steps and by finite differences."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from dd.distill.objectives.dd import batches
from dd.distill.parametrisations.pixels import Pixels
from dd.errors import DDError, Divergence
from dd.networks.init import fixed_start, initialise
from dd.rng import generator
from tests.support.objectives import NORMED, canvas, make
from tests.support.saved import most_saved

SPEC = "convnet:width=8,depth=1,activation=swish"
SMALL = {
    "batch_real": 40, "steps": 2, "student_epochs": 2, "lr_student": 0.3, "lr_lr": 0.05,
    "lr_img": 0.1, "decay": 0.5, "decay_every": 2,
}  # fmt: skip


def in_double(name, digits, spec=SPEC, **changes):
    """The objective and its canvas; images, and so what students compute, in float64."""
    objective = make(name, digits, 3, spec, **SMALL | changes)
    start = objective.start().double()
    s = objective.settings
    return objective, Pixels(start, objective.labels(), s.lr_img, objective.optimizer)


def drawn(objective, number, which, streams):
    """The initial parameters of a student, by name, in float64."""
    _, network = objective.networks.draw(number - 1, streams.network)
    if objective.settings.initialisation == "fixed":
        initialise(network, fixed_start(3, which))
    return network, {n: p.detach().double().clone() for n, p in network.named_parameters()}


def end_loss(network, parameters, images, labels, rates, real, digits, steps, graph=True):
    """Cross-entropy on the ``real`` images after every step, written out."""
    ipc = len(images) // 10
    for step, rate in enumerate(rates):
        part = step % steps
        own = [i for i in range(len(images)) if (i % ipc) in batch_members(ipc, steps)[part]]
        logits = functional_call(network, parameters, (images[own],))
        loss = F.cross_entropy(logits, labels[own])
        slopes = torch.autograd.grad(loss, list(parameters.values()), create_graph=graph)
        parameters = {
            name: p - rate * g for (name, p), g in zip(parameters.items(), slopes, strict=True)
        }
    logits = functional_call(network, parameters, (digits.train.take(real).double(),))
    return F.cross_entropy(logits, digits.train.labels[real])


def batch_members(ipc, steps):
    """3 images in 2 steps: two, then one."""
    return {(3, 1): [{0, 1, 2}], (3, 2): [{0, 1}, {2}], (3, 3): [{0}, {1}, {2}]}[ipc, steps]


class Adam:
    """Adam, written out."""

    def __init__(self):
        self.first = self.second = 0.0
        self.count = 0

    def step(self, value, gradient, rate):
        self.count += 1
        self.first = 0.5 * self.first + 0.5 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        mean = self.first / (1 - 0.5**self.count)
        spread = (self.second / (1 - 0.999**self.count)).sqrt()
        return value - rate * mean / (spread + 1e-8)


@pytest.mark.parametrize("students", [1, 2])
@pytest.mark.parametrize("initialisation", ["random", "fixed"])
def test_iterations_are_the_algorithm(students, initialisation, digits):
    """Images and rates after three iterations; in the third, rates are halved."""
    changes = {"students": students, "initialisation": initialisation}
    ours, canvas = in_double("dd", digits, **changes)
    theirs, copy = in_double("dd", digits, **changes)
    start = images = copy.images().clone()
    labels = theirs.labels()
    raw = torch.full((4,), math.log(math.exp(0.3) - 1), dtype=torch.float64)
    by_images, by_raw = Adam(), Adam()
    for number in (1, 2, 3):
        before = canvas.images().clone()
        values = ours.iteration(number, canvas)
        order = torch.randperm(len(digits.train), generator=theirs.streams.host)[:40]
        leaf, v = images.clone().requires_grad_(), raw.clone().requires_grad_()
        losses = []
        for which in range(students):
            network, parameters = drawn(theirs, number, which, theirs.streams)
            parameters = {name: p.requires_grad_() for name, p in parameters.items()}
            rates = torch.log(1 + torch.exp(v))
            losses.append(end_loss(network, parameters, leaf, labels, rates, order, digits, 2))
        loss = sum(losses) / students
        slopes = torch.autograd.grad(loss, [leaf, v])
        factor = 0.5 if number == 3 else 1.0
        images = by_images.step(images, slopes[0], 0.1 * factor)
        raw = by_raw.step(raw, slopes[1], 0.05 * factor)
        assert values["loss"] == pytest.approx(loss.item(), rel=1e-9)
        assert not torch.equal(canvas.images(), before)
    assert (canvas.images() - images).norm() / (images - start).norm() < 1e-6
    assert torch.allclose(ours.raw, raw, rtol=1e-6) and (raw.std() > 1e-4)


def test_the_gradient_by_finite_differences(digits):
    """Of images and rates at once, along a random direction."""
    objective, canvas = in_double("dd", digits, lr_lr=0.05)
    seen = {}
    canvas.update = lambda gradient, factor=1.0: seen.update(images=gradient.clone())
    raw, images = objective.raw.detach().clone(), canvas.images().clone()
    objective.iteration(1, canvas)
    by_raw = objective.raw.grad
    other, _ = in_double("dd", digits)
    network, start = drawn(other, 1, 0, other.streams)
    real = torch.randperm(len(digits.train), generator=generator(3, "host"))[:40]
    draw = generator(5)
    along = torch.randn(images.shape, generator=draw, dtype=torch.float64)
    aside = torch.randn(raw.shape, generator=draw, dtype=torch.float64)

    def value(by):
        rates = torch.log(1 + torch.exp(raw + by * aside))
        parameters = {name: p.clone().requires_grad_() for name, p in start.items()}
        moved = images + by * along
        labels = objective.labels()
        return end_loss(
            network, parameters, moved, labels, rates, real, digits, 2, graph=False
        ).item()

    expected = ((seen["images"] * along).sum() + (by_raw * aside).sum()).item()
    assert (value(1e-5) - value(-1e-5)) / 2e-5 == pytest.approx(expected, rel=1e-5)


def test_batches_are_of_every_class_and_of_all_images():
    for ipc, count in ((1, 1), (10, 10), (7, 3)):
        parts = batches(4, ipc, count)
        assert torch.cat(parts).sort().values.tolist() == list(range(4 * ipc))
        for part in parts:
            a_class = torch.bincount(part // ipc, minlength=4)
            assert a_class.unique().numel() == 1 and abs(int(a_class[0]) - ipc / count) < 1


def test_memory_is_flat_in_the_number_of_steps(digits):
    def saved(epochs):
        objective, canvas = in_double("dd", digits, student_epochs=epochs)
        return most_saved(lambda: objective.iteration(1, canvas))

    assert saved(20) == saved(4) > 0


def test_kept_graphs_change_no_bit(digits):
    found = []
    for memory in (0.0, 1e12):
        objective, canvas = in_double("dd", digits)
        objective.memory = memory
        for number in (1, 2):
            objective.iteration(number, canvas)
        found.append((canvas.images(), objective.raw.detach()))
        assert set(objective.kept.values()) == {4 if memory else 0}
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_the_memory_of_the_loss_is_known_before_graphs_are_kept(digits, monkeypatch):
    """They are there at the same time."""
    objective, canvas = in_double("dd", digits)
    order, outer = [], objective._outer
    monkeypatch.setattr(objective, "_outer", lambda *given: order.append("loss") or outer(*given))
    monkeypatch.setattr(
        "dd.distill.objectives.base.peak_memory", lambda device: order.append("peak") or 0.0
    )
    for number in (1, 2):
        objective.iteration(number, canvas)
    assert order == ["loss", "peak", "loss", "loss"]


def test_a_fixed_start_is_the_same_in_each_iteration(digits):
    objective = make("dd", digits, 3, SPEC, **SMALL | {"initialisation": "fixed"})
    starts = []
    for number, which in ((1, 0), (2, 0), (2, 1)):
        name, network = objective.networks.draw(number - 1, objective.streams.network)
        starts.append(objective._start(name, network, which))
    assert torch.equal(starts[0], starts[1]) and not torch.equal(starts[1], starts[2])
    # and in another process, on the CPU
    _, network = objective.networks.draw(0, generator(8))
    initialise(network, fixed_start(3, 1))
    assert torch.equal(starts[2], torch.cat([p.flatten() for p in network.parameters()]))


def test_rates_that_are_not_learned_stay(digits):
    objective, canvas = in_double("dd", digits, lr_lr=0.0)
    objective.iteration(1, canvas)
    assert objective.rates() == pytest.approx([0.3] * 4)


@pytest.mark.parametrize(("spec", "pieces"), [(NORMED, [40]), (SPEC, [16, 16, 8])])
def test_batch_norm_sees_all_real_images_together(spec, pieces, digits, monkeypatch):
    monkeypatch.setattr("dd.distill.objectives.dd.CHUNK", 16)
    objective = make("dd", digits, 3, spec, **SMALL)
    synthetic = canvas(objective)
    objective.iteration(1, synthetic)
    sizes = []
    objective.dataset = dataclasses.replace(digits, train=Watched(digits.train, sizes.append))
    objective.iteration(2, synthetic)
    assert sizes == pieces


def test_a_batch_norm_never_sees_a_part_of_the_real_images(digits, monkeypatch):
    """Where memory is too small for them, that is an error: half of them are another batch."""
    objective = make("dd", digits, 3, NORMED, **SMALL)
    synthetic = canvas(objective)
    objective.iteration(1, synthetic)

    def full(count):
        if count > 20:
            raise torch.OutOfMemoryError("CUDA out of memory")

    objective.dataset = dataclasses.replace(digits, train=Watched(digits.train, full))
    with pytest.raises(torch.OutOfMemoryError):
        objective.iteration(2, synthetic)


class Watched:
    """A split that tells what is taken."""

    def __init__(self, split, tell):
        self.split, self.tell = split, tell

    def __getattr__(self, name):
        return getattr(self.split, name)

    def __len__(self):
        return len(self.split)

    def take(self, indices):
        self.tell(len(indices))
        return self.split.take(indices)


def test_more_steps_than_images_are_refused(digits):
    with pytest.raises(DDError, match="steps is 4, but a class has 3 images"):
        make("dd", digits, 3, SPEC, **SMALL | {"steps": 4})


@pytest.mark.parametrize("start", [0.05, 0.1, 1.0, 1e-60])
def test_learned_labels_begin_between_chance_and_certainty(start, digits):
    """Of ten classes; 0.05 would make an image's own class the least probable one."""
    with pytest.raises(DDError, match=r"give more than 0\.1 and less than 1"):
        make("dd", digits, 3, SPEC, **SMALL | {"lr_label": 0.1, "label_start": start})


def test_rates_that_die_stop_before_images_move(digits):
    objective, canvas = in_double("dd", digits, lr_lr=1e3)
    before, raw = canvas.images().clone(), objective.raw.detach().clone()
    with pytest.raises(Divergence, match="smaller --lr-lr"):
        for number in range(1, 4):
            before, raw = canvas.images().clone(), objective.raw.detach().clone()
            objective.iteration(number, canvas)
    assert torch.equal(canvas.images(), before) and torch.equal(objective.raw, raw)
    assert all(0 < rate < math.inf for rate in objective.rates())


def test_a_student_that_diverges_leaves_images_and_rates(digits):
    objective, canvas = in_double("dd", digits, lr_student=1e30)
    before, raw = canvas.images().clone(), objective.raw.detach().clone()
    with pytest.raises(Divergence, match="smaller --lr-student"):
        objective.iteration(1, canvas)
    assert torch.equal(canvas.images(), before) and torch.equal(objective.raw, raw)
