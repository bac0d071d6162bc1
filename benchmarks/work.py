"""The work that is measured: rows, the pieces of a row, and both sides of each piece.

A row that would take minutes (``dc`` at IPC 10, an evaluation, an epoch of an expert) is not run in
full. One piece of each kind is measured, and its time is multiplied by how often it occurs.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.plain import BATCH, Plain
from benchmarks.whole import WholeMatching
from dd.config import recipes
from dd.config.settings import build
from dd.data.dataset import Dataset
from dd.distill.objectives import OBJECTIVES
from dd.distill.objectives.base import Objective, Streams
from dd.distill.parametrisations.pixels import Pixels
from dd.networks.build import create
from dd.networks.flat import parameters_of
from dd.networks.source import SingleSource
from dd.pretrain import buffer
from dd.pretrain.agreement import agreement
from dd.pretrain.trajectories import ShardWriter, Trajectories, layout
from dd.rng import generator
from dd.runtime import precision
from dd.runtime.stacking import stacks
from dd.training.ensemble import ensemble
from dd.training.recipe import Recipe
from dd.training.train import accuracy, augmented, train, train_epoch

EVALUATION = build(
    Recipe, recipes.resolve_evaluation("dc", "cifar10", ipc=10), "the evaluation of dc"
)
BUFFER = build(buffer.Settings, recipes.resolve_training("buffer", "cifar10"), "the buffer")
NETWORKS = 10  # networks of an evaluation, and of a shard
IMAGES = 50_000  # images of CIFAR-10's training split
EXPERT_PIECE = f"batch of {BATCH} images"
MOVE = 1e-3  # standard deviation of a parameter's step in an artificial trajectory
STEPS = (10, 20, 50, 100)  # steps of the student, one value for each row of UNROLLED


@dataclass(frozen=True)
class Row:
    """A line of the result.

    Attributes:
        name, ipc: the work and its IPC; None without a synthetic set.
        unit: the work for which seconds are given.
        pieces: how often each measured piece occurs in one unit.
        changes: settings of the objective that differ from its recipe for CIFAR-10.
    """

    name: str
    ipc: int | None
    unit: str
    pieces: dict[str, float]
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        parts = [self.name] if self.ipc is None else [self.name, f"ipc{self.ipc}"]
        return "-".join(parts + [f"{name}={value}" for name, value in self.changes.items()])


_LOOPS = {"matching step": 10, "inner epoch": 9 * 50}
ROWS = {
    row.key: row
    for row in (
        Row("dc", 1, "iteration", {"matching step": 1}),
        Row("dc", 10, "iteration", _LOOPS),
        Row("dsa", 1, "iteration", {"matching step": 1}),
        Row("dsa", 10, "iteration", _LOOPS),
        Row("dm", 1, "iteration", {"iteration": 1}),
        Row("dm", 10, "iteration", {"iteration": 1}),
        Row("mtt", 1, "iteration", {"iteration": 1}),
        Row("mtt", 10, "iteration", {"iteration": 1}),
        Row("buffer", None, "expert-epoch", {EXPERT_PIECE: IMAGES / BATCH}),
        Row(
            "evaluation",
            10,
            f"{NETWORKS} ConvNets, {EVALUATION.epochs} epochs",
            {"epoch of a network": NETWORKS * EVALUATION.epochs, "test of a network": NETWORKS},
        ),
    )
}

MEMORY = 3.4e9  # bytes; MTT and DD keep graphs in it

UNROLLED = [Row("mtt", 1, "iteration", {"iteration": 1}, {"student_steps": n}) for n in STEPS]
UNROLLED += [Row("dd", 1, "iteration", {"iteration": 1}, {"student_epochs": n}) for n in STEPS]

Piece = Callable[[], int]
"""Does the work once and returns the number of units of the piece that it did."""


def plain_pieces(row: Row, dataset: Dataset, epochs: int) -> dict[str, Piece]:
    """The plain side of ``row``.

    Inner epochs and training epochs are measured ``epochs`` at a time, batches of an expert's epoch
    twice as many at a time.
    """
    settings = _settings(row)
    work = Plain(
        dataset.train,
        dataset.test,
        len(dataset.classes),
        settings.get("augment", "none"),
        settings.get("lr_img", 0.1),
        settings.get("batch_real", 256),
    )
    if row.name == "buffer":
        return _plain_experts(work, _batches(dataset, epochs))
    images, optimizer = work.synthetic(row.ipc)
    if row.name == "mtt":
        return _plain_matching(settings, work, images, optimizer)
    trained = work.network()

    def matching_step() -> int:
        work.dc(images, optimizer, work.network())
        return 1

    def iteration() -> int:
        work.dm(images, optimizer, work.network())
        return 1

    def inner_epoch() -> int:
        sgd = torch.optim.SGD(trained.parameters(), lr=settings["lr_net"])
        work.train(trained, work.loader(images), sgd, epochs)
        return epochs

    def epoch() -> int:
        network = work.network()
        sgd = torch.optim.SGD(
            network.parameters(),
            lr=EVALUATION.lr,
            momentum=EVALUATION.momentum,
            weight_decay=EVALUATION.weight_decay,
        )
        work.train(network, work.loader(images), sgd, epochs)
        return epochs

    def test() -> int:
        work.accuracy(trained)
        return 1

    return {
        "matching step": matching_step,
        "iteration": iteration,
        "inner epoch": inner_epoch,
        "epoch of a network": epoch,
        "test of a network": test,
    }


def _plain_matching(
    settings: dict[str, Any], work: Plain, images: torch.Tensor, optimizer: torch.optim.Optimizer
) -> dict[str, Piece]:
    network = work.network()
    start = parameters_of(network)
    target = start + MOVE * torch.randn(len(start), generator=work.generator).to(start)
    rate = torch.tensor(settings["lr_student"], device=work.device).requires_grad_(True)
    optimizers = optimizer, torch.optim.SGD([rate], settings["lr_lr"], settings["momentum_lr"])

    def iteration() -> int:
        work.mtt(images, rate, optimizers, network, start, target, settings["student_steps"])
        return 1

    return {"iteration": iteration}


def _plain_experts(work: Plain, count: int) -> dict[str, Piece]:
    network, loader = work.network(), work.real_loader()
    sgd = torch.optim.SGD(network.parameters(), lr=BUFFER.lr)

    def batches() -> int:
        work.train(network, itertools.islice(loader, count), sgd, 1)
        return count

    return {EXPERT_PIECE: batches}


def _batches(dataset: Dataset, epochs: int) -> int:
    """The number of batches of an expert's epoch that are measured at a time."""
    return min(2 * epochs, math.ceil(len(dataset.train) / BATCH))


def bound(
    row: Row,
    dataset: Dataset,
    objective: type[Objective] | None = None,
    memory: float = MEMORY,
) -> tuple[Objective, Pixels]:
    """The objective of ``row`` (or the given class), made as a stage makes it, and noise images.

    It has one matching step per iteration, and it optimises the noise images.
    """
    settings = _settings(row)
    objective = objective or OBJECTIVES[row.name]
    device = dataset.train.labels.device
    streams = Streams(
        seed=0,
        host=generator(0, "host"),
        network=generator(0, "network", device=device),
        start=generator(0, "start"),
        regulariser=generator(0, "regulariser"),
    )
    trajectories = None
    if objective.needs_trajectories:
        trajectories = made_trajectories(dataset, settings["expert_epochs"])
        settings |= {"experts": 1, "max_start_epoch": 1}
    if "outer" in settings:
        settings |= {"outer": 1, "inner": 0}
    shape = (dataset.channels, dataset.size, len(dataset.classes))
    source = SingleSource("convnet", *shape, device=device)
    chosen = build(objective.Settings, settings, row.name)
    made = objective(chosen, dataset, row.ipc, source, streams, trajectories, memory)
    return made, _canvas(row, dataset)


def _canvas(row: Row, dataset: Dataset) -> Pixels:
    """Noise images of all classes, and their optimiser."""
    settings, device = _settings(row), dataset.train.labels.device
    labels = torch.arange(len(dataset.classes), device=device).repeat_interleave(row.ipc)
    shape = (len(labels), dataset.channels, *dataset.size)
    noise = torch.randn(shape, generator=generator(0, "noise"))

    def optimise(groups: list[dict]) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, momentum=0.5)

    return Pixels(noise.to(device), labels, settings.get("lr_img", 0.1), optimise)


def made_trajectories(dataset: Dataset, epochs: int) -> Trajectories:
    """A shard with one ConvNet and random steps. Speed does not depend on the trajectory."""
    shape = (dataset.channels, dataset.size, len(dataset.classes))
    network, stream = create("convnet", *shape, generator=generator(0)), generator(0, "moves")
    parameters = parameters_of(network)
    facts = agreement(dataset, 1.0) | {"network": "convnet", "seed": 0, "settings": {}}
    facts |= {"layout": layout(network)}
    with tempfile.TemporaryDirectory() as folder:  # an open file can still be read when removed
        path = Path(folder) / "shard.safetensors"
        writer = ShardWriter(path, (1, epochs + 1, len(parameters)), "float32", facts)
        for epoch in range(epochs + 1):
            writer.write(0, epoch, parameters)
            parameters = parameters + MOVE * torch.randn(len(parameters), generator=stream)
        writer.finish(facts | {"experts": [{"number": 0}]})
        return Trajectories([path], agreement(dataset, 1.0), dataset.train.labels.device)


def suite_pieces(
    row: Row,
    dataset: Dataset,
    epochs: int,
    objective: type[Objective] | None = None,
    computing: str = precision.FLOAT32,
    memory: float = MEMORY,
) -> dict[str, Piece]:
    """The suite's side of ``row``, by the functions that its stages call, or with ``objective``.

    From now on this process computes in the precision ``computing``. An objective that is faster
    with more memory may use ``memory`` bytes.
    """
    precision.choose(computing, dataset.train.labels.device)
    if row.name == "buffer":
        return _suite_experts(dataset, _batches(dataset, epochs))
    trained, orders = _networks(dataset, 1)
    if row.name in OBJECTIVES:
        matching, canvas = bound(row, dataset, objective, memory)
    else:
        canvas = _canvas(row, dataset)

    def iteration() -> int:
        matching.iteration(1, canvas)
        return 1

    def inner_epoch() -> int:
        settings = _settings(row)
        recipe = Recipe(
            epochs=epochs,
            lr=settings["lr_net"],
            momentum=0.0,
            weight_decay=0.0,
            batch=settings["batch_train"],
            augment=settings["augment"],
            schedule="constant",
        )
        train(trained, canvas.images(), canvas.labels, recipe, orders)
        return epochs

    def epoch() -> int:
        recipe = dataclasses.replace(EVALUATION, epochs=epochs)
        images = canvas.images()
        count = _side_by_side(dataset, min(EVALUATION.batch, len(images)))
        networks, streams = _networks(dataset, count)
        train(networks, images, canvas.labels, recipe, streams, together=count > 1)
        return epochs * len(networks)

    def test() -> int:
        accuracy(trained[0], dataset.test)
        return 1

    return {
        "matching step": iteration,
        "iteration": iteration,
        "inner epoch": inner_epoch,
        "epoch of a network": epoch,
        "test of a network": test,
    }


def _suite_experts(dataset: Dataset, count: int) -> dict[str, Piece]:
    split = dataset.train.resident()
    networks, orders = _networks(dataset, _side_by_side(dataset, BATCH))
    experts = ensemble(networks)
    sgd = BUFFER.new_optimizer(experts.parameters)
    feed = augmented(split, BUFFER.augment)

    def batches() -> int:
        train_epoch(
            experts,
            sgd,
            dataclasses.replace(feed, count=min(count * BATCH, len(split))),
            split.labels,
            BUFFER,
            orders,
        )
        return count * len(networks)

    return {EXPERT_PIECE: batches}


def _side_by_side(dataset: Dataset, images: int) -> int:
    """The number of networks that are trained at once, on ``images`` a step.

    Where they are trained one after the other, it is enough to measure one.
    """
    kind = dataset.train.labels.device.type
    return NETWORKS if stacks(None, kind, images, dataset.size) else 1


def _networks(dataset: Dataset, count: int) -> tuple[list[torch.nn.Module], list[torch.Generator]]:
    """New ConvNets, and for each a random stream for the order of its images."""
    shape = (dataset.channels, dataset.size, len(dataset.classes))
    device = dataset.train.labels.device
    networks = [
        create("convnet", *shape, generator=generator(n), device=device) for n in range(count)
    ]
    return networks, [generator(n, "order") for n in range(count)]


def _plain_in_float32(row: Row, dataset: Dataset, epochs: int) -> dict[str, Piece]:
    """The plain side without TF32, which torch lets the convolutions of a GPU take."""
    precision.choose(precision.FLOAT32, dataset.train.labels.device)
    return plain_pieces(row, dataset, epochs)


SIDES = {
    "plain": plain_pieces,
    "plain_float32": _plain_in_float32,
    "suite": suite_pieces,
    "flat": partial(suite_pieces, memory=0.0),
    "whole": partial(suite_pieces, objective=WholeMatching),
    "every": partial(suite_pieces, memory=1e15),
    "bf16": partial(suite_pieces, computing=precision.BF16),
    "tf32": partial(suite_pieces, computing=precision.TF32),
}


def _settings(row: Row) -> dict[str, Any]:
    """The settings of the row for CIFAR-10; empty for an evaluation, which has its own recipe."""
    if row.name == "buffer":
        return dataclasses.asdict(BUFFER)
    if row.name not in OBJECTIVES:
        return {}
    return recipes.resolve(row.name, "cifar10", row.ipc, row.changes)
