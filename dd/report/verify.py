"""Check a finished run again: files against their checksums, tables against what they came from.

Every file that ``run.json`` lists must be as it was; every evaluation must be of the synthetic set
that lies beside it; every table, rendered anew, must give the same bytes. The run may be someone
else's: what its ``run.json`` or ``config.json`` names outside of its folder is not read, let alone
removed.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from dd.artifacts.atomic import inside
from dd.artifacts.text import file_digest, load_json, load_rows
from dd.config.run import read_run
from dd.errors import DDError
from dd.plan.jobs import Distillation, Evaluation
from dd.plan.plan import ENDINGS, Plan
from dd.report.table import render, write


def recorded(root: Path) -> dict[str, str]:
    """Files of ``root/run.json``, as they are called there, and their checksums.

    Raises:
        DDError: if it is no record, or one of its names leads out of ``root``.
    """
    record = root / "run.json"
    document = load_json(record)
    files = document.get("files") if isinstance(document, dict) else None
    if not isinstance(files, dict):
        raise DDError(f"{record}: is no record of `python -m dd record`")
    for name in files:
        inside(root, name, record)
    return files


def changed_files(root: Path) -> dict[str, str]:
    """Files of ``root/run.json`` that are missing or not as they were, and which of the two."""
    found = {}
    for name, digest in recorded(root).items():
        path = root / name
        if not path.is_file():
            found[name] = "is missing"
        elif file_digest(path) != digest:
            found[name] = "is not what was recorded (its checksum differs)"
    return found


def remove(path: Path) -> None:
    """Remove a file; of a link the link, never what it leads to; a folder stays."""
    if path.is_symlink() or path.is_file():
        path.unlink()


def wrong_sets(plan: Plan) -> dict[str, str]:
    """Evaluations that are not of the set beside them."""
    found = {}
    for job in plan.of(Evaluation):
        path = job.file(plan.run)
        digest = file_digest(job.snapshot.file(plan.run))
        if any(row.get("synthetic") != digest for row in load_rows(path)):
            found[path] = "is of another synthetic set than the one beside it"
    return found


def wrong_tables(plan: Plan) -> dict[str, str]:
    """Tables whose cells are not what the files that they come from give."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for (kind, name), exhibit in plan.exhibits.items():
            if kind != "table":
                continue
            ours = Path(plan.run.root, "tables", f"{name}.csv")
            theirs = Path(folder, ours.name)
            write(theirs, *render(exhibit))
            for ending in ENDINGS["table"]:
                path, again = (p.with_suffix(f".{ending}") for p in (ours, theirs))
                if not path.is_file() or path.read_bytes() != again.read_bytes():
                    found[str(path)] = "is not what the files it comes from give"
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="DIR", help="a run's folder, results/NAME")
    parser.add_argument(
        "--remove",
        action="store_true",
        help="delete the files that are not as they were, so that `snakemake` makes them again",
    )


def run(arguments: argparse.Namespace) -> None:
    """Check everything; an error names what is wrong."""
    root = arguments.run
    config = root / "config.json"
    plan = Plan(read_run(config)).main
    for path in plan.files():
        inside(root, path.removeprefix(f"{plan.run.root}/"), config)
    wrong = changed_files(root)
    if arguments.remove:
        for name in wrong:
            remove(root / name)
    if not wrong:
        wrong = wrong_sets(plan) | wrong_tables(plan)
    if wrong:
        name, what = next(iter(wrong.items()))
        more = f" (and {len(wrong) - 1} more files)" if len(wrong) > 1 else ""
        done = "; removed: run snakemake again" if arguments.remove else ""
        raise DDError(f"{root}: {name} {what}{more}{done}")
    tables = [name for kind, name in plan.exhibits if kind == "table"]
    print(
        f"{root}: all is as recorded: {len(tables)} tables from {len(plan.of(Evaluation))} "
        f"evaluations of {len(plan.of(Distillation))} distillations"
    )
