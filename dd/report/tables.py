"""A table of a run: CSV (one row a cell), and the same as Markdown, LaTeX and HTML beside it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from dd.artifacts import save_rows, save_text
from dd.errors import DDError
from dd.grid import Grid, load_grid
from dd.plan import read_run
from dd.report.areas import areas
from dd.report.cost import cost
from dd.report.hyperparameters import JOB, RECIPE, hyperparameter_rows, setting_shown
from dd.report.labels import axis_label, setting_label, value_label
from dd.report.pivot import Rows, results
from dd.report.results import facts
from dd.report.reweighting import reweighting
from dd.report.settings import settings_rows
from dd.report.sheet import Sheet, Text
from dd.report.stages import stages


def listing(grid: Grid) -> tuple[Rows, Sheet]:
    """The rows written in the definition; ``in this suite`` is the spec, where the suite has it."""
    columns = grid.definition["columns"]
    rows = []
    for entry in grid.definition["entries"]:
        entry = entry | {"in this suite": _known(grid, entry.get("spec"))}
        for column in columns:
            if column not in entry:
                raise DDError(f"{grid.path}: entry {entry} has no '{column}'")
        rows.append({column: entry[column] for column in columns})
    return rows, _plain(grid, rows)


def settings(grid: Grid) -> tuple[Rows, Sheet]:
    """The pools and hyperparameters that the run uses."""
    rows = settings_rows(grid.run)
    return rows, _plain(grid, rows)


def hyperparameters(grid: Grid) -> tuple[Rows, Sheet]:
    """A row for each dataset, IPC and method: the settings named in the definition, as they ran."""
    columns = grid.definition["columns"]
    rows = hyperparameter_rows(grid.run, grid.definition["objectives"], columns, grid.path)
    sheet = Sheet(
        name=grid.name,
        title=grid.definition["title"],
        caption=f"{grid.definition['caption']} {facts(grid, [])}",
        header=[*map(axis_label, JOB), *map(setting_label, columns), axis_label(RECIPE)],
        body=[
            [
                *(Text(value_label(axis, row[axis])) for axis in JOB),
                *(Text(setting_shown(name, row[name])) for name in columns),
                Text(row[RECIPE].partition(":")[0]),  # the caption says the rest
            ]
            for row in rows
        ],
        keys=len(JOB),
    )
    return [{k: "" if v is None else v for k, v in row.items()} for row in rows], sheet


KINDS: dict[str, Callable[[Grid], tuple[Rows, Sheet]]] = {
    "results": results,
    "listing": listing,
    "settings": settings,
    "hyperparameters": hyperparameters,
    "cost": cost,
    "areas": areas,
    "stages": stages,
    "reweighting": reweighting,
}


def _plain(grid: Grid, rows: Rows) -> Sheet:
    """A sheet that shows the rows as they are."""
    caption = grid.definition["caption"]
    if grid.definition["kind"] == "settings":
        caption = f"{caption} {facts(grid, [])}"
    return Sheet(
        name=grid.name,
        title=grid.definition["title"],
        caption=caption,
        header=[axis_label(column) for column in rows[0]],
        body=[[Text(str(value)) for value in row.values()] for row in rows],
        keys=len(rows[0]),
    )


def _known(grid: Grid, spec: str | None) -> str:
    try:
        return str(grid.run.parse(spec)) if spec else "–"
    except DDError:
        return "–"


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
    grid = load_grid("table", arguments.table, read_run(arguments.config))
    rows, sheet = KINDS[grid.definition["kind"]](grid)
    write(arguments.out, rows, sheet)
    print(f"{arguments.out}: {len(rows)} rows; .md, .tex and .html beside it")
