"""The record of a finished run: code, machines, settings, and a checksum of each file.

It reads the artifacts from which the tables and figures of a run were made, and writes ``run.json``
beside them. Later ``python -m dd verify`` checks the files against it. ``ro-crate-metadata.json``,
beside it, says the same to programs that read RO-Crates.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dd.artifacts.atomic import check_apart, check_out
from dd.artifacts.headers import read_origin
from dd.artifacts.provenance import code_version, makers_from_text
from dd.artifacts.text import FileSum, file_sum, load_json, load_rows, save_json
from dd.config.run import read_run
from dd.errors import DDError
from dd.plan.jobs import Erasing, Evaluation
from dd.plan.plan import Plan
from dd.report import crate
from dd.runtime.say import say

UNNAMED = "a GPU whose name older evaluations do not say"
LIBRARIES = ("torch", "torchvision", "numpy", "pandas", "matplotlib", "seaborn", "snakemake")


def checksums(plan: Plan) -> dict[str, FileSum]:
    """Size and checksum of each file of a run, by its name in the run's folder.

    Raises:
        DDError: if a table or figure of the run, or a file from which they were made, is missing.
    """
    files = [Path(path) for path in plan.files()]
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise DDError(
            f"{missing[0]}: is missing ({len(missing)} of {len(files)} files of the run); finish "
            "the run first: snakemake"
        )
    return {str(path.relative_to(plan.run.root)): file_sum(path) for path in files}


def provenances(plan: Plan, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The provenance of the artifacts among files of a run, by name; a file from elsewhere may have
    none."""
    tensors = [name for name in names if name.endswith(".safetensors")]
    origins = {name: read_origin(Path(plan.run.root, name)) for name in tensors}
    return {name: origin for name, origin in origins.items() if "created" in origin}


def record(
    config: Path, plan: Plan, sums: Mapping[str, FileSum], provenance: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """The content of ``run.json``.

    Args:
        config: the run's ``config.json``.
        plan: the plan of the run, without its optional tables and figures.
        sums: its :func:`checksums`.
        provenance: its :func:`provenances`.
    """
    origins = [*provenance.values()]
    rows = [*_makers_of_rows(plan)]
    makers = [*origins, *rows, *_earlier(origins), *_earlier_of_rows(plan)]
    times = [one["created"] for one in (*origins, *rows) if "created" in one]
    used = {name for origin in origins for name in origin.get("plugins", [])}
    used |= {name for text in _texts_of_plugins(plan, makers) for name in text.split(", ")}
    run = plan.run
    return {
        "run": run.name,
        "title": run.title,
        "code": {"artifacts": _all(makers, "code"), "tables and figures": code_version()},
        **({"plugins": sorted(used)} if used else {}),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "hardware": {
            "cpu": _all(origins, "cpu"),
            "cores": os.cpu_count(),
            "gpu": _all([*origins, *rows], "gpu"),
            "torch": _all(makers, "torch"),
        },
        "started": min(times, default=None),
        "ended": max(times, default=None),
        "seeds": run.seeds,
        "networks": run.networks,
        "configuration": load_json(config),
        "files": {name: summed.digest for name, summed in sums.items()},
    }


def _makers_of_rows(plan: Plan) -> Iterator[dict[str, str]]:
    """The code, GPUs and times of evaluations and erasings, as far as their rows say them."""
    for job in (*plan.of(Evaluation), *plan.of(Erasing)):
        for row in load_rows(job.file(plan.run)):
            made = {key: row[key] for key in ("created", "code", "gpu") if row.get(key)}
            if (row.get("device") or "").startswith("cuda"):
                made = {"gpu": UNNAMED, **made}
            yield made


def _earlier(origins: Iterable[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """The other code or torch that began an artifact before a job was killed."""
    for origin in origins:
        yield from origin.get("continued_from", [])


def _earlier_of_rows(plan: Plan) -> Iterator[dict[str, str]]:
    """The same of the evaluations, whose rows say it."""
    for job in plan.of(Evaluation):
        for text in {row.get("continued_from") or "" for row in load_rows(job.file(plan.run))}:
            yield from makers_from_text(text)


def _texts_of_plugins(plan: Plan, makers: Iterable[dict[str, Any]]) -> Iterator[str]:
    """What makers before a kill, and rows of results, say of the plug-ins that they used."""
    for maker in makers:
        if isinstance(text := maker.get("plugins"), str):
            yield text
    for job in (*plan.of(Evaluation), *plan.of(Erasing)):
        yield from filter(None, {row.get("plugins") for row in load_rows(job.file(plan.run))})


def _all(origins: Iterable[dict[str, Any]], key: str) -> list[str]:
    """The different values of ``key``, sorted."""
    return sorted({str(origin[key]) for origin in origins if key in origin})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, type=Path, help="config.json of the run")
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        help=f"the JSON file to write; {crate.NAME} is written beside it",
    )


def run(arguments: argparse.Namespace) -> None:
    """Write ``run.json`` and ``ro-crate-metadata.json``."""
    check_out(arguments.out, ".json", arguments.config)
    beside = arguments.out.with_name(crate.NAME)
    if arguments.out.name == beside.name:
        raise DDError(
            f"--out: {beside} is written beside the record; choose another name: run.json"
        )
    plan = Plan(read_run(arguments.config)).main
    for path in (arguments.out, beside):
        check_apart(path, arguments.config, *plan.files())
    sums = checksums(plan)
    origins = provenances(plan, sums)
    document = record(arguments.config, plan, sums, origins)
    save_json(arguments.out, document)
    more = {path.name: file_sum(path) for path in (arguments.config, arguments.out)}
    described = crate.describe(arguments.config.name, plan, document, more | sums, origins)
    save_json(beside, described)
    say(f"{arguments.out}: {len(sums)} files of run {document['run']}")
