"""Distil a dataset: one loop for all objectives, with snapshots, checkpoints and resume.

It writes OUT/it<n>.safetensors for each snapshot and OUT/metrics.jsonl (one line per iteration). If
it is killed and started again with the same options, it goes on from its last checkpoint and makes
the same images. Settings that are not given come from the recipe for the objective, the dataset and
the IPC (dd/config/recipes.yaml).
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from dd.artifacts.atomic import check_apart, check_target
from dd.artifacts.checkpoint import or_anew
from dd.artifacts.lock import alone
from dd.config import recipes
from dd.config.settings import (
    MOST,
    Declared,
    add_recipe_options,
    assumed,
    at_most,
    build,
    declared,
    given_settings,
    shared,
)
from dd.contracts import owner, within
from dd.data.dataset import load_dataset, read_name
from dd.distill.assemble import assemble
from dd.distill.objectives import OBJECTIVES
from dd.distill.objectives.base import Settings
from dd.distill.parametrisations import PARAMETRISATIONS
from dd.distill.regularisers import REGULARISERS
from dd.errors import DDError
from dd.networks.options import width_factor
from dd.registry import Registry
from dd.runtime.process import (
    add_checkpoint_option,
    add_machine_options,
    add_memory_option,
    add_precision_option,
    setup,
)
from dd.runtime.say import say

MOST_PER_CLASS = 100_000  # images


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m dd distill``."""
    need = parser.add_argument_group("what to distil")
    need.add_argument("--data", required=True, type=Path, help="prepared dataset", metavar="FILE")
    need.add_argument("--objective", required=True, help=f"one of {', '.join(OBJECTIVES.names())}")
    need.add_argument(
        "--ipc", required=True, type=at_most("--ipc", MOST_PER_CLASS), help="images per class"
    )
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
        help=f"an extra loss on the images: {_parts(REGULARISERS)} (default: none)",
    )
    need.add_argument(
        "--snapshots",
        type=at_most("--snapshots", MOST),
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
        help="generator of `python -m dd generator`, or weights for --adapter (default: none; glad "
        "needs one)",
    )
    need.add_argument(
        "--adapter",
        default="",
        metavar="MODULE:FUNCTION",
        help="function that makes a generator from somebody else's weights (docs/generators.md) "
        "(default: none)",
    )
    parser.add_argument(
        "--width-factor", type=width_factor, default=1.0, help="scales network widths"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers")
    add_checkpoint_option(parser)
    add_machine_options(parser)
    add_memory_option(parser)
    add_precision_option(parser)
    # --snapshots gives the number of iterations
    add_recipe_options(parser, _declared_settings(), skip=("iterations",))


def _parts(registry: Registry) -> str:
    """The names in a registry of parts, with their settings, for the help."""
    parts = []
    for name in registry:
        meanings = [
            f"{key}: {text}" for key, (_, text) in declared(registry[name].Settings).items()
        ]
        parts.append(f"{name} ({'; '.join(meanings)})")
    for entry, settings in recipes.settings_of_plugins(registry.what):
        if entry.name not in registry:
            parts.append(f"{entry.name} ({', '.join(settings)}; of a plug-in)")
    return " or ".join(parts)


def _declared_settings() -> Declared:
    """The settings of all objectives; each meaning is followed by the objectives that have it."""
    # Objectives may share the name of a setting but give it different meanings. Each meaning is
    # listed once, with its objectives.
    having = [(name, declared(OBJECTIVES[name].Settings)) for name in OBJECTIVES]
    having += [  # plug-ins are imported only if they are chosen
        (entry.name, assumed(settings, "a setting of a plug-in"))
        for entry, settings in recipes.settings_of_plugins("objective")
        if entry.name not in OBJECTIVES
    ]
    meanings: dict[str, dict[str, list[str]]] = {}
    fields: dict[str, dataclasses.Field] = {}
    for objective, settings in having:
        for name, (field, text) in settings.items():
            meanings.setdefault(name, {}).setdefault(text, []).append(objective)
            fields[name] = shared(fields.get(name, field), field)
    return {
        name: (
            field,
            "; ".join(f"{text} [{', '.join(having)}]" for text, having in meanings[name].items()),
        )
        for name, field in fields.items()
    }


def run(arguments: argparse.Namespace) -> None:
    """The stage: check everything, then distil."""
    objective = OBJECTIVES[arguments.objective]
    if objective.takes_all and arguments.ipc != 0:
        raise DDError(
            f"--ipc is {arguments.ipc}, but {arguments.objective} takes all images: give 0"
        )
    if arguments.ipc < 1 and not objective.takes_all:
        raise DDError(f"--ipc is {arguments.ipc}, it must be at least 1")
    given = given_settings(_declared_settings(), vars(arguments), objective.Settings)
    if arguments.pool and "network" in given:
        raise DDError("--pool: networks are drawn from it; leave --network out")
    check_target(arguments.out / "metrics.jsonl")
    device = setup(arguments.device, arguments.threads, arguments.precision)
    # Read the header first. It has the dataset's name, which selects the recipe, and the recipe
    # gives the space (whitening) in which the images are then read.
    name = read_name(arguments.data)
    recipe = recipes.resolve(arguments.objective, name, arguments.ipc, given)
    read = (arguments.data, *arguments.buffers, *arguments.pretrained, arguments.generator)
    snapshots = sorted(set(arguments.snapshots or [recipe["iterations"]]))
    if snapshots[0] < 0:
        raise DDError(f"--snapshots: {snapshots[0]} is no iteration; give numbers from 0")
    for iteration in snapshots:
        check_apart(arguments.out / f"it{iteration}.safetensors", *read)
    # The last snapshot ends the run. Schedules of the objective need the number of iterations.
    values = recipe | {"iterations": snapshots[-1]}
    settings: Settings = build(objective.Settings, values, arguments.objective)
    dataset = load_dataset(arguments.data, device, settings.whitening)
    whose = owner("objective", arguments.objective)
    with within(whose):
        loops = [assemble(arguments, settings, dataset, snapshots, device)]

    def distil() -> None:
        loop = loops.pop() if loops else assemble(arguments, settings, dataset, snapshots, device)
        loop.run()

    # Two processes in one folder would mix their checkpoints, so the second waits for the first.
    # All checks are above: an error appears at once, not after this wait.
    with alone(arguments.out), within(whose):
        or_anew("distill", distil)
    say(
        f"distill: {', '.join(f'it{n}' for n in snapshots)} of {arguments.objective} in "
        f"{arguments.out}"
    )
