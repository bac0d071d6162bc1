"""Distil a dataset: one loop for every objective, with snapshots, checkpoints and resume.

Writes OUT/it<n>.safetensors for every snapshot and OUT/metrics.jsonl (one line an iteration). Kill
it and start it again with the same options: it goes on from its last checkpoint to the same images.
Settings that are not given come from the recipe of objective, dataset and IPC
(dd/config/recipes.yaml).
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dd.artifacts.atomic import check_target
from dd.artifacts.lock import alone
from dd.artifacts.tensors import read_header
from dd.config import recipes
from dd.config.methods import parse_part
from dd.config.settings import Declared, add_recipe_options, build, declared, given_settings
from dd.data.dataset import Dataset, load_dataset
from dd.distill.loop import DistillationLoop
from dd.distill.objectives import OBJECTIVES
from dd.distill.objectives.base import Streams
from dd.distill.parametrisations import PARAMETRISATIONS, Parametrisation, Pixels
from dd.distill.regularisers import REGULARISERS, Regularised
from dd.errors import DDError
from dd.networks.pool import load_pool
from dd.networks.source import NetworkSource, PoolSource, SingleSource
from dd.pretrain.agreement import agreement
from dd.pretrain.frozen import Pretrained, load_all
from dd.pretrain.generators import load_generator
from dd.pretrain.trajectories import Trajectories
from dd.registry import Registry
from dd.rng import generator
from dd.runtime.process import add_checkpoint_option, add_machine_options, setup


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m dd distill``."""
    need = parser.add_argument_group("what to distil")
    need.add_argument("--data", required=True, type=Path, help="prepared dataset", metavar="FILE")
    need.add_argument("--objective", required=True, help=f"one of {', '.join(OBJECTIVES)}")
    need.add_argument("--ipc", required=True, type=int, help="images per class")
    need.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write to")
    need.add_argument(
        "--pool",
        type=Path,
        metavar="FILE",
        help="model pool (YAML) to draw networks from, in place of --network (default: none)",
    )
    need.add_argument(
        "--parametrisation",
        metavar="NAME[@KEY=VALUE,...]",
        help=f"what is optimised in place of pixels: {_parts(PARAMETRISATIONS)} (default: none)",
    )
    need.add_argument(
        "--regulariser",
        metavar="NAME[@KEY=VALUE,...]",
        help=f"what else must hold: {_parts(REGULARISERS)} (default: none)",
    )
    need.add_argument(
        "--snapshots",
        type=int,
        nargs="+",
        metavar="N",
        help="iterations to save at; the last one ends the run (default: the recipe's iterations)",
    )
    need.add_argument(
        "--buffers",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="shards of `python -m dd buffer` (default: none; trajectory matching needs them)",
    )
    need.add_argument(
        "--pretrained",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="networks of `python -m dd pretrain` (default: none; sre2l and metadd need some)",
    )
    need.add_argument(
        "--generator",
        type=Path,
        metavar="FILE",
        help="of `python -m dd generator`, or of --adapter (default: none; glad needs one)",
    )
    need.add_argument(
        "--adapter",
        default="",
        metavar="MODULE:FUNCTION",
        help="makes a generator of somebody else's weights (docs/generators.md) (default: none)",
    )
    parser.add_argument("--width-factor", type=float, default=1.0, help="scales network widths")
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers")
    add_checkpoint_option(parser)
    add_machine_options(parser)
    add_recipe_options(parser, _declared_settings(), skip=("iterations",))  # said by --snapshots


def _parts(registry: Registry) -> str:
    """The names in a registry of parts and their settings, for the help."""
    told = []
    for name in registry:
        meanings = [
            f"{key}: {text}" for key, (_, text) in declared(registry[name].Settings).items()
        ]
        told.append(f"{name} ({'; '.join(meanings)})")
    return " or ".join(told)


def _declared_settings() -> Declared:
    """Every setting that any objective declares, with what it means to whom."""
    meanings: dict[str, dict[str, list[str]]] = {}
    fields: dict[str, dataclasses.Field] = {}
    for objective in OBJECTIVES:
        for name, (field, text) in declared(OBJECTIVES[objective].Settings).items():
            meanings.setdefault(name, {}).setdefault(text, []).append(objective)
            fields[name] = field
    return {
        name: (
            field,
            "; ".join(f"{text} [{', '.join(who)}]" for text, who in meanings[name].items()),
        )
        for name, field in fields.items()
    }


def run(arguments: argparse.Namespace) -> None:
    """The stage: check everything, then distil."""
    objective_class = OBJECTIVES[arguments.objective]
    if objective_class.takes_all and arguments.ipc != 0:
        raise DDError(
            f"--ipc is {arguments.ipc}, but {arguments.objective} takes all images: give 0"
        )
    if arguments.ipc < 1 and not objective_class.takes_all:
        raise DDError(f"--ipc is {arguments.ipc}, it must be at least 1")
    given = given_settings(_declared_settings(), vars(arguments))
    if arguments.pool and "network" in given:
        raise DDError("--pool: networks are drawn from it; leave --network out")
    check_target(arguments.out / "metrics.jsonl")
    device = setup(arguments.device, arguments.threads)
    name = str(read_header(arguments.data).get("name", arguments.data.stem))
    recipe = recipes.resolve(arguments.objective, name, arguments.ipc, given)
    snapshots = sorted(set(arguments.snapshots or [recipe["iterations"]]))
    if snapshots[0] < 0:
        raise DDError(f"--snapshots: {snapshots[0]} is no iteration; give numbers from 0")
    settings = build(
        objective_class.Settings, recipe | {"iterations": snapshots[-1]}, arguments.objective
    )
    dataset = load_dataset(arguments.data, device, settings.whitening)
    if getattr(settings, "init", "real") == "real":
        _check_enough_images(arguments.ipc, dataset)
    parametrisation = _part("parametrisation", PARAMETRISATIONS, arguments, dataset.name)
    regulariser = _part("regulariser", REGULARISERS, arguments, dataset.name)
    own = _own_recipes(arguments, dataset.name)
    streams = Streams(
        seed=arguments.seed,
        host=generator(arguments.seed, "distill", "host"),
        network=generator(arguments.seed, "distill", "network", device=device),
        start=generator(arguments.seed, "distill", "start"),
        regulariser=generator(arguments.seed, "distill", "regulariser"),
    )
    pretrained = load_all(arguments.pretrained, dataset, arguments.width_factor, device)
    trained = pretrained if objective_class.needs_pretrained else None
    networks = _network_source(arguments, settings, dataset, device, trained)
    auxiliary = regulariser[0].needs(regulariser[1]) if regulariser else []
    used = {*auxiliary, *(networks.specs() if trained is not None else [])}
    for name in sorted(used ^ set(pretrained)):
        if name in used:
            raise DDError(f"--pretrained: a {name} is needed; make it by `python -m dd pretrain`")
        raise DDError(f"--pretrained: nothing here uses {name}; leave it out")
    facts = {
        "dataset": dataset.name,
        "dataset_label": dataset.label,
        "fingerprint": dataset.fingerprint,
        "objective": arguments.objective,
        "ipc": arguments.ipc,
        "seed": arguments.seed,
        "networks": networks.describe(),
        "seen": list(dict.fromkeys([*_used(networks, settings), *auxiliary])),
        "width_factor": arguments.width_factor,
        "settings": dataclasses.asdict(settings),
        "recipe": own,
        "snapshots": snapshots,
        "device": device.type,
    }
    if pretrained:
        facts["pretrained"] = {name: one.describe() for name, one in pretrained.items()}
    trajectories = None
    if objective_class.needs_trajectories:
        if not arguments.buffers:
            raise DDError(f"--buffers: {arguments.objective} needs shards of `python -m dd buffer`")
        agreed = agreement(dataset, arguments.width_factor)
        trajectories = Trajectories(arguments.buffers, agreed, device)
        facts["buffers"] = trajectories.describe()
    elif arguments.buffers:
        raise DDError(f"--buffers: {arguments.objective} matches no trajectories; leave it out")
    prior = None
    if parametrisation:
        if arguments.generator is None:
            raise DDError(
                f"--generator: {arguments.parametrisation} needs one; make it by "
                "`python -m dd generator`"
            )
        _, own = parametrisation
        prior = load_generator(arguments.generator, dataset, device, arguments.adapter, own.layer)
        facts["parametrisation"] = _facts(arguments.parametrisation, own)
        facts["parametrisation"]["generator"] = prior.describe()
    elif arguments.generator or arguments.adapter:
        raise DDError("--generator and --adapter belong to --parametrisation; leave them out")
    if regulariser:
        facts["regulariser"] = _facts(arguments.regulariser, regulariser[1])
    objective = objective_class(settings, dataset, arguments.ipc, networks, streams, trajectories)

    def make_canvas() -> Parametrisation:
        start, labels = objective.start(), objective.labels()
        if parametrisation:
            chosen, own = parametrisation
            canvas = chosen(prior, start, labels, own, objective.optimizer, streams.start)
        else:
            canvas = Pixels(start, labels, getattr(settings, "lr_img", 0.0), objective.optimizer)
        if regulariser:
            chosen, own = regulariser
            frozen = {name: pretrained[name].network for name in auxiliary}
            canvas = Regularised(canvas, chosen(own, frozen, streams.regulariser))
        return canvas

    loop = DistillationLoop(
        objective, make_canvas, arguments.out, snapshots, facts, arguments.checkpoint_every
    )
    with alone(arguments.out):
        loop.run()
    print(
        f"distill: {', '.join(f'it{n}' for n in snapshots)} of {arguments.objective} in "
        f"{arguments.out}"
    )


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


def _check_enough_images(ipc: int, dataset: Dataset) -> None:
    smallest = min(range(len(dataset.classes)), key=lambda k: len(dataset.train.by_class[k]))
    count = len(dataset.train.by_class[smallest])
    if ipc > count:
        raise DDError(
            f"--ipc is {ipc}, but class '{dataset.classes[smallest]}' of {dataset.name} "
            f"has {count} training images"
        )


def _part(
    kind: str, registry: Registry, arguments: argparse.Namespace, dataset: str
) -> tuple[Any, Any] | None:
    """Class and settings of what ``--parametrisation`` or ``--regulariser`` names, if it does."""
    text = getattr(arguments, kind)
    if text is None:
        return None
    if not OBJECTIVES[arguments.objective].optimises:
        raise DDError(f"--{kind}: {arguments.objective} optimises nothing; leave it out")
    chosen = registry[text.partition("@")[0]]
    part = parse_part(text, arguments.objective)
    values = recipes.resolve_part(
        part.name, arguments.objective, dataset, arguments.ipc, part.settings
    )
    return chosen, build(chosen.Settings, values, part.name)


def _facts(text: str, settings: Any) -> dict[str, Any]:
    """Name and settings of a part."""
    return {"name": text.partition("@")[0], **dataclasses.asdict(settings)}


def _used(networks: NetworkSource, settings: Any) -> list[str]:
    """The networks of a distillation's own, where its objective uses any."""
    return networks.specs() if hasattr(settings, "network") else []


def _network_source(
    arguments: argparse.Namespace,
    settings: Any,
    dataset: Dataset,
    device: torch.device,
    pretrained: Mapping[str, Pretrained] | None,
) -> NetworkSource:
    shape = (dataset.channels, dataset.size, len(dataset.classes))
    trained = None
    if pretrained is not None:
        trained = {name: one.network for name, one in pretrained.items()}
    scale = {"width_factor": arguments.width_factor, "device": device, "trained": trained}
    if arguments.pool:
        return PoolSource(load_pool(arguments.pool), *shape, **scale)
    return SingleSource(getattr(settings, "network", "convnet"), *shape, **scale)
