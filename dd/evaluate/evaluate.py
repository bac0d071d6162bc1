"""Evaluate a synthetic set: train new networks on it and report their test accuracy.

It writes one CSV row per network. Nothing is selected on test data: the accuracy is that after the
last epoch. A killed evaluation goes on after the networks that it had finished.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dd import plugins
from dd.artifacts.atomic import check_out
from dd.artifacts.fields import (
    NUMBER,
    PERCENT,
    SECONDS,
    TEXT,
    WHOLE,
    Field,
    block,
    either,
    list_of,
    whole,
)
from dd.artifacts.provenance import makers_as_text, provenance_of_rows
from dd.artifacts.resume_rows import load_progress, save_progress
from dd.artifacts.text import file_digest, save_rows
from dd.config import plugin_files, recipes
from dd.config.methods import parse_arch_settings, protocol_of_plugin
from dd.config.settings import (
    MOST,
    Declared,
    add_options,
    assumed,
    at_most,
    build,
    declared,
    from_text,
    given_settings,
    shared,
)
from dd.contracts import check_list, owner, within
from dd.data.dataset import Dataset
from dd.data.synthetic import SyntheticSet, hard_labels
from dd.errors import DDError, unknown
from dd.evaluate.protocols import PROTOCOLS, FixedStart, Hard, Task, check_options
from dd.evaluate.set_options import add_set_options, read_set
from dd.evaluate.soft_labels import SoftLabels
from dd.networks.base import count_parameters
from dd.networks.memory import CPU_PIECE
from dd.networks.options import canonical, width_factor
from dd.runtime import precision
from dd.runtime.memory import in_pieces
from dd.runtime.process import (
    add_machine_options,
    add_precision_option,
    add_together_option,
    asked_together,
    setup,
)
from dd.runtime.progress import Progress
from dd.runtime.say import say
from dd.training.recipe import Recipe
from dd.training.train import accuracy

MOST_NETWORKS = 1000  # sets of a run have evaluation seeds 1000 apart, so that none is used twice


def evaluate(
    protocol: Hard,
    counts: Mapping[str, int],
    finished: list[dict[str, Any]],
    save: Callable[[list[dict[str, Any]]], None],
) -> list[dict[str, Any]]:
    """Train and test networks, and return their rows.

    Args:
        protocol: has its settings and its task.
        counts: the number of networks of each architecture, by canonical spec.
        finished: rows of an earlier start; their networks are not trained again.
        save: called with all rows so far after each group.
    """
    task = protocol.task
    rows = list(finished)
    done = {(row["arch"], row["network"]) for row in rows}
    every = sum(counts.values())
    with Progress("evaluate", every, "networks", initial=len(rows)) as progress:
        for arch, count in counts.items():
            left = [n for n in range(count) if (arch, n) not in done]
            size = protocol.side_by_side(arch, len(left)) if left else 1
            for numbers, (networks, seconds) in in_pieces(
                left, size, partial(_trained, protocol, arch), f"networks of {arch}"
            ):
                for number, network in zip(numbers, networks, strict=True):
                    tested = round(accuracy(network, task.dataset.test), 4)
                    rows.append(
                        {
                            "dataset": task.dataset.label,
                            "arch": arch,
                            "network": number,
                            "seed": task.seed + number,
                            "accuracy": tested,
                            "train_accuracy": round(_fit(network, task), 4),
                            "parameters": count_parameters(network),
                            "diverged": int(not _finite(network)),
                            "seconds": round(seconds, 3),
                            **protocol.facts(number),
                        }
                    )
                    progress.update(accuracy=tested)
                save(rows)
                del networks, network  # before the next ones are trained
    order = {arch: position for position, arch in enumerate(counts)}
    return sorted(rows, key=lambda row: (order[row["arch"]], row["network"]))


def _trained(protocol: Hard, arch: str, numbers: Sequence[int]) -> tuple[list[nn.Module], float]:
    """Networks that were trained, and the seconds that each took."""
    started = time.monotonic()
    with within(f"networks of {arch}"):
        networks = protocol.train(arch, numbers)
        count = len(numbers)
        check_list("its method train", networks, count, f"a list of networks, {count} here")
    return networks, (time.monotonic() - started) / len(numbers)


_ROW = {  # what a row holds before the settings are added
    "dataset": TEXT,
    "arch": TEXT,
    "network": whole(0, MOST_NETWORKS - 1),
    "seed": WHOLE,
    "accuracy": PERCENT,
    "train_accuracy": PERCENT,
    "parameters": whole(0),
    "diverged": whole(0, 1),
    "seconds": SECONDS,
}


def _progress(protocol: Hard) -> Field:
    """What is kept of an evaluation under way: rows with the columns of this code, each once."""
    columns = {*_ROW, *protocol.facts(0)}
    row = block({**_ROW, **dict.fromkeys(protocol.facts(0), either(NUMBER, TEXT))})
    exact = Field(row.what, lambda value: row.fits(value) and value.keys() == columns)
    rows = list_of(exact)

    def once(kept: list[dict[str, Any]]) -> bool:
        return len({(one["arch"], one["network"]) for one in kept}) == len(kept)

    return block({"rows": Field("rows of networks", lambda v: rows.fits(v) and once(v))})


def _finite(network: nn.Module) -> bool:
    return bool(torch.stack([p.isfinite().all() for p in network.parameters()]).all())


@torch.no_grad()
def _fit(network: nn.Module, task: Task) -> float:
    """Percentage of the synthetic set that the network classifies as its labels say."""
    labels = hard_labels(task.labels)
    predicted = torch.cat(
        [
            found
            for _, found in in_pieces(
                task.images, CPU_PIECE, lambda part: precision.forward(network, part).argmax(1)
            )
        ]
    )
    return 100.0 * float((predicted == labels).double().mean())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m dd evaluate``."""
    what = parser.add_argument_group("what to evaluate")
    add_set_options(what)
    what.add_argument("--arch", required=True, nargs="+", help="networks, NAME or NAME:key=value")
    what.add_argument("--out", required=True, type=Path, metavar="FILE", help="CSV to write")
    what.add_argument(
        "--networks", type=at_most("--networks", MOST), default=5, help="networks per architecture"
    )
    what.add_argument(
        "--networks-of",
        nargs="+",
        default=[],
        metavar="ARCH=N",
        help="another number for one architecture (default: --networks)",
    )
    what.add_argument(
        "--seed", type=int, default=0, help="seed of network 0; network n has seed + n"
    )
    what.add_argument(
        "--width-factor", type=width_factor, default=1.0, help="scales network widths"
    )
    add_together_option(what, "networks")
    what.add_argument(
        "--diverged",
        choices=("stop", "record"),
        default="stop",
        help="if a loss becomes NaN: stop with an error, or record the network with diverged = 1 "
        "and its accuracy (that of a constant answer)",
    )
    add_machine_options(parser)
    add_precision_option(parser)
    training = parser.add_argument_group(
        "training (default: the recipe of the set's objective, or of dc if the set names none, "
        "dd/config/recipes.yaml; the learning rate of the set, if it has learned one)"
    )
    add_options(training, declared(Recipe))
    training.add_argument(
        "--arch-settings",
        nargs="+",
        default=[],
        metavar="ARCH@KEY=VALUE,...",
        help="settings for one network, which override the others (default: the recipe's for it)",
    )
    protocol = parser.add_argument_group("protocol")
    names = ", ".join(PROTOCOLS.names())
    protocol.add_argument("--protocol", default="hard", help=f"one of {names}")
    protocol.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="soft labels of `python -m dd relabel` (default: none) [soft]",
    )
    add_options(protocol, _protocol_settings())


def _counts(arguments: argparse.Namespace) -> dict[str, int]:
    """The number of networks of each architecture that the options ask for, by canonical spec."""
    asked = arguments.networks
    counts = dict.fromkeys((canonical(arch) for arch in arguments.arch), asked)
    given, named = [("--networks", "", asked)], set()
    for text in arguments.networks_of:
        arch, equals, number = text.rpartition("=")
        if not equals:
            raise DDError(f"--networks-of: '{text}' must be ARCH=N")
        try:
            name = canonical(arch)
            if name not in counts:
                raise unknown("network", arch, counts)
        except DDError as error:
            raise DDError(f"--networks-of: {error}") from None
        if name in named:
            raise DDError(f"--networks-of: {arch} is given twice")
        named.add(name)
        counts[name] = count = from_text("--networks-of", number, int)
        given.append(("--networks-of", f" for {arch}", count))
    for option, which, count in given:
        if not 1 <= count <= MOST_NETWORKS:
            raise DDError(f"{option} is {count}{which}, it must be 1 to {MOST_NETWORKS}")
    return counts


def _protocol_settings() -> Declared:
    """The settings of all protocols; each meaning is followed by the protocol that has it."""
    settings: Declared = {}
    having = [(name, declared(PROTOCOLS[name].Settings)) for name in PROTOCOLS]
    for entry in plugins.catalogue().entries:  # imported only if they are chosen
        if entry.kind == "protocol" and entry.name not in PROTOCOLS:
            with suppress(DDError):  # a broken one is said where it is used
                options = plugin_files.options(entry).items()
                own = {name: value for name, value in options if name not in declared(Recipe)}
                having.append((entry.name, assumed(own, "an option of a plug-in")))
    for name, fields in having:
        for field, text in fields.values():
            default = f", default {field.default}" if field.default != "" else ""
            meaning = f"{text} [{name}{default}]"
            known, before = settings.get(field.name, (field, ""))
            before = f"{before}; " if before else ""
            settings[field.name] = (shared(known, field), before + meaning)
    return settings


def _recipes(
    made: SyntheticSet, dataset: Dataset, options: dict[str, Any], archs: Sequence[str]
) -> tuple[Recipe, dict[str, Recipe], dict[str, dict[str, Any]]]:
    """The common recipe; the recipes of those of ``archs`` that are trained differently; and the
    settings that an option gives one of ``archs``.

    ``archs`` and the keys of the results are canonical specs.
    """
    method = _method(made, dataset)
    common, own = _recipe(made, method, options), {}
    known = dataclasses.asdict(common)
    given: dict[str, dict[str, Any]] = {}
    for text in options["arch_settings"]:
        try:
            arch, settings = parse_arch_settings(text, known)
            arch = canonical(arch)
            if arch not in archs:
                raise unknown("network", arch, archs)
        except DDError as error:
            raise DDError(f"--arch-settings: {error}") from None
        given[arch] = given.get(arch, {}) | settings
    for arch in archs:
        recipe = _recipe(made, method, options | given.get(arch, {}), arch)
        if recipe != common:
            own[arch] = recipe
    return common, own, given


def _method(made: SyntheticSet, dataset: Dataset) -> tuple[str, str, int]:
    """The objective, dataset and IPC whose recipe says how networks are trained on the set.

    If the recipe is not the set's own, a message says so.
    """
    objective = made.header.get("objective")
    if objective not in recipes.objectives():  # a set from other code may not name one
        objective = "dc"
        say(
            "evaluate: the set names no known method; unless an option sets them, settings are "
            "those of dc"
        )
    ipc = max(1, len(made) // len(dataset.classes))
    if fallback := recipes.evaluation_fallback(objective, dataset.name, ipc):
        say(f"evaluate: {fallback.said(objective, dataset.name)}")
    return objective, dataset.name, ipc


def _recipe(
    made: SyntheticSet, method: tuple[str, str, int], options: dict[str, Any], arch: str = ""
) -> Recipe:
    """How ``arch`` is trained: by the given options, otherwise by the recipe of ``method``."""
    own = given_settings(declared(Recipe), options)
    if made.learned_lr is not None:
        own = {"lr": made.learned_lr} | own
    return build(Recipe, recipes.resolve_evaluation(*method, own, arch), "evaluation")


def run(arguments: argparse.Namespace) -> None:
    """The stage: check everything, then train and test."""
    options = vars(arguments)
    counts = _counts(arguments)
    archs = list(counts)
    protocol_class = PROTOCOLS[arguments.protocol]
    entry = protocol_of_plugin(arguments.protocol)
    defaults = check_options(entry) if entry else {}
    given = given_settings(_protocol_settings(), options, protocol_class.Settings)
    for name in given:
        if name not in declared(protocol_class.Settings):
            raise DDError(
                f"--{name.replace('_', '-')} is no option of --protocol {arguments.protocol}"
            )
    given = defaults | given
    settings: Any = build(protocol_class.Settings, given, f"protocol {arguments.protocol}")
    check_out(arguments.out, ".csv", arguments.synthetic, arguments.data, arguments.labels)
    device = setup(arguments.device, arguments.threads, arguments.precision)
    made, dataset, set_data = read_set("evaluate", arguments, device)
    if made.regresses and not protocol_class.takes_targets:
        raise DDError(
            f"{arguments.synthetic}: its labels are targets of a regression, no probabilities, so "
            f"--protocol {arguments.protocol} cannot learn from them; use --protocol regression"
        )
    if protocol_class.needs_schedule and made.schedule is None:
        raise DDError(
            f"{arguments.synthetic}: does not say which steps networks should take on it ('rates', "
            f"'batches'), as sets of dd do; --protocol {arguments.protocol} needs them"
        )
    # many networks are tested, so keep the test split on the device
    dataset = dataclasses.replace(dataset, test=dataset.test.resident())
    trained = list(dict.fromkeys([*archs, *protocol_class.also_trained(settings)]))
    recipe, own, by_arch = _recipes(made, dataset, options, trained)
    recipe = protocol_class.adapted(recipe, made.schedule)
    own = {arch: protocol_class.adapted(r, made.schedule) for arch, r in own.items()}
    asked = {"": given_settings(declared(Recipe), options), **by_arch}
    for arch, wanted in asked.items():
        _check_heeded(arguments.protocol, own.get(arch, recipe), wanted, arch)
    labels = _labels(arguments, protocol_class, settings, dataset, len(made))
    if labels:
        for chosen in (recipe, *own.values()):
            labels.check_batch(chosen.batch)
        settings = dataclasses.replace(settings, teacher=labels.teacher, views=labels.views)
    fixed = _fixed_start(made, arguments, counts) if protocol_class.needs_schedule else None
    task = Task(
        dataset=dataset,
        images=made.images_for(dataset).to(device),
        labels=made.labels.to(device),
        recipe=recipe,
        seed=arguments.seed,
        width_factor=arguments.width_factor,
        together=asked_together(arguments.together),
        strict=arguments.diverged == "stop",
        soft=labels,
        own=own,
        schedule=made.schedule,
        fixed_start=fixed,
        regresses=made.regresses,
    )
    conditions = {"protocol": arguments.protocol, **dataclasses.asdict(settings)}
    conditions |= dataclasses.asdict(recipe) | {"width_factor": arguments.width_factor}
    digest = file_digest(arguments.synthetic)
    identity = {
        "conditions": conditions,
        "own": {arch: dataclasses.asdict(r) for arch, r in own.items()},
        "seed": arguments.seed,
        "dataset": dataset.fingerprint,
        "synthetic": digest,
        "device": device.type,
        "precision": precision.chosen(),
        "labels": labels.header if labels else None,
    }
    partial = arguments.out.with_name(f".{arguments.out.name}.partial.json")
    # Architectures and the number of networks are not part of the identity: they may change between
    # two starts without making finished networks invalid.
    with within(owner("protocol", arguments.protocol)):
        protocol = protocol_class(settings, task)
        kept, earlier = load_progress("evaluate", partial, identity, _progress(protocol))
        rows = kept.get("rows", [])
        finished = [row for row in rows if row["network"] < counts.get(row["arch"], 0)]
        rows = evaluate(
            protocol,
            counts,
            finished,
            lambda rows: save_progress(partial, identity, {"rows": rows}, earlier),
        )
    where = {"synthetic": digest, "set_data": set_data}
    where |= {"device": device.type, "precision": precision.chosen()}
    where |= provenance_of_rows(device)
    if earlier:
        where["continued_from"] = makers_as_text(earlier)
    if used := plugins.used():
        where["plugins"] = ", ".join(used)
    each = {arch: conditions | dataclasses.asdict(task.recipe_of(arch)) for arch in archs}
    save_rows(arguments.out, [row | each[row["arch"]] | where for row in rows])
    partial.unlink(missing_ok=True)
    for arch in archs:
        tested = torch.tensor([row["accuracy"] for row in rows if row["arch"] == arch])
        spread = f" ± {tested.std():.2f}" if len(tested) > 1 else ""
        say(f"evaluate: {arch} {tested.mean():.2f}{spread} % on {dataset.label} (n={len(tested)})")


def _check_heeded(protocol: str, recipe: Recipe, asked: Mapping[str, Any], arch: str) -> None:
    """Refuse an option of training (of ``arch``, or of all networks) that ``recipe`` does not have,
    since the protocol decides it otherwise."""
    for name, value in asked.items():
        if (taken := getattr(recipe, name)) != value:
            where = f" for {arch}" if arch else ""
            raise DDError(
                f"{name.replace('_', '-')} is {value}{where}, but --protocol {protocol} takes "
                f"{taken}; leave it out"
            )


def _fixed_start(
    made: SyntheticSet, arguments: argparse.Namespace, counts: Mapping[str, int]
) -> FixedStart | None:
    """The initial parameters that the set was made for, if ``counts`` has networks with these.

    Raises:
        DDError: if it asks for more networks than there are such parameters.
    """
    said = made.header.get("fixed_start")
    if not said:
        return None
    alike = made.header.get("width_factor") == arguments.width_factor
    start = FixedStart(said["seed"], said["students"], frozenset(said["networks"] if alike else []))
    for arch, count in counts.items():
        if arch not in start.networks:
            say(
                f"evaluate: {arch} at width factor {arguments.width_factor:g} is no network that "
                "the set was made for; its initial parameters are random, not those of the set"
            )
        elif count > start.students:
            raise DDError(
                f"--networks is {count} for {arch}, but the set was made for fixed initial "
                f"parameters of {start.students}, so more networks would be the same again; give "
                f"--networks-of {arch}={start.students}"
            )
    return start


def _labels(
    arguments: argparse.Namespace,
    protocol: type[Hard],
    settings: Any,
    dataset: Dataset,
    count: int,
) -> SoftLabels | None:
    """The soft labels of the set's ``count`` images, if the protocol learns from them."""
    if not protocol.needs_labels:
        if arguments.labels:
            raise DDError(
                f"--labels: --protocol {arguments.protocol} needs no soft labels; leave it out"
            )
        return None
    if not arguments.labels:
        raise DDError(
            f"--labels: --protocol {arguments.protocol} needs labels of `python -m dd relabel`"
        )
    labels = SoftLabels(arguments.labels)
    labels.check(dataset, arguments.synthetic, count)
    teacher = ".".join(canonical(spec) for spec in settings.teacher.split(".") if spec)
    for name, option in (("teacher", teacher), ("views", settings.views)):
        stored = getattr(labels, name)
        if option and option != stored:
            raise DDError(
                f"--{name} is {option}, but {arguments.labels} has {stored}; leave --{name} out or "
                "make the labels again (python -m dd relabel)"
            )
    return labels
