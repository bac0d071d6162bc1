"""Check a finished run: files against their checksums, tables against the files behind them.

All files that ``run.json`` lists must be unchanged, and ``config.json`` must say what ``run.json``
says of it. All evaluations must belong to the synthetic sets in the folder. All tables, when
rendered again, must give the same bytes. If there is a ``ro-crate-metadata.json``, it must have the
checksums of these files. The run may come from somebody else, so files outside its folder are
neither read nor removed, even if its ``run.json`` or ``config.json`` names them.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from dd.artifacts.atomic import inside
from dd.artifacts.text import file_digest, load_json, load_rows
from dd.config.run import read_run
from dd.errors import DDError, unknown
from dd.plan.jobs import Evaluation
from dd.plan.plan import ENDINGS, Plan, made_sets
from dd.report import crate
from dd.report.table import render, write
from dd.runtime.say import say

CONFIG = "config.json"


def recorded(root: Path) -> dict[str, str]:
    """The files that ``root/run.json`` lists, by their names there, with their checksums.

    Raises:
        DDError: if it is no record, or if a name leads out of ``root``.
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
    """The files of ``root/run.json`` that are missing or changed, with the fault of each."""
    faults = {}
    for name, digest in recorded(root).items():
        path = root / name
        if not path.is_file():
            faults[name] = "is missing"
        elif file_digest(path) != digest:
            faults[name] = "is not what was recorded (its checksum differs)"
    return faults


def changed_configuration(root: Path) -> dict[str, str]:
    """The fault of ``config.json``, if ``run.json`` has recorded another configuration."""
    if load_json(root / "run.json").get("configuration") == load_json(root / CONFIG):
        return {}
    return {CONFIG: "is not what was recorded (run.json has another configuration)"}


def remove(path: Path) -> None:
    """Remove a file. Of a link, remove only the link, never its target. Do not remove a folder."""
    if path.is_symlink() or path.is_file():
        path.unlink()


def wrong_sets(plan: Plan) -> dict[str, str]:
    """The evaluations that do not belong to the synthetic set in the folder, by their names in it,
    with the fault of each."""
    faults = {}
    for job in plan.of(Evaluation):
        path = job.file(plan.run)
        digest = file_digest(job.snapshot.file(plan.run))
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


def wrong_crate(root: Path) -> dict[str, str]:
    """The fault of ``ro-crate-metadata.json``, if it does not say of the files what ``run.json``
    says, or has other checksums of it and of ``config.json``. A run that was recorded before this
    suite wrote such files has none, which is no fault.

    Raises:
        DDError: if it is a link that leads out of ``root``, or no JSON.
    """
    path = inside(root, crate.NAME, root)
    if not path.is_file():
        return {}
    own = {name: file_digest(root / name) for name in ("run.json", CONFIG)}
    expected = own | recorded(root)
    found = crate.digests(load_json(path))
    if any(found.get(name) != digest for name, digest in expected.items()):
        return {crate.NAME: "does not belong to run.json and config.json"}
    return {}


def behind_claim(plan: Plan, claim: str) -> list[str]:
    """Lines about each difference that a claim is about: its numbers, the files behind them.

    Raises:
        DDError: if the run has no table ``claims``, or no such claim.
    """
    path = Path(plan.run.root, "tables", "claims.csv")
    rows = load_rows(path)
    known = list(dict.fromkeys(row.get("claim", "") for row in rows))
    if claim not in known:
        raise unknown(f"claim of {path}", claim, known)
    lines = []
    for row in rows:
        if row["claim"] == claim:
            interval = f" ({row['low']} to {row['high']})" if row["low"] else ""
            place = ", ".join(filter(None, (row["dataset"], row["place"], row["compared"])))
            lines.append(f"{place}: {row['difference']}{interval} {row['unit']}")
            lines += [f"  from {file}" for file in row["files"].split()]
    return lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="DIR", help="a run's folder, results/NAME")
    parser.add_argument(
        "--remove",
        action="store_true",
        help="delete the files at fault, so that `snakemake` makes them again",
    )
    parser.add_argument(
        "--claim", metavar="ID", help="also list the files behind this claim (default: none)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Check everything; the error names the first fault."""
    root = arguments.run
    config = root / CONFIG
    plan = Plan(read_run(config)).main
    for path in plan.files():
        inside(root, _name(path, plan), config)
    wrong = changed_files(root) | changed_configuration(root)
    if not wrong:  # all others are about files that must be sound
        wrong = wrong_sets(plan) | wrong_tables(plan) | wrong_crate(root)
    if wrong:
        if arguments.remove:
            for name in wrong:
                remove(root / name)
        name, what = next(iter(wrong.items()))
        more = f" (and {len(wrong) - 1} more files)" if len(wrong) > 1 else ""
        done = "; removed: run snakemake again" if arguments.remove else ""
        raise DDError(f"{root}: {name} {what}{more}{done}")
    for line in behind_claim(plan, arguments.claim) if arguments.claim else ():
        say(line)
    tables = [name for kind, name in plan.exhibits if kind == "table"]
    say(
        f"{root}: all is as recorded: {len(tables)} tables from {len(plan.of(Evaluation))} "
        f"evaluations of {made_sets(plan)}"
    )
