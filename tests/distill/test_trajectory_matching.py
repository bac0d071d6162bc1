"""MTT and IADD against their algorithms written out, with one graph of all student steps."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch.func import functional_call

from dd.config import recipes
from dd.data import augment
from dd.distill.objectives.iadd import WEIGHTS
from dd.distill.objectives.mtt import LEAST_RATE, PROBES, RUNAWAY
from dd.distill.parametrisations.pixels import Pixels
from dd.errors import Divergence
from dd.networks.build import create
from dd.rng import generator
from tests.support.matching import FAST, LEARNED, PARAMETERS, SMALL, SPEC, make

# Biases before instance norm, of which neither student nor expert has a gradient.
INERT = ("body.0.bias", "body.4.bias")


class InDouble:
    """Trajectories in float64."""

    def __init__(self, trajectories):
        self.trajectories = trajectories

    def draw(self, *arguments):
        drawn = self.trajectories.draw(*arguments)
        start, target = drawn.start.double(), drawn.target.double()
        return dataclasses.replace(drawn, start=start, target=target)


def in_double(objective, seed=None):
    """The objective at work in float64, and its canvas; IADD's v, or W, random with a ``seed``."""
    objective.trajectories = InDouble(objective.trajectories)
    if hasattr(objective, "learned"):
        for spec, values in objective.learned.items():
            values = values.double()
            if seed is not None:
                values = values + 0.3 * torch.randn(values.shape, generator=generator(seed))
            objective.learned[spec] = values
    s = objective.settings
    start = objective.start().double()
    return objective, Pixels(start, objective.labels(), s.lr_img, objective.optimizer)


def still_by_hand():
    """Which parameters have no gradient, ``[P]``."""
    network = create(SPEC, 1, (8, 8), 10, generator=None)
    parts = network.named_parameters()
    return torch.cat([torch.full((p.numel(),), name in INERT) for name, p in parts])


def weights_by_hand(mode, learned, sizes, end, target, above):
    """W [P] of each mode; ``layer``: the softmax over parameters that share a tensor's value."""
    moving = (~still_by_hand()).double()
    match mode:
        case "raw":
            weights = learned
        case "normalised" | "layer":
            if mode == "layer":
                parts = zip(learned, sizes, strict=True)
                learned = torch.cat([value.expand(size) for value, size in parts])
            powers = moving * learned.exp()
            weights = moving.sum() * powers / powers.sum()
        case "prune":
            weights = 1.0 - ((end - target).abs() > above * target.abs()).double()
        case _:
            return torch.ones_like(end)
    return moving * weights + (1 - moving)


def pace_by_hand(mode, settings):
    """What a gradient is multiplied by: raw, nothing but the rate; else the number of v, too."""
    if mode == "raw":
        return settings.lr_weights
    if mode == "normalised":
        return settings.lr_softmax * (PARAMETERS - 16)
    return settings.lr_layer * (10 - 2)


class Plain:
    """Algorithm 1 of MTT, with IADD's weights, all steps in one graph, every update written out."""

    def __init__(self, objective, rows, mode="none", learned=None):
        self.s, self.streams, self.mode = objective.settings, objective.streams, mode
        self.images, self.labels = objective.start().double(), objective.labels()
        self.rows, self.rate, self.learned = rows, self.s.lr_student, learned
        self.image_momentum, self.rate_momentum = torch.zeros_like(self.images), 0.0
        self.network = create(SPEC, 1, (8, 8), 10, generator=None)
        self.names = [name for name, _ in self.network.named_parameters()]
        self.shapes = [p.shape for p in self.network.parameters()]
        self.sizes = [shape.numel() for shape in self.shapes]

    def student(self, start, images, rate, stream):
        """θ_J after the steps on ``images``."""
        batches = []
        while len(batches) < self.s.student_steps:
            order = torch.randperm(len(images), generator=stream)
            batches += reversed(order.split(self.s.batch_syn or len(images)))
        batches = batches[: self.s.student_steps]
        drawn = [augment.draw(self.s.augment, stream, len(part), (8, 8)) for part in batches]
        end = start.clone().requires_grad_()
        for part, transform in zip(batches, drawn, strict=True):
            tensors = zip(self.shapes, end.split(self.sizes), strict=True)
            tensors = [flat.view(shape) for shape, flat in tensors]
            named = dict(zip(self.names, tensors, strict=True))
            logits = functional_call(self.network, named, (augment.apply(transform, images[part]),))
            loss = F.cross_entropy(logits, self.labels[part])
            (gradient,) = torch.autograd.grad(loss, end, create_graph=True)
            end = end - rate * gradient
        return end

    def segment(self, stream):
        expert = int(torch.randint(self.s.experts, (), generator=stream))
        epoch = int(torch.randint(self.s.max_start_epoch, (), generator=stream))
        return self.rows[expert, epoch], self.rows[expert, epoch + self.s.expert_epochs]

    def iteration(self):
        s, stream = self.s, self.streams.host
        start, target = self.segment(stream)
        images = self.images.clone().requires_grad_()
        rate = torch.tensor(self.rate, dtype=torch.float64, requires_grad=True)
        learned = (torch.zeros(0) if self.learned is None else self.learned).requires_grad_()
        end = self.student(start, images, rate, stream)
        weights = weights_by_hand(
            self.mode, learned, self.sizes, end.detach(), target, getattr(s, "prune_above", 0)
        )
        loss = (weights * end - weights * target).square().sum() / (start - target).square().sum()
        by_images, by_rate, by_learned = torch.autograd.grad(
            loss, [images, rate, learned], materialize_grads=True
        )
        self.image_momentum = s.momentum_img * self.image_momentum + by_images
        self.images = self.images - s.lr_img * self.image_momentum
        self.rate_momentum = s.momentum_lr * self.rate_momentum + by_rate.item()
        self.rate = self.rate - s.lr_lr * self.rate_momentum
        if self.learned is not None:
            self.learned = (learned - pace_by_hand(self.mode, s) * by_learned).detach()
        return loss.item()


def assert_exact(found, expected):
    size = expected.norm()
    assert size > 0 and (found - expected).norm() / size < 1e-10


@pytest.mark.parametrize("batch", [0, 4])
@pytest.mark.parametrize("mode", ["mtt", *WEIGHTS])
def test_iterations_are_the_algorithm(mode, batch, digits, shard):
    """Images, rate and weights after three iterations, to 1e-10 in float64."""
    name, changes = "mtt", {}
    if mode != "mtt":
        name, changes = (
            "iadd",
            {"weights": mode, "lr_weights": 10.0, "lr_softmax": 0.1, "lr_layer": 0.2},
        )
    ours, theirs = (make(name, digits, shard, batch_syn=batch, **changes) for _ in range(2))
    ours, canvas = in_double(ours)
    zeros = torch.zeros(PARAMETERS)
    learned = {"normalised": zeros, "raw": zeros + 1, "layer": torch.zeros(10)}
    learned = learned[mode].double() if mode in learned else None
    plain = Plain(theirs, load_file(shard)["trajectories"].double(), mode, learned)
    start = canvas.images().clone()
    assert torch.equal(start, plain.images)
    for number in (1, 2, 3):
        before, rate = canvas.images().clone(), float(ours.rate)
        values = ours.iteration(number, canvas)
        assert values["loss"] == pytest.approx(plain.iteration(), rel=1e-10)
        assert values["lr_student"] == rate and not torch.equal(canvas.images(), before)
    assert_exact(canvas.images() - start, plain.images - start)
    assert float(ours.rate) == pytest.approx(plain.rate, rel=1e-10)
    assert float(ours.rate) != SMALL["lr_student"]
    if learned is not None:
        assert_exact(ours.learned[SPEC], plain.learned)
        assert (plain.learned - learned).abs().max() > 1e-3


def a_segment(objective, seed=0):
    """A segment, and where a student might have ended."""
    segment = objective.trajectories.draw(SPEC, 2, 3, 1, generator(seed))
    noise = torch.randn(PARAMETERS, generator=generator(seed, "end"), dtype=torch.float64)
    return segment, segment.target + 0.01 * noise


@pytest.mark.parametrize("mode", LEARNED)
def test_the_step_of_the_weights_is_down_their_loss(mode, digits, shard):
    """By finite differences, from weights that are all different."""
    objective = make("iadd", digits, shard, weights=mode, lr_weights=3.0)
    objective, _ = in_double(objective, seed=5)
    before = objective.learned[SPEC]
    segment, end = a_segment(objective)
    along = torch.randn(before.shape, generator=generator(6), dtype=torch.float64)
    losses = []
    for sign in (1, -1):
        objective.learned[SPEC] = before + sign * 1e-5 * along
        losses.append(objective.compare(SPEC, end, segment)[0])
    objective.learned[SPEC] = before
    objective.compare(SPEC, end, segment)
    moved = (objective.moved[SPEC] - before) / pace_by_hand(mode, objective.settings)
    assert (-moved * along).sum() == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-6)


@pytest.mark.parametrize("mode", WEIGHTS)
def test_the_derivative_by_the_end_is_that_of_the_loss(mode, digits, shard):
    objective, _ = in_double(make("iadd", digits, shard, weights=mode), seed=5)
    segment, end = a_segment(objective)
    _, cotangent = objective.compare(SPEC, end, segment)
    along = torch.randn(end.shape, generator=generator(6), dtype=torch.float64)
    step = 1e-7  # no parameter crosses the limit of prune
    losses = [objective.compare(SPEC, end + s * along, segment)[0] for s in (step, -step)]
    expected = (losses[0] - losses[1]) / (2 * step)
    assert (cotangent * along).sum() == pytest.approx(expected, rel=1e-6)


def test_matching_brings_the_loss_down(digits, shard):
    """From noise, on one segment of one expert: the student comes closer to where it went."""
    settings = {"experts": 1, "max_start_epoch": 1, "augment": "none", "init": "noise"}
    objective = make("mtt", digits, shard, student_steps=8, lr_img=20.0, **settings)
    canvas = Pixels(objective.start(), objective.labels(), 20.0, objective.optimizer)
    losses = [objective.iteration(n, canvas)["loss"] for n in range(1, 26)]
    assert losses[-1] < 0.6  # 1 is that of a student who stays where it starts


@pytest.mark.parametrize("mode", LEARNED)
def test_normalised_weights_keep_their_mean(mode, digits, shard):
    objective = make("iadd", digits, shard, weights=mode, **FAST)
    canvas = Pixels(objective.start(), objective.labels(), 1.0, objective.optimizer)
    for number in range(1, 6):
        values = objective.iteration(number, canvas)
    weights = objective.outcome(canvas).extras[f"importance.{SPEC}"]
    assert weights.shape == (PARAMETERS,) and weights.std() > 0.01
    still = still_by_hand()
    assert torch.equal(weights[still], torch.ones(16))  # and no part of the mean of the rest
    if mode == "raw":
        assert (weights[~still].mean() - 1).abs() > 1e-3  # nothing holds it
    else:
        assert weights[~still].mean().item() == pytest.approx(1.0, abs=1e-5)
        assert weights.min() >= 0
    if mode == "layer":
        sizes = [p.numel() for p in create(SPEC, 1, (8, 8), 10, generator=None).parameters()]
        assert all(len(part.unique()) == 1 for part in weights.split(sizes))
        assert len(weights.unique()) > 5
    assert values["weight_low"] < 1 < values["weight_high"] or mode == "raw"


def test_a_raw_weight_takes_the_plain_step(digits, shard):
    """W ← W − lr 2 W (θ_J − θ*)² / ‖θ_t − θ*‖², by hand, whatever the number of weights."""
    objective = make("iadd", digits, shard, weights="raw", lr_weights=7.0)
    objective, _ = in_double(objective, seed=5)
    segment, end = a_segment(objective)
    before, apart = objective.learned[SPEC].clone(), end - segment.target
    loss, _ = objective.compare(SPEC, end, segment)
    scale = (segment.start - segment.target).square().sum()
    moving = (~still_by_hand()).double()
    weights = moving * before + (1 - moving)
    both = weights * end - weights * segment.target  # both sides are weighted, the scale is not
    assert loss == pytest.approx(float(both.square().sum() / scale), rel=1e-12)
    expected = before - 7.0 * 2 * before * apart.square() / scale * moving
    torch.testing.assert_close(objective.moved[SPEC], expected, rtol=1e-12, atol=0)
    assert (objective.moved[SPEC] - before).abs().max() > 1e-3


def test_iadd_is_raw_by_default():
    assert recipes.resolve("iadd", "cifar10", 10)["weights"] == "raw"


def test_weights_do_not_gather_where_nothing_is_to_match(digits, shard):
    """Student and expert agree on what has no gradient; the others keep their share."""
    objective = make("iadd", digits, shard, weights="normalised", lr_softmax=1.0)
    objective, canvas = in_double(objective)
    for number in range(1, 11):
        objective.iteration(number, canvas)
    weights = objective.outcome(canvas).extras[f"importance.{SPEC}"]
    assert (weights[still_by_hand()] == 1).all() and weights.max() > 1.1


def test_pruned_parameters_are_those_far_from_the_expert(digits, shard):
    objective = make("iadd", digits, shard, weights="prune", prune_above=0.1)
    target = torch.tensor([1.0, 1.0, -1.0, -1.0, 0.0, 0.0, 2.0])
    end = torch.tensor([1.09, 1.11, -0.91, -1.11, 0.0, 0.001, 2.19])
    objective.inert[SPEC] = torch.zeros(7, dtype=torch.bool)
    weights = objective.weights(SPEC, torch.zeros(0), end, target)
    assert weights.tolist() == [1, 0, 1, 0, 1, 0, 1]
    objective.inert[SPEC][3] = True
    weights = objective.weights(SPEC, torch.zeros(0), end, target)
    assert weights.tolist() == [1, 0, 1, 1, 1, 0, 1]


def test_a_batch_is_new_until_all_images_were_seen(digits, shard):
    objective = make("mtt", digits, shard, ipc=2, student_steps=13, batch_syn=6)
    batches = objective._batches(generator(0))
    assert [len(part) for part in batches] == [2, 6, 6, 6] * 3 + [2]
    for first in (0, 4, 8):
        seen = torch.cat(batches[first : first + 4])
        assert sorted(seen.tolist()) == list(range(20))
    assert batches[0].tolist() != batches[4].tolist()
    whole = make("mtt", digits, shard, ipc=2, batch_syn=0)._batches(generator(0))
    assert all(sorted(part.tolist()) == list(range(20)) for part in whole)


@pytest.mark.parametrize("name", ["mtt", "iadd"])
@pytest.mark.parametrize("size", [1, 6, 7, 10, 20])
def test_batches_are_taken_from_the_end_as_in_the_public_code(name, size, digits, shard):
    """distill.py, lines 342 to 348: a permutation is cut from its start, pieces go from its end."""
    objective = make(name, digits, shard, ipc=2, student_steps=23, batch_syn=size)
    stream, expected, pieces = generator(3), [], []
    for _ in range(23):
        if not pieces:
            order = torch.randperm(20, generator=stream).tolist()
            while order:
                pieces.append(order[:size])
                order = order[size:]
        expected.append(pieces.pop())
    found = [part.tolist() for part in objective._batches(generator(3))]
    assert found == expected
    assert len(found[0]) == (20 % size or size)  # the rest comes first


def test_the_rate_stays_above_nothing(digits, shard):
    """However steep its slope; and the student can be trained with what remains."""
    objective = make("mtt", digits, shard)
    canvas = Pixels(objective.start(), objective.labels(), 1.0, objective.optimizer)
    objective.step_rate(1e9)
    assert float(objective.rate) == LEAST_RATE > 0
    assert 0.9 < objective.iteration(1, canvas)["loss"] < 1.1  # it stays where it starts
    assert objective.outcome(canvas).learned_lr >= LEAST_RATE


def test_a_rate_that_is_not_learned_stays(digits, shard):
    objective = make("mtt", digits, shard, lr_lr=0.0)
    canvas = Pixels(objective.start(), objective.labels(), 1.0, objective.optimizer)
    for number in (1, 2):
        objective.iteration(number, canvas)
    assert objective.outcome(canvas).learned_lr == 0.05


@pytest.mark.parametrize("gradient", [-1e9, math.nan, -math.inf])
def test_a_rate_that_runs_away_is_not_taken(gradient, digits, shard):
    objective = make("mtt", digits, shard)
    before = {name: value.clone() for name, value in objective.state().items()}
    with pytest.raises(Divergence, match=r"rate ran away from 0.05 to .*; try a smaller --lr-lr"):
        objective.step_rate(gradient)
    assert all(torch.equal(value, before[name]) for name, value in objective.state().items())
    objective.step_rate(-0.99 * (RUNAWAY - 1) * 0.05 / 1e-4)  # fast, but not away
    assert 4.9 < float(objective.rate) < 5.0


def test_differences_are_those_of_the_probes(digits, shard):
    """Root mean square over the probes, in units of the expert's movement; no stream moves."""
    objective = make("mtt", digits, shard, batch_syn=4)
    objective, canvas = in_double(objective)
    before = [stream.get_state() for stream in (objective.streams.host, objective.streams.network)]
    found = objective.outcome(canvas).extras
    assert found.keys() == {f"difference.{SPEC}", f"matching.{SPEC}"}
    after = [stream.get_state() for stream in (objective.streams.host, objective.streams.network)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    plain = Plain(objective, load_file(shard)["trajectories"].double())
    plain.images = canvas.images()
    stream, total = generator(3, "distill", "probe", SPEC), 0.0
    for _ in range(PROBES):
        start, target = plain.segment(stream)
        end = plain.student(start, plain.images, plain.rate, stream).detach()
        total = total + (end - target).square() / (start - target).square().mean()
    torch.testing.assert_close(found[f"difference.{SPEC}"], (total / PROBES).sqrt())


@pytest.mark.parametrize("mode", ["mtt", *WEIGHTS])
def test_losses_are_those_of_the_probes(mode, digits, shard):
    """Of the initial images with the initial rate and of those of now, under no W and under W."""
    name, changes = ("mtt", {}) if mode == "mtt" else ("iadd", {"weights": mode})
    rates = {} if mode == "mtt" else FAST | {"lr_softmax": 0.1, "lr_layer": 0.1}
    objective = make(name, digits, shard, lr_lr=0.01, **changes, **rates)
    objective, canvas = in_double(objective)
    plain = Plain(objective, load_file(shard)["trajectories"].double())
    before = canvas.images().clone(), float(objective.rate)
    first = objective.outcome(canvas).extras
    for number in (1, 2, 3):
        objective.iteration(number, canvas)
    found = objective.outcome(canvas).extras
    weights = found.get(f"importance.{SPEC}")
    assert (weights is not None) == (mode in LEARNED) == (f"weighted.{SPEC}" in found)

    def mean_loss(images, rate, weights):
        stream, total = generator(3, "distill", "probe", SPEC), 0.0
        for _ in range(PROBES):
            start, target = plain.segment(stream)
            apart = plain.student(start, images, rate, stream).detach() - target
            total += (weights * apart).square().sum() / (start - target).square().sum()
        return float(total / PROBES)

    now = canvas.images(), float(objective.rate)
    assert now[1] != before[1]
    expected = [mean_loss(*before, 1.0), mean_loss(*now, 1.0)]
    assert found[f"matching.{SPEC}"].tolist() == pytest.approx(expected, rel=1e-6)
    assert first[f"matching.{SPEC}"].tolist() == pytest.approx([expected[0]] * 2, rel=1e-6)
    if mode in LEARNED:
        expected = [mean_loss(*before, weights), mean_loss(*now, weights)]
        assert found[f"weighted.{SPEC}"].tolist() == pytest.approx(expected, rel=1e-6)
        assert found[f"weighted.{SPEC}"][0] < found[f"matching.{SPEC}"][0]


@pytest.mark.parametrize("mode", WEIGHTS)
def test_an_expert_that_does_not_move_is_named(mode, digits, shard, monkeypatch):
    objective = make("iadd", digits, shard, weights=mode)
    synthetic = Pixels(objective.start(), objective.labels(), 1.0, objective.optimizer)
    objective.iteration(1, synthetic)
    draw, before = objective.trajectories.draw, objective.learned[SPEC].clone()

    def still(*arguments):
        segment = draw(*arguments)
        return dataclasses.replace(segment, target=segment.start)

    monkeypatch.setattr(objective.trajectories, "draw", still)
    named = (
        "expert [01] of .* does not move from epoch [0-2] to [1-3], so there is nothing to match"
    )
    with pytest.raises(Divergence, match=named):
        objective.iteration(2, synthetic)
    assert torch.equal(objective.learned[SPEC], before)
    with pytest.raises(Divergence, match=named):  # before the first iteration: no infinite values
        objective.outcome(synthetic)


@pytest.mark.parametrize("mode", WEIGHTS)
def test_weights_are_not_blamed_for_a_student_that_ends_far_away(mode, digits, shard):
    """Squares of 1e30 are infinite in float32 under any weights; MTT's message follows."""
    objective = make("iadd", digits, shard, weights=mode)
    segment = objective.trajectories.draw(SPEC, 2, 3, 1, generator(0))
    value, _ = objective.compare(SPEC, segment.target * (1 + 1e-3) + 1e30, segment)
    assert not math.isfinite(value)
