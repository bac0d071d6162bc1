"""A table of a run: CSV (one row a cell), and the same as Markdown, LaTeX and HTML beside it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from dd.artifacts.text import save_rows, save_text
from dd.config.run import read_run
from dd.errors import DDError
from dd.plan.exhibits import Exhibit, load_exhibit
from dd.report.sheet import Sheet
from dd.report.tables.areas import areas
from dd.report.tables.cost import cost
from dd.report.tables.hyperparameters import (
    hyperparameters,
)
from dd.report.tables.listing import listing
from dd.report.tables.pivot import Rows, results
from dd.report.tables.reweighting import reweighting
from dd.report.tables.settings import settings
from dd.report.tables.stages import stages

KINDS: dict[str, Callable[[Exhibit], tuple[Rows, Sheet]]] = {
    "results": results,
    "listing": listing,
    "settings": settings,
    "hyperparameters": hyperparameters,
    "cost": cost,
    "areas": areas,
    "stages": stages,
    "reweighting": reweighting,
}


def write(out: Path, rows: Rows, sheet: Sheet) -> None:
    """Write ``out`` (CSV) and its renderings."""
    save_text(out.with_suffix(".md"), sheet.markdown())
    save_text(out.with_suffix(".tex"), sheet.latex())
    save_text(out.with_suffix(".html"), sheet.html())
    save_rows(out, rows)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="config.json of the run, in its folder")
    parser.add_argument("--table", required=True, help="the table's definition (YAML)")
    parser.add_argument(
        "--out", required=True, type=Path, help="CSV; .md, .tex and .html go beside"
    )


def run(arguments: argparse.Namespace) -> None:
    """Render a table."""
    if arguments.out.suffix != ".csv":
        raise DDError(f"--out: {arguments.out} must end in .csv")
    exhibit = load_exhibit("table", arguments.table, read_run(arguments.config))
    rows, sheet = KINDS[exhibit.definition["kind"]](exhibit)
    write(arguments.out, rows, sheet)
    print(f"{arguments.out}: {len(rows)} rows; .md, .tex and .html beside it")
