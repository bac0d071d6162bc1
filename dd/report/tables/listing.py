"""A table whose rows are written in its definition."""

from __future__ import annotations

from dd.errors import DDError
from dd.plan.exhibits import Exhibit
from dd.report.captions import facts
from dd.report.labels import axis_label
from dd.report.sheet import Sheet, Text
from dd.report.tables.pivot import Rows

SUITE = "in this suite"  # the column that the definition leaves out


def check(exhibit: Exhibit) -> None:
    """Raise a :class:`DDError` for an entry without one of the columns."""
    for number, entry in enumerate(exhibit.definition["entries"]):
        for column in exhibit.definition["columns"]:
            if column != SUITE and column not in entry:
                raise DDError(f"{exhibit.path}: entries.{number} has no '{column}'")


def listing(exhibit: Exhibit) -> tuple[Rows, Sheet]:
    """The rows in the definition. ``in this suite`` is the method's name here, or ``–``."""
    columns = exhibit.definition["columns"]
    rows = []
    for entry in exhibit.definition["entries"]:
        entry = entry | {SUITE: _known(exhibit, entry.get("suite"))}
        rows.append({column: entry[column] for column in columns})
    return rows, plain(exhibit, rows)


def plain(exhibit: Exhibit, rows: Rows) -> Sheet:
    """A sheet that shows the rows as they are."""
    caption = exhibit.definition["caption"]
    if exhibit.definition["kind"] == "settings":
        caption = f"{caption} {facts(exhibit, [])}"
    return Sheet(
        name=exhibit.name,
        title=exhibit.definition["title"],
        caption=caption,
        header=[axis_label(column) for column in rows[0]],
        body=[[Text(str(value)) for value in row.values()] for row in rows],
        keys=len(rows[0]),
    )


def _known(exhibit: Exhibit, method: str | None) -> str:
    try:
        return str(exhibit.run.parse(method)) if method else "–"
    except DDError:
        return "–"
