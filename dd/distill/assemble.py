"""A distillation put together from what was asked for: networks, images, parts and their facts.

What an objective needs is declared, by its class (``needs_trajectories``, ``needs_pretrained``,
``optimises``) and by the types of its settings (:mod:`dd.distill.objectives.base`). What was asked
for beyond it is an error: a file that nothing reads would look like one that had an effect.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from dd.config import recipes
from dd.config.methods import parse_part
from dd.config.settings import build
from dd.data.dataset import Dataset
from dd.distill.loop import DistillationLoop
from dd.distill.objectives import OBJECTIVES
from dd.distill.objectives.base import (
    NetworkSettings,
    Objective,
    OptimisingSettings,
    Settings,
    Streams,
)
from dd.distill.parametrisations import PARAMETRISATIONS, Parametrisation, Pixels, Still
from dd.distill.regularisers import REGULARISERS, Regularised
from dd.errors import DDError
from dd.networks.pool import load_pool
from dd.networks.source import NetworkSource, NoSource, PoolSource, SingleSource
from dd.pretrain.agreement import agreement
from dd.pretrain.frozen import Pretrained, load_all
from dd.pretrain.generators import Generator, load_generator
from dd.pretrain.trajectories import Trajectories
from dd.registry import Registry
from dd.rng import generator


@dataclasses.dataclass(frozen=True)
class Component:
    """A parametrisation or a regulariser, not made yet.

    Attributes:
        name: in its registry.
        make: its class.
        settings: an instance of the class's ``Settings``.
    """

    name: str
    make: type[Any]
    settings: Any

    def facts(self) -> dict[str, Any]:
        """Name and settings, for provenance."""
        return {"name": self.name, **dataclasses.asdict(self.settings)}


def assemble(
    arguments: argparse.Namespace,
    settings: Settings,
    dataset: Dataset,
    snapshots: list[int],
    device: torch.device,
) -> DistillationLoop:
    """The distillation that the options of ``python -m dd distill`` ask for, ready to run.

    Args:
        settings: of the objective.
        dataset: in the space that the settings name, on ``device``.
        snapshots: iterations to save at, ascending.

    Raises:
        DDError: if something is missing, does not fit or would be of no use.
    """
    objective_class = OBJECTIVES[arguments.objective]
    _check_enough_images(settings, arguments.ipc, dataset)
    parametrisation = _component("parametrisation", PARAMETRISATIONS, arguments, dataset.name)
    regulariser = _component("regulariser", REGULARISERS, arguments, dataset.name)
    own = _own_recipes(arguments, dataset.name)
    pretrained = load_all(arguments.pretrained, dataset, arguments.width_factor, device)
    # Pretrained networks serve two ends: the objective draws from them, or a regulariser looks
    # through them while the objective still draws fresh ones.
    drawn = pretrained if objective_class.needs_pretrained else None
    networks = _network_source(arguments, settings, dataset, device, drawn)
    auxiliary = regulariser.make.needs(regulariser.settings) if regulariser else []
    _check_pretrained(pretrained, {*auxiliary, *(networks.specs() if drawn is not None else [])})
    trajectories = _trajectories(objective_class, arguments, dataset, device)
    prior = _prior(parametrisation, arguments, dataset, device)
    # What identifies the distillation. A checkpoint goes on only under the same facts: whatever
    # changes an image must be among them, what may differ between two starts (paths, seconds) not.
    facts = {
        "dataset": dataset.name,
        "dataset_label": dataset.label,
        "fingerprint": dataset.fingerprint,
        "objective": arguments.objective,
        "ipc": arguments.ipc,
        "seed": arguments.seed,
        "networks": networks.describe(),
        "seen": list(dict.fromkeys([*networks.specs(), *auxiliary])),
        "width_factor": arguments.width_factor,
        "settings": dataclasses.asdict(settings),
        "recipe": own,
        "snapshots": snapshots,
        "device": device.type,
    }
    if pretrained:
        facts["pretrained"] = {name: one.describe() for name, one in pretrained.items()}
    if trajectories:
        facts["buffers"] = trajectories.describe()
    if parametrisation and prior:
        facts["parametrisation"] = {**parametrisation.facts(), "generator": prior.describe()}
    if regulariser:
        facts["regulariser"] = regulariser.facts()
    streams = _streams(arguments.seed, device)
    objective = objective_class(settings, dataset, arguments.ipc, networks, streams, trajectories)

    # Made by the loop, not here: an objective's start may train a network for minutes, which should
    # happen when nobody else is at the folder.
    def make_canvas() -> Parametrisation:
        start, labels = objective.start(), objective.labels()
        if not isinstance(settings, OptimisingSettings):
            return Still(start, labels)
        if parametrisation:
            canvas = parametrisation.make(
                prior, start, labels, parametrisation.settings, objective.optimizer, streams.start
            )
        else:
            canvas = Pixels(start, labels, settings.lr_img, objective.optimizer)
        if regulariser:
            frozen = {name: pretrained[name].network for name in auxiliary}
            loss = regulariser.make(regulariser.settings, frozen, streams.regulariser)
            canvas = Regularised(canvas, loss)
        return canvas

    every = arguments.checkpoint_every
    return DistillationLoop(objective, make_canvas, arguments.out, snapshots, facts, every)


def _streams(seed: int, device: torch.device) -> Streams:
    """One random stream an end, so that a draw more for one end moves no other."""
    return Streams(
        seed=seed,
        host=generator(seed, "distill", "host"),
        network=generator(seed, "distill", "network", device=device),
        start=generator(seed, "distill", "start"),
        regulariser=generator(seed, "distill", "regulariser"),
    )


def _check_enough_images(settings: Settings, ipc: int, dataset: Dataset) -> None:
    """Raise a :class:`DDError` if the set is to start from more real images than a class has."""
    if isinstance(settings, OptimisingSettings) and settings.init == "noise":
        return
    smallest = min(range(len(dataset.classes)), key=lambda k: len(dataset.train.by_class[k]))
    count = len(dataset.train.by_class[smallest])
    if ipc > count:
        raise DDError(
            f"--ipc is {ipc}, but class '{dataset.classes[smallest]}' of {dataset.name} "
            f"has {count} training images"
        )


def _component(
    kind: str, registry: Registry[type[Any]], arguments: argparse.Namespace, dataset: str
) -> Component | None:
    """What ``--parametrisation`` or ``--regulariser`` (the ``kind``) names, if it does."""
    text = vars(arguments)[kind]
    if text is None:
        return None
    if not OBJECTIVES[arguments.objective].optimises:
        raise DDError(f"--{kind}: {arguments.objective} optimises nothing; leave it out")
    make = registry[text.partition("@")[0]]  # first: it knows the nearest name of its own kind
    part = parse_part(text, arguments.objective)
    values = recipes.resolve_part(
        part.name, arguments.objective, dataset, arguments.ipc, part.settings
    )
    return Component(part.name, make, build(make.Settings, values, part.name))


def _own_recipes(arguments: argparse.Namespace, dataset: str) -> dict[str, str]:
    """By objective, parametrisation and regulariser: ``own``, or whose settings stand in for those
    that its recipe does not have for the dataset and IPC; that is printed, too."""
    chosen = (arguments.objective, arguments.parametrisation, arguments.regulariser)
    said = {}
    for name in (text.partition("@")[0] for text in chosen if text):
        taken = recipes.fallback(name, dataset, arguments.ipc)
        said[name] = taken.takes if taken else "own"
        if taken:
            where = f"{dataset} at IPC {arguments.ipc}" if taken.of_ipc else dataset
            print(f"distill: {taken.said(name, where)}")
    return said


def _network_source(
    arguments: argparse.Namespace,
    settings: Settings,
    dataset: Dataset,
    device: torch.device,
    pretrained: Mapping[str, Pretrained] | None,
) -> NetworkSource:
    """Where the objective's networks come from; ``pretrained`` ones where it draws those."""
    pool: Path | None = arguments.pool
    if not isinstance(settings, NetworkSettings):
        if pool:
            raise DDError(f"--pool: {arguments.objective} uses no network; leave it out")
        return NoSource()
    shape = (dataset.channels, dataset.size, len(dataset.classes))
    trained = None
    if pretrained is not None:
        trained = {name: one.network for name, one in pretrained.items()}
    scale = {"width_factor": arguments.width_factor, "device": device, "trained": trained}
    if pool:
        return PoolSource(load_pool(pool), *shape, **scale)
    return SingleSource(settings.network, *shape, **scale)


def _check_pretrained(given: Iterable[str], used: set[str]) -> None:
    """Raise a :class:`DDError` unless the pretrained networks ``given`` are those ``used``."""
    for name in sorted(used ^ set(given)):
        if name in used:
            raise DDError(f"--pretrained: a {name} is needed; make it by `python -m dd pretrain`")
        raise DDError(f"--pretrained: nothing here uses {name}; leave it out")


def _trajectories(
    objective: type[Objective],
    arguments: argparse.Namespace,
    dataset: Dataset,
    device: torch.device,
) -> Trajectories | None:
    """Those of experts, if the ``objective`` matches any."""
    if not objective.needs_trajectories:
        if arguments.buffers:
            raise DDError(f"--buffers: {arguments.objective} matches no trajectories; leave it out")
        return None
    if not arguments.buffers:
        raise DDError(f"--buffers: {arguments.objective} needs shards of `python -m dd buffer`")
    return Trajectories(arguments.buffers, agreement(dataset, arguments.width_factor), device)


def _prior(
    parametrisation: Component | None,
    arguments: argparse.Namespace,
    dataset: Dataset,
    device: torch.device,
) -> Generator | None:
    """The generator that a parametrisation decodes by, if there is one."""
    if not parametrisation:
        if arguments.generator or arguments.adapter:
            raise DDError("--generator and --adapter belong to --parametrisation; leave them out")
        return None
    if arguments.generator is None:
        raise DDError(
            f"--generator: {arguments.parametrisation} needs one; make it by "
            "`python -m dd generator`"
        )
    layer = parametrisation.settings.layer
    return load_generator(arguments.generator, dataset, device, arguments.adapter, layer)
