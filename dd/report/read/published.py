"""Published values, and which of them are shown beside the cells of a table or figure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from dd.artifacts.text import load_rows
from dd.config.methods import parse_protocol
from dd.errors import DDError, unknown
from dd.plan.exhibits import Cell, Exhibit, published_files

FACTS = ("accuracy", "std", "ddof", "n", "diverged", "note", "source")  # others identify the cell
_DIVISORS = {  # by ddof of a standard deviation; None if the source does not say it
    0: "which divide by n (ours by n − 1)",
    1: "which divide by n − 1, as ours do",
    None: "of unknown divisor (ours: n − 1)",
}


@dataclass(frozen=True)
class Value:
    """A row of a published file (docs/formats.md, "Published values").

    Attributes:
        place: its columns that identify the cell.
        accuracy, std: percent; std as printed, None if none is printed.
        ddof: 0 if std divides by n, 1 if by n - 1; None if the source does not say it.
        n: number of networks; None if the source does not say it.
        diverged: number of these networks that diverged.
        note: why it cannot be compared with the cell for which it is printed, or "".
        source: where it was read.
    """

    place: Mapping[str, str]
    accuracy: float
    std: float | None
    ddof: int | None
    n: int | None
    diverged: int
    note: str
    source: str


def _value(path: str, row: Mapping[str, str]) -> Value:
    std, ddof, n, diverged = (
        _number(path, row, column) for column in ("std", "ddof", "n", "diverged")
    )
    return Value(
        {column: text for column, text in row.items() if column not in FACTS},
        percentage(path, row["accuracy"]),
        std,
        None if ddof is None else int(ddof),
        None if n is None else int(n),
        int(diverged or 0),
        row.get("note", ""),
        row["source"],
    )


@dataclass(frozen=True)
class _Source:
    """The values of a file that are used, and the cells with which they may be compared.

    Attributes:
        values: the values.
        only: by axis, the values of the axis that they may be compared with, each with its name in
            the file.
    """

    values: Sequence[Value]
    only: Mapping[str, Mapping[Any, Any]]

    def at(self, labels: Mapping[str, Any]) -> list[Value]:
        """The values of the cell at ``labels``."""
        if any(labels[axis] not in names for axis, names in self.only.items()):
            return []
        in_file = {axis: self.only.get(axis, {}).get(at, at) for axis, at in labels.items()}
        return [value for value in self.values if _matches(value.place, in_file)]


class Published:
    """The published values of a table or figure.

    Raises:
        DDError: if a file is missing or malformed, or does not fit the definition.
    """

    def __init__(self, exhibit: Exhibit) -> None:
        self.exhibit = exhibit
        self.sources = [
            _source(exhibit, path, entry)
            for path, entry in zip(published_files(exhibit), exhibit.published, strict=True)
        ]

    def of(self, cell: Cell) -> dict[str, Any]:
        """The published value of a cell, if dataset and settings are the same.

        Returns:
            ``published`` (percent), ``published_std``, ``published_ddof``, ``published_n``,
            ``published_source``: None if no comparable value is known; ``published_note``: a note
            about the value, and about values that are printed for this cell but cannot be compared
            with it; ``published_diverged``: the number of its networks that diverged.

        Raises:
            DDError: if two values can be compared with the cell.
        """
        run, printed = self.exhibit.run, []
        dataset = run.datasets[cell.dataset].get("comparable_to")
        labels = {**cell.labels, "dataset": dataset}
        protocols = [parse_protocol(name, run.protocols).options for name in cell.protocols]
        trained = [str(cell.arch), *(str(options.get("teacher", "")) for options in protocols)]
        place = (cell.method, cell.dataset, cell.ipc)
        classes = [options["protocol"] for options in protocols]
        if dataset is not None and run.as_published(*place, trained, classes):
            printed = [value for source in self.sources for value in source.at(labels)]
        comparable = [value for value in printed if not value.note]
        if len(comparable) > 1:
            where = ", ".join(f"{axis} {at}" for axis, at in labels.items())
            sources = " and ".join(value.source for value in comparable)
            raise DDError(f"{self.exhibit.path}: published: two values for {where}: {sources}")
        notes = [f"{v.accuracy:.2f} ({v.source}) is not comparable: {v.note}"
                 for v in printed if v.note]  # fmt: skip
        value = comparable[0] if comparable else None
        if value and run.precision != "float32":
            notes.insert(0, f"ours in {run.precision}")
        if value and value.diverged:
            notes.insert(0, f"{value.diverged} of {value.n} networks diverged")
        return {
            "published": value and value.accuracy,
            "published_std": value and value.std,
            "published_ddof": value and value.ddof,
            "published_n": value and value.n,
            "published_source": value and value.source,
            "published_note": "; ".join(notes),
            "published_diverged": value.diverged if value else 0,
        }


def _source(exhibit: Exhibit, path: str, entry: Mapping[str, Any]) -> _Source:
    where, rows = entry.get("where", {}), load_rows(path)
    columns = list(rows[0]) if rows else []
    for column in where:
        if column not in columns:
            raise DDError(f"{exhibit.path}: published: {unknown('column', column, columns)}")
    for column in columns:
        if column not in (*where, *exhibit.axes, *FACTS):
            raise DDError(f"{exhibit.path}: published column '{column}' of {path} is no axis")
    chosen = [row for row in rows if _matches(row, where)]
    if not chosen and rows:
        _raise_for_none(exhibit, path, rows, where)
    only = {}
    for axis, values in entry.get("only", {}).items():
        known = exhibit.definition["axes"].get(axis)
        for value in values:
            # a list of the names, because a value may be a block, which a mapping cannot look up
            if isinstance(known, list | Mapping) and value not in list(known):
                fault = unknown(f"value of axis '{axis}'", str(value), map(str, known))
                raise DDError(f"{exhibit.path}: published: {fault}")
        only[axis] = values if isinstance(values, Mapping) else {value: value for value in values}
    return _Source([_value(path, row) for row in chosen], only)


def _raise_for_none(
    exhibit: Exhibit, path: str, rows: Sequence[Mapping[str, str]], where: Mapping[str, Any]
) -> NoReturn:
    """Say why ``where`` chooses none of the ``rows`` of a file."""
    for column, value in where.items():
        known = dict.fromkeys(row[column] for row in rows)
        if not any(_same(text, value) for text in known):
            fault = unknown(f"value of column '{column}' of {path}", str(value), known)
            raise DDError(f"{exhibit.path}: published.where: {fault}")
    said = ", ".join(f"{column} {value}" for column, value in where.items())
    raise DDError(f"{exhibit.path}: published.where: no row of {path} has {said}")


def _matches(row: Mapping[str, str], place: Mapping[str, Any]) -> bool:
    return all(_same(row[axis], value) for axis, value in place.items() if axis in row)


def _same(text: str, value: Any) -> bool:
    """Whether ``text`` is ``value``; 1.0 and 1 are the same."""
    if isinstance(value, int | float):
        try:
            return float(text) == value
        except ValueError:
            return False
    return text == str(value)


def percentage(path: str, text: str | None) -> float:
    """An accuracy, from its ``text`` in the file ``path``.

    Raises:
        DDError: if it is no number from 0 to 100.
    """
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not 0 <= value <= 100:
        raise DDError(f"{path}: accuracy '{text}' is no percentage from 0 to 100")
    return value


def _number(path: str, row: Mapping[str, str], column: str) -> float | None:
    """The number in a column of a row; None if the column is empty."""
    text = row.get(column)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (value >= 0 if column == "std" else value in range(2 if column == "ddof" else 10**6)):
        valid = {"std": "a number of at least 0", "ddof": "0 or 1"}.get(column, "a whole number")
        raise DDError(f"{path}: {column} is '{text}', it must be {valid}")
    return value


def beside(row: Mapping[str, Any]) -> str:
    """A published value as shown beside a cell, ``28.49 ± 0.61``."""
    std = row["published_std"]
    return f"{row['published']:.2f}" + ("" if std is None else f" ± {std:.2f}")


def in_caption(rows: Iterable[Mapping[str, Any]], mark: str, spread: str) -> str:
    """The sentence of a caption about the published values of ``rows``; "" if there are none.

    Args:
        rows: the rows of the table or figure.
        mark: how the values are shown, such as ``In brackets``.
        spread: the text before their standard deviations, if they have any.
    """
    shown = [row for row in rows if row["published"] is not None]
    if not shown:
        return ""
    sentence = f" {mark}: published values"
    divisors = {_DIVISORS[r["published_ddof"]] for r in shown if r["published_std"] is not None}
    if divisors:
        sentence += f"{spread}their standard deviations, {' or '.join(sorted(divisors))}"
    if any(row["published_diverged"] for row in shown):
        sentence += ". Published values include networks that diverged"
    return f"{sentence}."
