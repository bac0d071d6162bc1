"""Gradients through unrolled training against back-propagation through all steps at once."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from dd.data import augment
from dd.distill.unroll import Gradients, graph_bytes, pull_back, unroll
from dd.networks.build import create
from dd.rng import generator
from dd.runtime.memory import Living
from tests.support.saved import most_saved

CLASSES, SIZE, RATE = 3, (8, 8), 0.05
FLAT = "convnet:depth=2,width=8"


@dataclass
class Problem:
    """A student's training in float64: what it sees at each step, and the start."""

    loss: Callable
    shapes: list[torch.Size]
    start: Tensor
    images: Tensor
    batches: list[Tensor]
    direction: Tensor

    @property
    def inputs(self) -> list[Tensor]:
        return [self.images[indices] for indices in self.batches]

    def end_loss(self, end: Tensor) -> Tensor:
        """A loss of the last parameters that treats no two of them alike."""
        return (self.direction * end).sum() + (end * end * self.direction.roll(1)).sum()

    def cotangent(self, end: Tensor) -> Tensor:
        """Its derivative, by hand."""
        return self.direction + 2 * end * self.direction.roll(1)

    def split(self, flat: Tensor) -> list[Tensor]:
        parts = flat.split([shape.numel() for shape in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def train(self, images: Tensor, rate: Tensor | float, start: Tensor, keep: bool) -> Tensor:
        """θ_J with all steps in one graph (if ``keep``)."""
        end = start
        for step, indices in enumerate(self.batches):
            value = self.loss(self.split(end), images[indices], step)
            (gradient,) = torch.autograd.grad(value, end, create_graph=keep)
            end = end - rate * gradient
        return end

    def reference(self) -> tuple[Tensor, Tensor, Tensor]:
        """Derivatives by images, rate and start, from one graph of all steps."""
        images, start = (t.clone().requires_grad_() for t in (self.images, self.start))
        rate = torch.tensor(RATE, dtype=torch.float64, requires_grad=True)
        value = self.end_loss(self.train(images, rate, start, keep=True))
        return torch.autograd.grad(value, [images, rate, start])

    def ours(self, keep: int = 0) -> tuple[Tensor, Gradients]:
        """The same by the adjoint: derivatives by images, and what :func:`pull_back` gave."""
        walk = unroll(self.loss, self.shapes, self.start, RATE, self.inputs, keep)
        cotangent = self.cotangent(walk.end)
        found = pull_back(self.loss, self.shapes, walk, RATE, self.inputs, cotangent)
        images = torch.zeros_like(self.images)
        for indices, gradient in zip(self.batches, found.inputs, strict=True):
            images.index_add_(0, indices, gradient)
        return images, found


def problem(spec=FLAT, *, steps=4, batch=0, strategy="none", count=6, factor=1.0) -> Problem:
    """A student of ``spec`` on ``count`` random images, ``batch`` (0: all) of them a step."""
    draw = generator(0, spec, batch, strategy)
    network = create(spec, 2, SIZE, CLASSES, generator=draw, width_factor=factor).double().train()
    names = [name for name, _ in network.named_parameters()]
    start = torch.cat([p.detach().flatten() for p in network.parameters()])
    labels = torch.arange(count) % CLASSES
    orders = [torch.randperm(count, generator=draw) for _ in range(steps)]
    batches = [order[: batch or count] for order in orders]
    transforms = [augment.draw(strategy, draw, len(part), SIZE) for part in batches]

    def loss(parameters, images, step):
        named = dict(zip(names, parameters, strict=True))
        logits = functional_call(network, named, (augment.apply(transforms[step], images),))
        return F.cross_entropy(logits, labels[batches[step]])

    def normal(*shape):
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    shapes = [p.shape for p in network.parameters()]
    images, direction = normal(count, 2, *SIZE), normal(len(start))
    return Problem(loss, shapes, start, images, batches, direction)


def assert_exact(found: Tensor, expected: Tensor, limit: float = 1e-10) -> None:
    """Equal to ``limit`` relative to the size of the whole tensor, which is not 0."""
    size = expected.norm()
    assert size > 0
    assert (found - expected).norm() / size < limit


def assert_agrees(task: Problem) -> None:
    images, found = task.ours()
    expected = task.reference()
    assert_exact(images, expected[0])
    assert_exact(found.rate, expected[1])
    assert_exact(found.start, expected[2])


@pytest.mark.parametrize("batch", [0, 2])
@pytest.mark.parametrize(
    ("spec", "factor"),
    [
        (FLAT, 1.0),
        (f"{FLAT},norm=batch", 1.0),
        (f"{FLAT},norm=layer,pooling=max", 1.0),
        (f"{FLAT},norm=group,activation=swish", 1.0),
        (f"{FLAT},norm=none,activation=sigmoid", 1.0),
        ("mlp:width=8", 1.0),
        ("resnet18", 0.05),
        ("vgg11", 0.05),
    ],
)
def test_equal_to_one_graph_of_all_steps(spec, factor, batch):
    assert_agrees(problem(spec, factor=factor, batch=batch))


@pytest.mark.parametrize("strategy", ["color", "crop", "cutout", "flip", "scale", "rotate"])
def test_equal_under_each_augmentation(strategy):
    assert_agrees(problem(strategy=strategy, batch=4))


def test_equal_to_finite_differences():
    """Along one random direction of images, rate and start; a smooth network."""
    task = problem("convnet:depth=1,width=8,activation=swish", batch=4, strategy="rotate")
    images, found = task.ours()
    draw = generator(7)
    step, along = 1e-5, torch.randn(images.shape, generator=draw, dtype=torch.float64)
    aside = torch.randn(task.start.shape, generator=draw, dtype=torch.float64)

    def value(by_images: float = 0.0, by_rate: float = 0.0, by_start: float = 0.0) -> float:
        start = (task.start + by_start * aside).requires_grad_()
        end = task.train(task.images + by_images * along, RATE + by_rate, start, keep=False)
        return task.end_loss(end).item()

    for name, expected in {
        "by_images": (images * along).sum(),
        "by_rate": found.rate,
        "by_start": (found.start * aside).sum(),
    }.items():
        difference = (value(**{name: step}) - value(**{name: -step})) / (2 * step)
        assert difference == pytest.approx(expected.item(), rel=1e-6), name


def test_no_step_leaves_the_start():
    task = problem(steps=0)
    images, found = task.ours()
    assert torch.equal(images, torch.zeros_like(images)) and found.rate == 0
    assert_exact(found.start, task.cotangent(task.start))


def test_one_step_s_graph_is_alive_at_a_time():
    """What autograd keeps does not grow with the steps; for a graph of all of them it does."""
    adjoint, whole = (
        {steps: most_saved(getattr(problem(steps=steps), way)) for steps in (5, 20)}
        for way in ("ours", "reference")
    )
    assert adjoint[20] == adjoint[5] > 0
    assert whole[5] > 4 * adjoint[5] and whole[20] > 3.5 * whole[5]


@pytest.mark.parametrize("spec", [FLAT, f"{FLAT},norm=batch", "mlp:width=8"])
@pytest.mark.parametrize("keep", [1, 3, 4])
def test_kept_graphs_change_no_bit(spec, keep):
    task = problem(spec, batch=4, strategy="rotate")
    (images, found), (again, kept) = task.ours(), task.ours(keep)
    assert_exact(images, task.reference()[0])
    assert torch.equal(images, again)
    assert torch.equal(found.rate, kept.rate) and torch.equal(found.start, kept.start)


def test_as_many_graphs_are_alive_as_were_kept():
    task = problem(steps=20)
    graph = most_saved(problem(steps=1).ours)
    assert most_saved(task.ours) == graph
    for keep in (5, 20):
        alive = most_saved(lambda count=keep: task.ours(keep=count)) / graph
        assert keep - 1 < alive <= keep
    assert 20 * graph < 1.1 * most_saved(task.reference)


def test_the_bytes_of_a_graph():
    """Those of a layer by hand: y = W x, its loss, and the gradient by W."""

    def loss(parameters: list[Tensor], images: Tensor, step: int) -> Tensor:
        return (images @ parameters[0]).square().sum()

    shapes, images = [torch.Size([6, 3])], torch.ones(10, 6, dtype=torch.float64)
    start = torch.ones(18, dtype=torch.float64)
    # images, W, y and 2 y (both as factors), and the gradient by W
    least, most = 8 * (60 + 18 + 30 + 18), 8 * (60 + 18 + 4 * 30 + 2 * 18)
    assert least <= graph_bytes(loss, shapes, start, images) <= most


def test_counting_a_graph_leaves_none_behind():
    """Hooks that count what autograd saves may keep it for ever, since an output refers to its own
    node of the graph."""
    task, living = problem(), Living()

    def watched(parameters, images, step):
        value = task.loss(parameters, images, step)
        hidden = images.exp()  # autograd saves this output
        living.see(hidden)
        return value + 0 * hidden.sum()

    assert graph_bytes(watched, task.shapes, task.start, task.inputs[0]) > 0
    gc.collect()
    assert living.peak > 0 and living.now == 0


def test_nothing_given_is_changed():
    task = problem()
    before = [t.clone() for t in (task.start, task.images, task.direction)]
    walk = unroll(task.loss, task.shapes, task.start, RATE, task.inputs)
    path = walk.path
    kept = [t.clone() for t in path]
    cotangent = task.direction.clone()
    pull_back(task.loss, task.shapes, walk, RATE, task.inputs, cotangent)
    assert len(path) == 5 and not any(t.requires_grad for t in path)
    for now, then in zip(
        [*path, task.start, task.images, cotangent], [*kept, *before], strict=True
    ):
        assert torch.equal(now, then)
