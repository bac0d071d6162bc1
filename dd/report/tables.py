"""A table of a run: CSV (one row a cell), and the same as Markdown, LaTeX and HTML beside it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dd.artifacts import save_rows, save_text
from dd.errors import DDError, unknown
from dd.grid import Grid, load_grid
from dd.plan import read_run
from dd.report.hyperparameters import JOB, hyperparameter_rows, setting_shown
from dd.report.labels import axis_label, setting_label, value_label
from dd.report.results import collect, facts
from dd.report.settings import settings_rows
from dd.report.sheet import Sheet, Text

Rows = list[dict[str, Any]]


def results(grid: Grid) -> tuple[Rows, Sheet]:
    """Accuracies: a tidy row a cell, and the pivot of ``rows`` by ``columns``."""
    rows = collect(grid)
    hidden = {"accuracies", "diverged"} | (set() if any(row["note"] for row in rows) else {"note"})
    return [_rounded(row, hidden) for row in rows], pivot(grid, rows)


def pivot(grid: Grid, rows: Rows) -> Sheet:
    """The sheet of ``rows``: the definition's ``rows`` downwards, its ``columns`` across."""
    down, across = grid.definition["rows"], grid.definition["columns"]
    best = _best(grid, rows)
    cells = {
        (_place(row, down), _place(row, across)): Text(_shown(row), id(row) in best) for row in rows
    }
    columns = list(dict.fromkeys(_place(row, across) for row in rows))
    body = [
        [*map(Text, key), *(cells.get((key, column), Text("–")) for column in columns)]
        for key in dict.fromkeys(_place(row, down) for row in rows)
    ]
    return Sheet(
        name=grid.name,
        title=grid.definition["title"],
        caption=f"{grid.definition['caption']} {facts(grid, rows)}{_marks(grid, rows)}",
        header=[*map(axis_label, down), *(", ".join(column) for column in columns)],
        body=body,
        keys=len(down),
        notes=[f"† {note}." for note in dict.fromkeys(row["note"] for row in rows) if note],
    )


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
        header=[*map(axis_label, JOB), *map(setting_label, columns)],
        body=[
            [
                *(Text(value_label(axis, row[axis])) for axis in JOB),
                *(Text(setting_shown(name, row[name])) for name in columns),
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


def _place(row: dict[str, Any], axes: Sequence[str]) -> tuple[str, ...]:
    return tuple(value_label(axis, row[axis]) for axis in axes)


def _shown(row: dict[str, Any]) -> str:
    text = f"{row['mean']:.2f}"
    if row["std"] is not None:
        text += f" ± {row['std']:.2f}"
    if row["note"]:
        text += "†"
    return text if row["published"] is None else f"{text} [{row['published']:.2f}]"


def _best(grid: Grid, rows: Rows) -> set[int]:
    """The rows (by ``id``) that are the best of their group along ``best_of``."""
    axis = grid.definition.get("best_of")
    if axis is None:
        return set()
    groups: dict[tuple, Rows] = {}
    apart = _apart(grid)
    for row in rows:
        if row[axis] not in apart:
            key = tuple(row[other] for other in grid.axes if other != axis)
            groups.setdefault(key, []).append(row)
    best = set()
    for group in groups.values():
        top = max(round(row["mean"], 2) for row in group)
        if len(group) > 1:
            best |= {id(row) for row in group if round(row["mean"], 2) == top}
    return best


def _apart(grid: Grid) -> list[Any]:
    """The values of ``best_of`` that do not compete.

    Raises:
        DDError: naming one that the axis does not have.
    """
    axis, apart = grid.definition["best_of"], grid.definition.get("best_except", [])
    given = grid.definition["axes"].get(axis)
    known = list(given) if isinstance(given, (list, Mapping)) else [given]
    for value in apart:
        if value not in known:
            raise DDError(f"{grid.path}: best_except: {unknown(axis, str(value), map(str, known))}")
    return apart


def _marks(grid: Grid, rows: Rows) -> str:
    """What brackets and bold type mean, where the sheet has them."""
    said, axis = "", grid.definition.get("best_of")
    if any(row["published"] is not None for row in rows):
        said = " In brackets: published values."
    if axis:
        others = [other for other in grid.definition["columns"] if other != axis]
        by = " and ".join(axis_label(other).lower() for other in others)
        said += f" Bold: best {axis_label(axis).lower()} {f'by {by}' if by else 'of each row'}"
        apart = " and ".join(value_label(axis, value) for value in _apart(grid))
        said += f"; {apart} does not compete." if apart else "."
    return said


def _rounded(row: dict[str, Any], hidden: set[str]) -> dict[str, Any]:
    """A row for the CSV: numbers to four decimals, what is absent empty."""
    shown = {key: value for key, value in row.items() if key not in hidden}
    for key, value in shown.items():
        if isinstance(value, float):
            shown[key] = round(value, 4)
    return {key: "" if value is None else value for key, value in shown.items()}


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
