"""Assemble a distillation from the options of the command: networks, images, parts and facts.

The class of an objective declares what it needs (``needs_trajectories``, ``needs_pretrained``,
``optimises``), and so do the types of its settings (:mod:`dd.distill.objectives.base`). An option
that the objective has no use for is an error: otherwise a file that nothing reads would seem to
have an effect.
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
from dd.contracts import owner, within
from dd.data.dataset import Dataset
from dd.data.raw import check_enough
from dd.distill.loop import DistillationLoop
from dd.distill.objectives import OBJECTIVES
from dd.distill.objectives.base import (
    NetworkSettings,
    Objective,
    OptimisingSettings,
    Settings,
    Streams,
)
from dd.distill.parametrisations import (
    PARAMETRISATIONS,
    Labelled,
    Parametrisation,
    Pixels,
    Still,
    check_parametrisation,
)
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
from dd.runtime import precision
from dd.runtime.process import usable_memory
from dd.runtime.say import say


@dataclasses.dataclass(frozen=True)
class Component:
    """A parametrisation or a regulariser that is not made yet.

    Attributes:
        name: its name in the registry.
        make: its class.
        settings: an instance of the ``Settings`` of the class.
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
    """The distillation that the options of ``python -m dd distill`` describe, ready to run.

    Args:
        arguments: the options.
        settings: the settings of the objective.
        dataset: in the space that the settings name, on ``device``.
        snapshots: iterations at which the set is saved, ascending.
        device: where to compute.

    Raises:
        DDError: if an option is missing, does not fit or has no use.
    """
    objective_class = OBJECTIVES[arguments.objective]
    if settings.starts_real:
        sizes = [len(members) for members in dataset.train.by_class]
        check_enough(arguments.ipc, sizes, dataset.classes, dataset.name)
    parametrisation = _component("parametrisation", PARAMETRISATIONS, arguments, dataset.name)
    regulariser = _component("regulariser", REGULARISERS, arguments, dataset.name)
    own = _own_recipes(arguments, dataset.name)
    pretrained = load_all(arguments.pretrained, dataset, arguments.width_factor, device)
    # Pretrained networks have two uses: the objective draws its networks from them, or a
    # regulariser uses them while the objective still draws new networks.
    drawn = pretrained if objective_class.needs_pretrained else None
    networks = _network_source(arguments, settings, dataset, device, drawn)
    auxiliary = regulariser.make.needs(regulariser.settings) if regulariser else []
    _check_pretrained(pretrained, {*auxiliary, *(networks.specs() if drawn is not None else [])})
    trajectories = _trajectories(objective_class, arguments, dataset, device)
    prior = _prior(parametrisation, arguments, dataset, device)
    # What identifies the distillation. It resumes from a checkpoint only if the facts are the same.
    # So they must contain everything that changes an image, and nothing that may differ between two
    # starts (paths, seconds).
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
        "precision": precision.chosen(),
    }
    if pretrained:
        facts["pretrained"] = {name: net.describe() for name, net in pretrained.items()}
    if trajectories:
        facts["buffers"] = trajectories.describe()
    if parametrisation:
        decoded = {"generator": prior.describe()} if prior else {}
        facts["parametrisation"] = {**parametrisation.facts(), **decoded}
    if regulariser:
        facts["regulariser"] = regulariser.facts()
    streams = _streams(arguments.seed, device)
    memory = usable_memory(arguments.memory, device)
    objective = objective_class(
        settings, dataset, arguments.ipc, networks, streams, trajectories, memory
    )

    # The loop calls this, not this function: an objective's start may train a network for minutes,
    # and this should happen only while no other process uses the folder.
    def make_canvas() -> Parametrisation:
        start, labels = objective.start(), objective.labels()
        if not isinstance(settings, OptimisingSettings):
            return Still(start, labels)
        if parametrisation:
            given = (prior, start, labels, parametrisation.settings)
            with within(owner("parametrisation", parametrisation.name)):
                canvas = parametrisation.make(*given, objective.optimizer, streams.start)
                check_parametrisation(canvas, start, labels)
        else:
            canvas = Pixels(start, labels, settings.lr_img, objective.optimizer)
        if regulariser:
            frozen = {name: pretrained[name].network for name in auxiliary}
            loss = regulariser.make(regulariser.settings, frozen, streams.regulariser)
            canvas = Regularised(canvas, loss)
        if learned := objective.learned_labels():
            canvas = Labelled(canvas, learned, objective.optimizer)
        return canvas

    every = arguments.checkpoint_every
    return DistillationLoop(objective, make_canvas, arguments.out, snapshots, facts, every)


def _streams(seed: int, device: torch.device) -> Streams:
    """One random stream per purpose. An additional draw from one does not change the others."""
    return Streams(
        seed=seed,
        host=generator(seed, "distill", "host"),
        network=generator(seed, "distill", "network", device=device),
        start=generator(seed, "distill", "start"),
        regulariser=generator(seed, "distill", "regulariser"),
    )


def _component(
    kind: str, registry: Registry[type[Any]], arguments: argparse.Namespace, dataset: str
) -> Component | None:
    """The part that ``--parametrisation`` or ``--regulariser`` (the ``kind``) names, if any."""
    text = vars(arguments)[kind]
    if text is None:
        return None
    if not OBJECTIVES[arguments.objective].optimises:
        raise DDError(f"--{kind}: {arguments.objective} optimises nothing; leave it out")
    # before parse_part: the error of the registry suggests the nearest name of the same kind
    make = registry[text.partition("@")[0]]
    part = parse_part(text, arguments.objective)
    values = recipes.resolve_part(
        part.name, arguments.objective, dataset, arguments.ipc, part.settings
    )
    return Component(part.name, make, build(make.Settings, values, part.name))


def _own_recipes(arguments: argparse.Namespace, dataset: str) -> dict[str, str]:
    """Which settings the objective, the parametrisation and the regulariser use.

    ``own`` if the recipe has settings for this dataset and IPC. Otherwise a description of the
    settings that are used instead, which is also printed.
    """
    chosen = (arguments.objective, arguments.parametrisation, arguments.regulariser)
    used = {}
    for name in (text.partition("@")[0] for text in chosen if text):
        fallback = recipes.fallback(name, dataset, arguments.ipc)
        used[name] = fallback.takes if fallback else "own"
        if fallback:
            where = f"{dataset} at IPC {arguments.ipc}" if fallback.of_ipc else dataset
            say(f"distill: {fallback.said(name, where)}")
    return used


def _network_source(
    arguments: argparse.Namespace,
    settings: Settings,
    dataset: Dataset,
    device: torch.device,
    pretrained: Mapping[str, Pretrained] | None,
) -> NetworkSource:
    """The source of the objective's networks.

    Args:
        arguments: the options.
        settings: the settings of the objective.
        dataset: its images give the shape of the networks.
        device: where the networks are made.
        pretrained: networks to draw instead of new ones; None: new ones.
    """
    pool: Path | None = arguments.pool
    if not isinstance(settings, NetworkSettings):
        if pool:
            raise DDError(f"--pool: {arguments.objective} uses no network; leave it out")
        return NoSource()
    shape = (dataset.channels, dataset.size, len(dataset.classes))
    trained = None
    if pretrained is not None:
        trained = {name: net.network for name, net in pretrained.items()}
    scale = {"width_factor": arguments.width_factor, "device": device, "trained": trained}
    if pool:
        return PoolSource(load_pool(pool), *shape, **scale)
    return SingleSource(settings.network, *shape, **scale)


def _check_pretrained(given: Iterable[str], used: set[str]) -> None:
    """Raise a :class:`DDError` unless ``given`` and ``used`` name the same networks."""
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
    """The expert trajectories, if the ``objective`` matches any."""
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
    """The generator with which the parametrisation decodes latents, if there is one."""
    given = arguments.generator or arguments.adapter
    if not parametrisation:
        if given:
            raise DDError("--generator and --adapter belong to --parametrisation; leave them out")
        return None
    if not parametrisation.make.needs_generator:
        if given:
            raise DDError(
                f"--generator and --adapter: {parametrisation.name} decodes no latents; leave them "
                "out"
            )
        return None
    if arguments.generator is None:
        raise DDError(
            f"--generator: {arguments.parametrisation} needs one; make it by "
            "`python -m dd generator`"
        )
    # a parametrisation without this setting leaves the choice to the adapter
    layer = getattr(parametrisation.settings, "layer", 0)
    return load_generator(arguments.generator, dataset, device, arguments.adapter, layer)
