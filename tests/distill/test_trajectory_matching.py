"""MTT and IADD against their algorithms written out, with one graph of all student steps."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch.func import functional_call

from dd.__main__ import main
from dd.artifacts.headers import read_header
from dd.artifacts.tensors import load_tensors, save_tensors
from dd.config import recipes
from dd.config.settings import build
from dd.data import augment, synthetic
from dd.distill.objectives import OBJECTIVES
from dd.distill.objectives.base import Streams
from dd.distill.objectives.iadd import WEIGHTS
from dd.distill.objectives.mtt import LEAST_RATE, PROBES, RUNAWAY
from dd.distill.parametrisations.pixels import Pixels
from dd.errors import Divergence
from dd.networks.build import create
from dd.networks.source import SingleSource
from dd.pretrain.agreement import agreement
from dd.pretrain.trajectories import Trajectories
from dd.report.read.vectors import load_extras
from dd.rng import generator

SPEC, PARAMETERS = "convnet:depth=2,width=8", 1026
LEARNED = ("raw", "normalised", "layer")
FAST = {"lr_weights": 100.0, "lr_softmax": 1.0, "lr_layer": 1.0}
# Biases before instance norm, of which neither student nor expert has a gradient.
INERT = ("body.0.bias", "body.4.bias")
SMALL = {
    "experts": 2, "student_steps": 4, "expert_epochs": 1, "max_start_epoch": 3, "lr_student": 0.05,
    "lr_img": 1.0, "lr_lr": 1e-4,
}  # fmt: skip


@pytest.fixture(scope="module")
def shard(digits_file, tmp_path_factory):
    """Trajectories of two experts over three epochs in which they get somewhere."""
    return made(digits_file, tmp_path_factory.mktemp("buffers") / "shard0.safetensors")


def made(data, path, network=SPEC, **changes):
    """A buffer of two experts."""
    options = {"experts": 2, "epochs": 3, "lr": 0.05, "batch": 128} | changes
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    where = ["--data", str(data), "--out", str(path), "--network", network]
    assert main(["buffer", *where, *words, "--device", "cpu", "--threads", "1"]) == 0
    return path


def make(name, dataset, shard, ipc=1, **changes):
    """The objective ``name`` with small settings."""
    chosen = OBJECTIVES[name]
    values = recipes.resolve(name, dataset.name, ipc, SMALL | changes)
    parts = ("host", "network", "start", "regulariser")
    streams = Streams(3, *(generator(3, part) for part in parts))
    source = SingleSource(SPEC, dataset.channels, dataset.size, len(dataset.classes))
    trajectories = Trajectories([shard], agreement(dataset, 1.0), torch.device("cpu"))
    settings = build(chosen.Settings, values, name)
    return chosen(settings, dataset, ipc, source, streams, trajectories)


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
            batches += order.split(self.s.batch_syn or len(images))
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
    assert [len(part) for part in batches] == [6, 6, 6, 2] * 3 + [6]
    for first in (0, 4, 8):
        seen = torch.cat(batches[first : first + 4])
        assert sorted(seen.tolist()) == list(range(20))
    assert batches[0].tolist() != batches[4].tolist()
    whole = make("mtt", digits, shard, ipc=2, batch_syn=0)._batches(generator(0))
    assert all(sorted(part.tolist()) == list(range(20)) for part in whole)


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


# Through the command line.


def distill(data, shards, out, objective="mtt", **changes):
    """The command of a small distillation."""
    options = {"network": SPEC, "ipc": 1, "objective": objective, "threads": 1, "device": "cpu"}
    options |= SMALL | changes
    words = []
    for name, value in options.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    buffers = ["--buffers", *map(str, shards)] if shards else []
    return ["distill", "--data", str(data), "--out", str(out), *buffers, *words]


def metrics(out, *dropped):
    lines = (out / "metrics.jsonl").read_text().splitlines()
    dropped = {"seconds", *dropped}
    return [{k: v for k, v in json.loads(line).items() if k not in dropped} for line in lines]


def test_without_weights_iadd_is_mtt(digits_file, shard, tmp_path):
    """All that a short run makes has the same bytes."""
    common = {"snapshots": [0, 2, 5], "batch_syn": 4}
    given = {"mtt": {}, "iadd": {"weights": "none"}}
    for name, changes in given.items():
        command = distill(digits_file, [shard], tmp_path / name, name, **common, **changes)
        assert main(command) == 0
    for n in common["snapshots"]:
        ours, theirs = (
            load_tensors(tmp_path / name / f"it{n}.safetensors", "synthetic")[0] for name in given
        )
        assert ours.keys() == theirs.keys() and "learned_lr" in ours
        assert all(ours[name].numpy().tobytes() == theirs[name].numpy().tobytes() for name in ours)
    mtt = metrics(tmp_path / "mtt")
    assert mtt == metrics(tmp_path / "iadd", "weight_low", "weight_high")
    assert len(mtt) == 5 and len({row["loss"] for row in mtt}) == 5
    assert all(row["expert"] in (0, 1) and row["start_epoch"] in (0, 1, 2) for row in mtt)


def test_weights_make_a_difference(digits_file, shard, tmp_path):
    """Each mode goes its own way, and those with learned weights keep them in the set."""
    found = {}
    for mode in WEIGHTS:
        options = {"weights": mode, "snapshots": [3], **FAST}
        command = distill(digits_file, [shard], tmp_path / mode, "iadd", **options)
        assert main(command) == 0
        path = tmp_path / mode / "it3.safetensors"
        found[mode] = synthetic.load(path).images.numpy().tobytes()
        assert bool(load_extras(path, "importance")) == (mode in LEARNED)
        assert load_extras(path, "difference")[SPEC].shape == (PARAMETERS,)
    assert len(set(found.values())) == len(WEIGHTS)


@pytest.mark.parametrize(
    ("changes", "words", "iteration", "cure"),
    [
        # a rate far too small is to grow, and grows at once
        ({"lr_student": 1e-5, "lr_lr": 1e6}, ("rate ran away from 1e-05 to",), 1, {"lr_lr": 1e-9}),
        ({"lr_student": 1e30}, ("the loss is", "smaller --lr-img or --lr-student"), 1,
         {"lr_student": 0.01}),
        ({"lr_img": 1e30, "lr_lr": 0.0}, ("the loss is", "smaller --lr-img"), 2, {"lr_img": 1.0}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("objective", ["mtt", "iadd"])
def test_divergence_is_told_and_can_be_retried(
    objective, changes, words, iteration, cure, digits_file, shard, tmp_path, capsys
):
    out, common = tmp_path / "out", {"snapshots": [0, 4], "augment": "none"}
    assert main(distill(digits_file, [shard], out, objective, **common | changes)) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith(f"error: {out}: diverged")
    last = out / f"last-it{iteration - 1}.safetensors"
    settings = [f"{name}={value}" for name, value in changes.items()]
    for word in (*words, *settings, f"iteration {iteration}:", "student_steps=4", str(last)):
        assert word in said
    kept = synthetic.load(last)
    assert kept.header["iteration"] == iteration - 1 and kept.images.isfinite().all()
    if iteration == 1:  # nothing has moved yet
        first = synthetic.load(out / ".checkpoint" / "it0.safetensors")
        assert torch.equal(kept.images, first.images) and kept.learned_lr == first.learned_lr
    extras = load_extras(last, "importance")
    assert bool(extras) == (objective == "iadd")
    assert all(numpy.isfinite(values).all() for values in extras.values())
    retried = common | changes | cure
    assert main(distill(digits_file, [shard], out, objective, **retried)) == 0
    assert synthetic.load(out / "it4.safetensors").learned_lr > 0


@pytest.mark.parametrize(
    ("mode", "rate"), [("raw", "lr_weights"), ("normalised", "lr_softmax"), ("layer", "lr_layer")]
)
def test_weights_that_run_away_are_told(mode, rate, digits_file, shard, tmp_path, capsys):
    command = {"weights": mode, "snapshots": [6]}
    given = distill(digits_file, [shard], tmp_path, "iadd", **command, **{rate: 3e38})
    assert main(given) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{tmp_path}: diverged at iteration" in said
    assert "the weights ran away (from " in said and f"smaller --{rate.replace('_', '-')}" in said
    given = distill(digits_file, [shard], tmp_path, "iadd", **command, **{rate: 1e-3})
    assert main(given) == 0


@pytest.fixture(scope="module")
def zca(tmp_path_factory):
    """Digits with a whitening, and a buffer in its space."""
    folder = tmp_path_factory.mktemp("zca")
    data = folder / "digits.safetensors"
    assert main(["prepare", "--source", "digits", "--zca", "--out", str(data)]) == 0
    return data, made(data, folder / "shard.safetensors", whitening="zca")


def test_whitened(zca, tmp_path):
    data, shard = zca
    assert main(distill(data, [shard], tmp_path, whitening="zca", snapshots=[2])) == 0
    assert synthetic.load(tmp_path / "it2.safetensors").whitening == "zca"


@pytest.fixture(scope="module")
def pool(digits_file, tmp_path_factory):
    """A pool of the buffered ConvNet and an MLP, and a buffer of that MLP."""
    folder = tmp_path_factory.mktemp("pool")
    (folder / "pool.yaml").write_text(
        f"title: two\nmain: '{SPEC}'\nprobability: 0.5\nothers: ['mlp:width=8']\n"
    )
    return folder / "pool.yaml", made(digits_file, folder / "mlp.safetensors", "mlp:width=8")


def test_a_pool_matches_the_experts_of_all_its_networks(pool, digits_file, shard, tmp_path, capsys):
    definition, other = pool
    options = {"snapshots": [8], "weights": "layer", "pool": definition}

    def command(shards, out):
        words = distill(digits_file, shards, out, "iadd", **options)
        at = words.index("--network")
        return words[:at] + words[at + 2 :]

    assert main(command([shard, other], tmp_path / "both")) == 0
    assert {row["network"] for row in metrics(tmp_path / "both")} == {SPEC, "mlp:width=8"}
    path = tmp_path / "both" / "it8.safetensors"
    assert load_extras(path, "importance").keys() == {SPEC, "mlp:width=8"}
    assert main(command([shard], tmp_path / "one")) == 2
    said = capsys.readouterr().err
    assert f"trajectories of mlp:width=8 are needed, those given are of {SPEC}" in said


# What is refused: the buffers given, changes of the command, and words of the message.
REFUSED = {
    "none": ([], {}, ["--buffers", "mtt needs shards", "python -m dd buffer"]),
    "none for iadd": ([], {"objective": "iadd"}, ["--buffers", "iadd needs shards"]),
    "not matched": (
        ["shard"], {"objective": "dm"}, ["--buffers", "dm matches no trajectories", "leave it out"],
    ),
    "selection": (["shard"], {"objective": "random"}, ["random matches no trajectories"]),
    "missing": (["absent"], {}, ["absent.safetensors", "no such file"]),
    "dataset file": (["data"], {}, ["is a dataset file", "trajectories is needed"]),
    "network": (
        ["shard"], {"network": "mlp"}, ["trajectories of mlp are needed", f"given are of {SPEC}"],
    ),
    "width": (
        ["shard"], {"width_factor": 0.5},
        ["shard0.safetensors", "width factor of the buffer is 1.0", "distillation 0.5"],
    ),
    "whitening": (
        ["whitened"], {}, ["contents of the dataset of the buffer is", "-zca", "of this"],
    ),
    "contents": (["other"], {}, ["other.safetensors", "contents of the dataset of the buffer is"]),
    "experts": (["shard"], {"experts": 3}, ["hold 2 experts", "the setting experts asks for 3"]),
    "epochs": (
        ["shard"], {"expert_epochs": 2}, ["has 3 epochs", "max_start_epoch", "ask for 4"],
    ),
    "twice": (["shard", "shard"], {}, ["shard0.safetensors", "is given twice"]),
    "copy": (["shard", "copy"], {}, ["copy.safetensors", "holds expert 0, as", "shard0"]),
    "batch": (
        ["shard"], {"batch_syn": 11}, ["batch_syn is 11", "has 10 images", "0 takes all"],
    ),
    "mode": (["shard"], {"objective": "iadd", "weights": "norm"}, ["weights of iadd 'norm'"]),
    "rate": (["shard"], {"lr_student": 0}, ["lr_student is 0.0", "above 0"]),
    "steps": (["shard"], {"student_steps": 0}, ["student_steps is 0", "at least 1"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(
    case, digits_file, shard, zca, tmp_path, tmp_path_factory, capsys
):
    given, changes, words = REFUSED[case]
    files = {"shard": shard, "data": digits_file, "whitened": zca[1]}
    if "other" in given:  # the same name, other contents: one image changed
        tensors, header = load_tensors(digits_file, "dataset")
        files["other"] = other_contents(tensors, header, tmp_path_factory.mktemp("other"))
    if "copy" in given:
        files["copy"] = tmp_path_factory.mktemp("copy") / "copy.safetensors"
        files["copy"].write_bytes(shard.read_bytes())
    shards = [files.get(name, tmp_path / f"{name}.safetensors") for name in given]
    out = tmp_path / "out"
    options = {"objective": "mtt"} | changes
    capsys.readouterr()
    command = distill(digits_file, shards, out, **options)
    if options["objective"] in ("dm", "random"):  # they have none of these settings
        command = command[: command.index("--experts")]
    if options["objective"] == "random":  # nor a network
        at = command.index("--network")
        del command[at : at + 2]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    for word in words:
        assert word in said
    assert not out.exists()


def other_contents(tensors, header, folder):
    """A buffer made with digits of which one pixel is another."""
    tensors["train_images"][0, 0, 0, 0] += 1
    data = folder / "digits.safetensors"
    save_tensors(data, "dataset", tensors, {k: header[k] for k in ("name", "label", "classes")})
    return made(data, folder / "other.safetensors")


def test_what_was_matched_is_in_the_provenance(digits_file, shard, tmp_path):
    assert main(distill(digits_file, [shard], tmp_path, snapshots=[1])) == 0
    buffers = read_header(tmp_path / "it1.safetensors")["buffers"]
    (held,) = buffers[SPEC]
    assert held["experts"] == [0, 1] and held["seed"] == 0
    assert held["settings"] == read_header(shard)["settings"]
