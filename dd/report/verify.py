"""Check a finished run: files against their checksums, tables against the files behind them.

``run.json`` must list all files of the run. All that it lists must be unchanged, and
``config.json`` must say what ``run.json`` says of it. All evaluations must belong to the synthetic
sets in the folder. All tables, when rendered again, must give the same bytes. If there is a
``ro-crate-metadata.json``, it must say of these files and jobs what ``record`` says. The run may
come from somebody else, so files outside its folder are neither read nor removed, even if its
``run.json`` or ``config.json`` names them.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dd.artifacts.atomic import inside
from dd.artifacts.fields import TEXT, block_of, check_fields, missing
from dd.artifacts.text import FileSum, file_sum, load_json, load_rows
from dd.config.run import check_run_folder, read_run
from dd.errors import DDError
from dd.plan.jobs import Evaluation
from dd.plan.plan import ENDINGS, Plan, made_sets
from dd.report import crate
from dd.report.behind import behind, claim_of
from dd.report.record import provenances
from dd.report.table import render, write
from dd.runtime.say import say

CONFIG, RECORD = "config.json", "run.json"


def read_record(root: Path) -> dict[str, Any]:
    """The content of ``root/run.json``.

    Raises:
        DDError: if it is no record, or if the name of a file in it leads out of ``root``.
    """
    path = root / RECORD
    document = load_json(path)
    if not isinstance(document, dict) or missing(document, ("files",)) is not None:
        raise no_record(path)
    files = document["files"]
    if not block_of(TEXT).fits(files) or not all(map(TEXT.fits, files)):
        raise no_record(path)
    for name in files:
        inside(root, name, path)
    return document


def no_record(path: Path) -> DDError:
    """A :class:`DDError` for a ``run.json`` that is something else."""
    return DDError(f"{path}: is no record of `python -m dd record`")


def found_sums(root: Path, names: Iterable[str]) -> dict[str, FileSum]:
    """Size and checksum of those of the files called ``names`` that are in ``root``, by name."""
    return {name: file_sum(root / name) for name in names if (root / name).is_file()}


def changed_files(
    root: Path, record: Mapping[str, Any], sums: Mapping[str, FileSum]
) -> dict[str, str]:
    """The files of ``record`` that are missing or changed, with the fault of each."""
    faults = {}
    for name, digest in record["files"].items():
        if (root / name).is_dir():
            faults[name] = "is a folder, not the file that was recorded"
        elif name not in sums:
            faults[name] = "is missing"
        elif sums[name].digest != digest:
            faults[name] = "is not what was recorded (its checksum differs)"
    return faults


def unrecorded_files(plan: Plan, record: Mapping[str, Any]) -> dict[str, str]:
    """The fault of ``run.json``, if it does not list all files of the run."""
    names = [_name(path, plan) for path in plan.files()]
    if lost := [name for name in names if name not in record["files"]]:
        return {RECORD: f"does not list {lost[0]} ({len(lost)} of {len(names)} files of the run)"}
    return {}


def changed_configuration(root: Path, record: Mapping[str, Any]) -> dict[str, str]:
    """The fault of ``config.json``, if ``record`` has another configuration."""
    if record.get("configuration") == load_json(root / CONFIG):
        return {}
    return {CONFIG: "is not what was recorded (run.json has another configuration)"}


def remove(path: Path) -> bool:
    """Remove a file. Of a link, remove only the link, never its target. Do not remove a folder.

    Returns:
        Whether there is nothing at ``path`` any more.
    """
    if path.is_symlink() or path.is_file():
        path.unlink()
    return not path.exists()


def wrong_sets(plan: Plan, sums: Mapping[str, FileSum]) -> dict[str, str]:
    """The evaluations that do not belong to the synthetic set in the folder, by their names in it,
    with the fault of each."""
    faults = {}
    for job in plan.of(Evaluation):
        path = job.file(plan.run)
        digest = sums[_name(job.snapshot.file(plan.run), plan)].digest
        if any(row.get("synthetic") != digest for row in load_rows(path)):
            faults[_name(path, plan)] = (
                "is an evaluation of another synthetic set than the one in this run"
            )
    return faults


def wrong_tables(plan: Plan) -> dict[str, str]:
    """The tables that differ from what the files behind them give, as :func:`wrong_sets`."""
    faults = {}
    with tempfile.TemporaryDirectory() as folder:
        for (kind, name), exhibit in plan.exhibits.items():
            if kind != "table":
                continue
            stored = Path(plan.run.root, "tables", f"{name}.csv")
            rendered = Path(folder, stored.name)
            write(rendered, *render(exhibit))
            for ending in ENDINGS["table"]:
                path, again = (p.with_suffix(f".{ending}") for p in (stored, rendered))
                if not path.is_file() or path.read_bytes() != again.read_bytes():
                    faults[_name(str(path), plan)] = "is not what the files it is made from give"
    return faults


def _name(path: str, plan: Plan) -> str:
    """The name of a file of the plan in the run's folder."""
    return path.removeprefix(f"{plan.run.root}/")


def wrong_crate(
    plan: Plan, record: Mapping[str, Any], sums: Mapping[str, FileSum]
) -> dict[str, str]:
    """The fault of ``ro-crate-metadata.json``, if it does not say of files and jobs what their
    record gives. A run that was recorded before this suite wrote such files has none, which is no
    fault.

    Raises:
        DDError: if it is a link that leads out of the run, or no JSON; or if ``record`` has not
            what is in a crate.
    """
    root = Path(plan.run.root)
    path = inside(root, crate.NAME, root)
    if not path.is_file():
        return {}
    document, fields = load_json(path), {**crate.RECORD, **crate.PLUGINS}
    if missing(record, crate.RECORD) is not None:
        raise no_record(root / RECORD)
    check_fields(root / RECORD, record, fields)
    described = crate.describe(CONFIG, plan, record, sums, provenances(plan, sums))
    if entity := crate.difference(document, described):
        return {crate.NAME: f"does not belong to run.json and config.json (see '{entity}' there)"}
    return {}


def _fault(root: Path, wrong: Mapping[str, str], removed: bool) -> DDError:
    """The error that names the first of the ``wrong`` files; they are removed if asked."""
    name, what = next(iter(wrong.items()))
    more = f" (and {len(wrong) - 1} more files)" if len(wrong) > 1 else ""
    done = ""
    if removed:
        stay = [name for name in wrong if not remove(root / name)]
        done = "; removed: run snakemake again"
        if stay:
            rest = "; the others are removed" if len(stay) < len(wrong) else ""
            done = f"; {stay[0]} stays, because it is a folder: move it away{rest}"
    return DDError(f"{root}: {name} {what}{more}{done}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="DIR", help="a run's folder, results/NAME")
    parser.add_argument(
        "--remove",
        action="store_true",
        help="delete the files at fault, so that `snakemake` makes them again",
    )
    parser.add_argument(
        "--claim",
        metavar="ID",
        help="also say what is behind the verdict on this claim: numbers, files and their rows "
        "(default: none)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Check everything; the error names the first fault."""
    root = arguments.run
    check_run_folder(root)
    config = root / CONFIG
    plan = Plan(read_run(config)).main
    for path in plan.files():
        inside(root, _name(path, plan), config)
    claim = None if arguments.claim is None else claim_of(plan.run, arguments.claim)
    record = read_record(root)
    sums = found_sums(root, (CONFIG, RECORD, *record["files"]))  # in the order of a crate
    wrong = (
        changed_files(root, record, sums)
        | unrecorded_files(plan, record)
        | changed_configuration(root, record)
    )
    if not wrong:  # all others are about files that must be sound
        wrong = wrong_sets(plan, sums) | wrong_tables(plan) | wrong_crate(plan, record, sums)
    if wrong:
        raise _fault(root, wrong, arguments.remove)
    for line in behind(claim) if claim else ():
        say(line)
    tables = [name for kind, name in plan.exhibits if kind == "table"]
    say(
        f"{root}: all is as recorded: {len(tables)} tables from {len(plan.of(Evaluation))} "
        f"evaluations of {made_sets(plan)}"
    )
