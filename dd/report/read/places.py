"""Where cells stand on the axes of a table or figure, as these show it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dd.plan.exhibits import Cell, Exhibit


def labels(exhibit: Exhibit, cell: Cell) -> dict[str, Any]:
    """The axes of a cell as shown: ``dataset`` by its label."""
    return {**cell.labels, "dataset": exhibit.run.datasets[cell.dataset]["label"]}


def places(
    exhibit: Exhibit, axes: Sequence[str], rows: Iterable[Mapping[str, Any]]
) -> list[tuple[Any, ...]]:
    """The places of ``rows`` on ``axes``, each once, in the order in which ``exhibit`` has the
    values of its axes. The order of the rows is another one if cells are left out."""
    order: dict[str, list[Any]] = {axis: [*exhibit.values(axis)] for axis in exhibit.axes}
    datasets = exhibit.run.datasets
    bound = [binds.get("dataset") for binds in exhibit.values("dataset").values()]
    order["dataset"] = [datasets[name]["label"] for name in bound if name in datasets]
    found = dict.fromkeys(tuple(row[axis] for axis in axes) for row in rows)

    def at(place: tuple[Any, ...]) -> list[int]:
        values = dict(zip(axes, place, strict=True))
        given = [(values[axis], known) for axis, known in order.items() if axis in values]
        return [known.index(one) if one in known else len(known) for one, known in given]

    return sorted(found, key=at)
