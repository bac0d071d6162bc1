"""A table of a run: CSV (one row per cell), and beside it Markdown, LaTeX and HTML."""

from __future__ import annotations

import argparse
from pathlib import Path

from dd.artifacts.text import save_rows, save_text
from dd.plan.exhibits import Exhibit
from dd.plan.kinds import check, kind_of
from dd.report.asked import asked
from dd.report.sheet import Sheet
from dd.report.tables.pivot import Rows
from dd.runtime.say import say


def render(exhibit: Exhibit) -> tuple[Rows, Sheet]:
    """The rows of a table, for its CSV, and the sheet for its renderings."""
    check(exhibit)
    return kind_of(exhibit).render(exhibit)


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
        "--out", required=True, type=Path, help="CSV; .md, .tex and .html are written beside it"
    )


def run(arguments: argparse.Namespace) -> None:
    """Render a table."""
    exhibit = asked("table", arguments.table, arguments.config, arguments.out)
    rows, sheet = render(exhibit)
    write(arguments.out, rows, sheet)
    say(f"{arguments.out}: {len(rows)} rows; .md, .tex and .html beside it")
