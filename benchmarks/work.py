"""The work that is measured: rows, the pieces a row is composed of, and both sides of each.

A row that would take minutes (``dc`` at IPC 10, an evaluation) is composed: one piece of each kind
is measured and multiplied by how often it occurs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.plain import Plain
from dd import recipes
from dd.data.dataset import Dataset
from dd.networks import SingleSource, create
from dd.objectives import OBJECTIVES
from dd.objectives.base import Streams
from dd.parametrize.pixels import Pixels
from dd.rng import generator
from dd.settings import build
from dd.training import Recipe, accuracy, train

EVALUATION = build(
    Recipe, recipes.resolve_evaluation("dc", "cifar10", ipc=10), "the evaluation of dc"
)
NETWORKS = 10  # of an evaluation


@dataclass(frozen=True)
class Row:
    """A line of the result.

    Attributes:
        name, ipc: of the work.
        unit: what the seconds are of.
        pieces: how often each measured piece occurs in one unit.
    """

    name: str
    ipc: int
    unit: str
    pieces: dict[str, int]

    @property
    def key(self) -> str:
        return f"{self.name}-ipc{self.ipc}"


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
        Row(
            "evaluation",
            10,
            f"{NETWORKS} ConvNets, {EVALUATION.epochs} epochs",
            {"epoch of a network": NETWORKS * EVALUATION.epochs, "test of a network": NETWORKS},
        ),
    )
}

Piece = Callable[[], int]
"""Does the work once and says how many of the piece that was."""


def plain_pieces(row: Row, dataset: Dataset, epochs: int) -> dict[str, Piece]:
    """The plain side of ``row``; inner and training epochs are measured ``epochs`` at a time."""
    settings = _settings(row)
    work = Plain(
        dataset.train,
        dataset.test,
        len(dataset.classes),
        settings.get("augment", "none"),
        settings.get("lr_img", 0.1),
        settings.get("batch_real", 256),
    )
    images, optimizer = work.synthetic(row.ipc)
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


def suite_pieces(row: Row, dataset: Dataset, epochs: int) -> dict[str, Piece]:
    """The suite's side of ``row``, through the functions that its stages call."""
    settings = _settings(row)
    device = dataset.train.labels.device
    streams = Streams(0, generator(0, "host"), generator(0, "network", device=device), generator(0))
    shape = (dataset.channels, dataset.size, len(dataset.classes))
    labels = torch.arange(shape[2], device=device).repeat_interleave(row.ipc)
    noise = torch.randn((len(labels), shape[0], *shape[1]), generator=streams.start)
    canvas = Pixels(noise.to(device), labels, settings.get("lr_img", 0.1), 0.5)

    def networks(count: int) -> list[torch.nn.Module]:
        return [
            create("convnet", *shape, generator=generator(n), device=device) for n in range(count)
        ]

    def iteration() -> int:
        objective.iteration(1, canvas)
        return 1

    def inner_epoch() -> int:
        recipe = Recipe(
            epochs=epochs,
            lr=settings["lr_net"],
            momentum=0.0,
            weight_decay=0.0,
            batch=settings["batch_train"],
            augment=settings["augment"],
            schedule="constant",
        )
        train(trained, canvas.images(), labels, recipe, [streams.host])
        return epochs

    def epoch() -> int:
        recipe = dataclasses.replace(EVALUATION, epochs=epochs)
        count = NETWORKS if device.type == "cuda" else 1  # in turn on the CPU: one stands for all
        train(
            networks(count),
            canvas.images(),
            labels,
            recipe,
            [generator(n, "order") for n in range(count)],
        )
        return epochs * count

    def test() -> int:
        accuracy(trained[0], dataset.test)
        return 1

    trained = networks(1)
    pieces = {
        "inner epoch": inner_epoch,
        "epoch of a network": epoch,
        "test of a network": test,
    }
    if settings:
        cls = OBJECTIVES[row.name]
        once = {"outer": 1, "inner": 0} if "outer" in settings else {}
        source = SingleSource("convnet", *shape, device=device)
        chosen = build(cls.Settings, settings | once, row.name)
        objective = cls(chosen, dataset, row.ipc, source, streams)
        pieces |= {"matching step": iteration, "iteration": iteration}
    return pieces


SIDES = {"plain": plain_pieces, "suite": suite_pieces}


def _settings(row: Row) -> dict:
    """The recipe of the row's objective for CIFAR-10; an evaluation has none."""
    return recipes.resolve(row.name, "cifar10", row.ipc, {}) if row.name in OBJECTIVES else {}
