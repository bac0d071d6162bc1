"""Rows of numbers as a sheet with some axes as rows and some as columns."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from dd.plan.exhibits import Exhibit
from dd.report.captions import facts, usual_number, warnings
from dd.report.compare import compare
from dd.report.labels import axis_label, value_label
from dd.report.read import published
from dd.report.read.accuracies import collect, mark_seen
from dd.report.read.places import places
from dd.report.sheet import Sheet, Text

Rows = list[dict[str, Any]]
Place = tuple[str, ...]
POINTS = ("mean", "std", "std_sets", "std_within", "published", "published_std")
"""Columns of accuracies."""
RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def results(exhibit: Exhibit) -> tuple[Rows, Sheet]:
    """Accuracies: one tidy row per cell, and the sheet of ``rows`` by ``columns``."""
    rows = collect(exhibit)
    if exhibit.definition.get("mark_seen"):
        mark_seen(exhibit, rows)
    hidden = {"accuracies", "diverged", "published_diverged"}
    hidden |= {name for name in ("note", "fallback") if not any(row[name] for row in rows)}
    return [rounded(row, hidden) for row in rows], pivot(exhibit, rows)


def pivot(exhibit: Exhibit, rows: Rows) -> Sheet:
    """The sheet of ``rows``, by the ``rows`` and ``columns`` of the definition."""
    down, across = exhibit.definition["rows"], exhibit.definition["columns"]
    best, compared = _best(exhibit, rows)
    usual = usual_number((row["n"] for row in rows if row["n"]), 0)
    signs = _signs(row["note"] for row in rows)
    columns, body = arranged(
        {
            (place_labels(row, down), place_labels(row, across)): Text(
                _shown(row, usual, signs.get(row["note"], "")), id(row) in best
            )
            for row in rows
        },
        headings(exhibit, across, rows),
    )
    notes = [f"{sign} {note}." for note, sign in signs.items()]
    marks = _marks(exhibit, rows, compared)
    return Sheet(
        name=exhibit.name,
        title=exhibit.definition["title"],
        caption=f"{exhibit.definition['caption']} {facts(exhibit, rows)}{marks}",
        header=[*map(axis_label, down), *(", ".join(column) for column in columns)],
        body=body,
        keys=len(down),
        notes=[*notes, *warnings(exhibit)],
    )


def place_labels(row: Mapping[str, Any], axes: Sequence[str]) -> Place:
    """The labels of a row's values on ``axes``."""
    return tuple(value_label(axis, row[axis]) for axis in axes)


def headings(exhibit: Exhibit, axes: Sequence[str], rows: Rows) -> list[Place]:
    """The labels of the columns by ``axes`` that ``rows`` need, in the order of the axes."""
    at = places(exhibit, axes, rows)
    return [place_labels(dict(zip(axes, values, strict=True)), axes) for values in at]


def arranged(
    cells: Mapping[tuple[Place, Place], Text], columns: Iterable[Place]
) -> tuple[list[Place], list[list[Text]]]:
    """Arrange cells, which are given by their place in rows and in ``columns``.

    Returns:
        The columns, each once; and for each place in rows its labels and its cells, ``–`` for a
        missing cell. The order of rows is that of ``cells``.
    """
    columns = list(dict.fromkeys(columns))
    return columns, [
        [*map(Text, key), *(cells.get((key, column), Text("–")) for column in columns)]
        for key in dict.fromkeys(down for down, _ in cells)
    ]


def rounded(
    row: Mapping[str, Any], hidden: Collection[str] = (), points: Collection[str] = POINTS
) -> dict[str, Any]:
    """A row for the CSV: missing values empty, numbers rounded.

    Those in percent and points, in the columns ``points``, have four decimals. All others have
    six significant digits, and no fewer than four decimals: a rate or a variance may be small.
    """
    shown = {key: value for key, value in row.items() if key not in hidden}
    for key, value in shown.items():
        if isinstance(value, float):
            small = abs(value) < 100 and key not in points
            shown[key] = float(f"{value:.6g}") if small else round(value, 4)
    return {key: "" if value is None else value for key, value in shown.items()}


def _signs(notes: Iterable[str]) -> dict[str, str]:
    """The sign of each note: a dagger, with a number if there are several."""
    different = [note for note in dict.fromkeys(notes) if note]
    if len(different) == 1:
        return {different[0]: "†"}
    return {note: f"†{number}".translate(RAISED) for number, note in enumerate(different, 1)}


def _shown(row: dict[str, Any], usual: int, sign: str) -> str:
    """A cell; with its number of networks if that is not the ``usual`` one, and the ``sign`` of its
    note."""
    if row["mean"] is None:
        return f"–{sign}"
    text = f"{row['mean']:.2f}"
    if row["std"] is not None:
        text += f" ± {row['std']:.2f}"
    if row["n"] != usual:
        text += f" (n = {row['n']})"
    text += sign
    if row.get("seen") == "yes":
        text += "ˢ"
    return text if row["published"] is None else f"{text} [{published.beside(row)}]"


def _best(exhibit: Exhibit, rows: Rows) -> tuple[set[int], bool]:
    """The rows (by ``id``) that are the best along ``best_of``, or not separated from the best, and
    whether any two rows were compared.

    Two rows are separated if the interval of their difference leaves out 0. If none is separated
    from the best, the numbers do not say which is the best, and the result is empty. With
    ``best_within``, a row is only compared with rows of the same objective.
    """
    axis = exhibit.definition.get("best_of")
    if axis is None:
        return set(), False
    groups: dict[tuple, Rows] = {}
    apart, within = exhibit.definition.get("best_except", ()), "best_within" in exhibit.definition
    for cell, row in zip(exhibit.cells(), rows, strict=True):
        if row[axis] not in apart and row["mean"] is not None:
            key = [row[other] for other in exhibit.axes if other != axis]
            key += [exhibit.run.parse(cell.method).objective] if within else []
            groups.setdefault(tuple(key), []).append(row)
    best = set()
    for group in groups.values():
        top = max(group, key=lambda row: row["mean"])
        near = {id(row) for row in group if row is top or not _separated(top, row)}
        best |= near if len(near) < len(group) else set()
    return best, any(len(group) > 1 for group in groups.values())


def _separated(best: dict[str, Any], other: dict[str, Any]) -> bool:
    interval = compare(best["accuracies"], other["accuracies"]).estimate.interval()
    return interval is not None and interval[0] > 0


def _marks(exhibit: Exhibit, rows: Rows, compared: bool) -> str:
    """The meaning of brackets, bold type (if rows were ``compared``) and the sign ˢ, as far as the
    sheet has them."""
    text = published.in_caption(rows, "In brackets", " ± ")
    if compared:
        axis = exhibit.definition["best_of"]
        others = [other for other in exhibit.definition["columns"] if other != axis]
        by = " and ".join(axis_label(other).lower() for other in others)
        text += f" Bold: best {axis_label(axis).lower()} {f'by {by}' if by else 'of each row'}"
        if "best_within" in exhibit.definition:
            text += f", among those of one {exhibit.definition['best_within']}"
        apart = " and ".join(
            value_label(axis, value) for value in exhibit.definition.get("best_except", ())
        )
        text += (
            ", and what the 90 % interval of its difference from the best does not separate from "
            "it, which depends on the scatter of both; nothing where it separates nothing"
        )
        text += f"; {apart} does not compete." if apart else "."
    if any(row.get("seen") == "yes" for row in rows):
        text += (
            " ˢ: seen, the network was used in the distillation, as the method's own or as an "
            "auxiliary network; all others are unseen."
        )
    return text
