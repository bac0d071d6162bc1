"""A ranking of methods: accuracy, gain over random images, share of the full data's accuracy, cost.

The gain over random and the share that is recovered make methods comparable whose evaluations
differ (after DD-Ranking, arXiv:2505.13300).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dd.errors import DDError
from dd.plan.exhibits import Exhibit, unknown_value
from dd.plan.jobs import distillations
from dd.report.captions import facts, warnings
from dd.report.compare import compare, ratio
from dd.report.intervals import Estimate
from dd.report.labels import axis_label
from dd.report.numbers import interval, number
from dd.report.read.accuracies import BySet, collect
from dd.report.read.costs import costs
from dd.report.sheet import Sheet, Text
from dd.report.tables.pivot import POINTS, Rows, place_labels, rounded

HEADER = ("Accuracy (%)", "Over random (points)", "Of full (%)", "Seconds", "Memory (MB)")


COMPARED = ("over_random", "of_full")  # points, percent
REFERENCES = ("baseline", "ceiling")  # the methods that all others are compared with


def check(exhibit: Exhibit) -> None:
    """Raise a :class:`DDError` unless each cell has the baseline and the ceiling beside it."""
    definition, run = exhibit.definition, exhibit.run
    if "method" not in definition["axes"]:
        raise DDError(f"{exhibit.path}: a ranking needs an axis 'method'")
    known = definition["axes"]["method"]
    for role in REFERENCES:
        if isinstance(known, list | Mapping) and definition[role] not in known:
            fault = unknown_value("axis 'method'", definition[role], known)
            raise DDError(f"{exhibit.path}: {role}: {fault}")
    groups: dict[tuple[Any, ...], set[str]] = {}
    for cell in exhibit.cells():
        if distillations(cell, run):  # others published the set, or it is ours
            groups.setdefault(_group(cell.labels, exhibit), set()).add(cell.labels["method"])
    for group, methods in groups.items():
        for role in REFERENCES:
            if definition[role] not in methods:
                axes = (axis for axis in exhibit.axes if axis != "method")
                place = ", ".join(f"{axis} {at}" for axis, at in zip(axes, group, strict=True))
                raise DDError(
                    f"run {run.name}, table {exhibit.name}: {role} '{definition[role]}' is missing "
                    f"beside {', '.join(sorted(methods))} ({place}); keep it in the run, or leave "
                    "the table out"
                )


def ranking(exhibit: Exhibit) -> tuple[Rows, Sheet]:
    """One row per cell; in each group of cells that differ in the method alone, best first."""
    down = exhibit.definition["rows"]
    rows = measured(exhibit)
    groups: dict[tuple[Any, ...], Rows] = {}
    for row in rows:
        groups.setdefault(_group(row, exhibit), []).append(row)
    ranked = [row for group in groups.values() for row in sorted(group, key=lambda r: -r["mean"])]
    sheet = Sheet(
        name=exhibit.name,
        title=exhibit.definition["title"],
        caption=f"{exhibit.definition['caption']} {facts(exhibit, rows)}",
        header=[*map(axis_label, down), *HEADER],
        body=[[*map(Text, place_labels(row, down)), *map(Text, _shown(row))] for row in ranked],
        keys=len(down),
        notes=warnings(exhibit),
    )
    bounds = [f"{name}{end}" for name in COMPARED for end in ("", "_low", "_high")]
    return [rounded(row, ("diverged",), (*POINTS, *bounds)) for row in ranked], sheet


def measured(exhibit: Exhibit) -> Rows:
    """The numbers of each cell.

    Raises:
        DDError: if a file behind a cell is missing.
    """
    cells, collected = exhibit.cells(), collect(exhibit)
    names = {role: exhibit.definition[role] for role in REFERENCES}
    beside: dict[tuple[Any, ...], BySet] = {
        (row["method"], *_group(row, exhibit)): row["accuracies"] for row in collected
    }
    rows = []
    for cell, row in zip(cells, collected, strict=True):
        if not row["n"]:  # others did not publish the set
            continue
        baseline, ceiling = (beside[name, *_group(row, exhibit)] for name in names.values())
        over = compare(row["accuracies"], baseline).estimate
        share = ratio(row["accuracies"], ceiling)
        kept = (*exhibit.axes, "mean", "std", "n", "n_sets", "n_networks", "diverged")
        of_baseline, of_ceiling = (row["method"] == names[role] for role in names)
        rows.append(
            {name: row[name] for name in kept}
            | _bounds("over_random", None if of_baseline else over)
            | _bounds("of_full", None if of_ceiling else share, 100)
            | costs(exhibit, cell)
        )
    return rows


def _group(row: Mapping[str, Any], exhibit: Exhibit) -> tuple[Any, ...]:
    return tuple(row[axis] for axis in exhibit.axes if axis != "method")


def _bounds(name: str, estimate: Estimate | None, scale: float = 1) -> dict[str, Any]:
    """An estimate and its interval, for a CSV; None for a cell compared with itself."""
    if estimate is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    low, high = estimate.interval() or (None, None)
    values = (estimate.value, low, high)
    names = (name, f"{name}_low", f"{name}_high")
    return {n: None if v is None else scale * v for n, v in zip(names, values, strict=True)}


def _shown(row: dict[str, Any]) -> list[str]:
    accuracy = f"{row['mean']:.2f}" + ("" if row["std"] is None else f" ± {row['std']:.2f}")
    return [
        accuracy,
        _interval(row, "over_random", 2, "+"),
        _interval(row, "of_full", 1),
        f"{row['seconds']:.3g}" if row["seconds"] else "–",
        f"{row['memory_mb']:.0f}" if row["memory_mb"] is not None else "–",
    ]


def _interval(row: dict[str, Any], name: str, digits: int, sign: str = "") -> str:
    if row[name] is None:
        return "–"
    value, bounds = number(row[name], digits, sign), (row[f"{name}_low"], row[f"{name}_high"])
    return value if None in bounds else f"{value} ({interval(bounds, digits, sign)})"
