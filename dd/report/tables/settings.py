"""The settings of a run, its model pools and hyperparameters, as rows of a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dd.config.methods import format_value, parse_protocol
from dd.config.recipes import fallback
from dd.config.run import Run
from dd.networks.options import options_of, parse
from dd.networks.pool import load_pool
from dd.plan.exhibits import Exhibit
from dd.plan.jobs import Distillation, Evaluation, GeneratorTraining, Import, Pretraining
from dd.plan.plan import Plan
from dd.report.labels import NETWORKS as NAMES
from dd.report.sheet import Sheet
from dd.report.tables.listing import plain
from dd.report.tables.pivot import Rows

Row = dict[str, str]


def settings_rows(run: Run) -> list[Row]:
    """Rows with ``part``, ``name``, ``network``, ``probability``, ``settings``.

    First come the pools, then the settings with which frozen networks and generators are trained,
    those of each objective, imported sets, the settings with which networks are trained on sets,
    and the protocols.
    Equal rows are shown once. If a method's recipe has no settings for a dataset or IPC, the name
    in the row says so. If datasets have other settings, it names the dataset.
    """
    plan = Plan(replace(run, optional=[]))
    methods = dict.fromkeys(job.method for job in plan.of(Distillation))
    rows = [row for method in methods if run.parse(method).pool for row in _pool_rows(run, method)]
    rows += _told_apart(run, _rows_of_datasets(run, plan))
    for name, used in _protocols(run, plan).items():
        rows.append(_row("protocol", name, settings=used))
    order = ["pool", "pretraining", "distillation", "import", "evaluation", "protocol"]
    unique = [dict(items) for items in dict.fromkeys(tuple(row.items()) for row in rows)]
    return sorted(unique, key=lambda row: order.index(row["part"]))


def _told_apart(run: Run, rows: Sequence[tuple[str, Row]]) -> list[Row]:
    """Rows, each given with its dataset. Those that bear one name on several datasets and have not
    the same settings on each get the dataset's label."""
    found: dict[tuple[str, str], dict[str, dict[str, None]]] = {}
    for dataset, row in rows:
        by_dataset = found.setdefault((row["part"], row["name"]), {})
        by_dataset.setdefault(dataset, {})[row["settings"]] = None
    told = []
    for dataset, row in rows:
        first, *others = found[row["part"], row["name"]].values()
        if any(other.keys() != first.keys() for other in others):
            row = row | {"name": f"{row['name']}, {run.datasets[dataset]['label']}"}
        told.append(row)
    return told


def _rows_of_datasets(run: Run, plan: Plan) -> list[tuple[str, Row]]:
    """The rows of what is done with each dataset, each with the dataset."""
    rows: list[tuple[str, Row]] = []
    for frozen in plan.of(Pretraining):
        own = run.training(frozen.stage, frozen.dataset, frozen.network)
        rows.append((frozen.dataset, _row("pretraining", frozen.network, settings=own)))
    for generator in plan.of(GeneratorTraining):
        own = run.training(generator.stage, generator.dataset)
        rows.append((generator.dataset, _row("pretraining", generator.stage, settings=own)))
    for job in plan.of(Distillation):
        objective = run.parse(job.method).objective
        ran = {"iterations": job.snapshots[-1], **job.settings(run)}
        name = f"{objective}, IPC {job.ipc}{_instead(run, objective, job)}"
        rows.append((job.dataset, _row("distillation", name, settings=ran)))
        for part in run.parse(job.method).parts:
            own = run.part(part, objective, job.dataset, job.ipc)
            name = f"{part.name} with {objective}{_instead(run, part.name, job)}"
            rows.append((job.dataset, _row("distillation", name, settings=own)))
        rows.append((job.dataset, _evaluation_row(run, job)))
    for imported in plan.of(Import):
        given, made = imported.described(run), imported.distillation
        name = f"{made.method}, IPC {made.ipc}, {imported.iterations} iterations, seed {made.seed}"
        shown = ("by", "from", "file", "entry")
        said: dict[str, Any] = {key: given[key] for key in shown if key in given}
        rows.append((made.dataset, _row("import", name, settings=said)))
        rows.append((made.dataset, _evaluation_row(run, made)))
    for tested in plan.of(Evaluation):
        made = tested.distillation
        for arch, own in tested.arch_settings(run).items():
            name = f"{arch} on sets of {run.parse(made.method).objective}, IPC {made.ipc}"
            rows.append((made.dataset, _row("evaluation", name, settings=own)))
    return rows


def _evaluation_row(run: Run, made: Distillation) -> Row:
    """How networks are trained on the sets of a distillation."""
    name = f"sets of {run.parse(made.method).objective}, IPC {made.ipc}"
    return _row("evaluation", name, settings=run.evaluation(made.method, made.dataset, made.ipc))


def _protocols(run: Run, plan: Plan) -> dict[str, dict[str, list[Any]]]:
    """By protocol and option, the values with which the run evaluates; protocols without options
    are left out."""
    found: dict[str, dict[str, set[Any]]] = {}
    for protocol in dict.fromkeys(job.protocol for job in plan.of(Evaluation)):
        parsed = parse_protocol(protocol, run.protocols)
        for option, value in parsed.options.items():
            if option != "protocol":
                used = found.setdefault(parsed.name.partition("@")[0], {})
                used.setdefault(option, set()).add(value)
    return {
        name: {option: sorted(values) for option, values in used.items()}
        for name, used in found.items()
    }


def _instead(run: Run, name: str, job: Distillation) -> str:
    """The addition to the name of a row if other settings replace those of the recipe."""
    taken = fallback(name, job.dataset, job.ipc)
    label = run.datasets[job.dataset]["label"]
    return f" (fallback for {label})" if taken else ""


def _pool_rows(run: Run, method: str) -> Iterable[Row]:
    """A row for the main network, then a row for each family of the others."""
    pool = load_pool(run.path("pools", f"{run.parse(method).pool}.yaml"))
    name = f"{pool.title} ({method})"
    options = _options(pool.main)
    if pool.warmup:
        options |= {"warm-up iterations": [pool.warmup]}
    yield _row("pool", name, _family(pool.main), pool.probability, options)
    families: dict[str, list[tuple[str, float]]] = {}
    for network, probability in pool.others:
        families.setdefault(_family(network), []).append((network, probability))
    for family, members in families.items():
        joint: dict[str, list[Any]] = {}
        for network, _ in members:
            for option, value in _options(network).items():
                joint.setdefault(option, []).extend(value)
        yield _row("pool", name, family, sum(share for _, share in members), joint)


def _family(network: str) -> str:
    name, _ = parse(network)
    return NAMES.get(name, name)


def _options(network: str) -> dict[str, list[Any]]:
    """All options of a network, given or default, each as a list with one value."""
    name, given = parse(network)
    known = {key: option.default for key, option in options_of(name).items()}
    options = known | given
    if options.get("depth") == 0:
        options["depth"] = "by image size"
    return {option: [value] for option, value in options.items()}


def _row(
    part: str,
    name: str,
    network: str = "",
    probability: float | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Row:
    shown = []
    for key, value in (settings or {}).items():
        values = value if isinstance(value, list) else [value]
        shown.append(f"{key} {' or '.join(dict.fromkeys(map(format_value, values)))}")
    share = "" if probability is None else f"{probability:.4g}"
    return {
        "part": part,
        "name": name,
        "network": network,
        "probability": share,
        "settings": ", ".join(shown),
    }


def settings(exhibit: Exhibit) -> tuple[Rows, Sheet]:
    """The model pools and hyperparameters that the run uses."""
    rows = settings_rows(exhibit.run)
    return rows, plain(exhibit, rows)
