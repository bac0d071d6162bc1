"""The numbers of a table or figure: one row per cell, from evaluations and published values."""

from __future__ import annotations

import statistics
from functools import cache
from typing import Any

from dd.artifacts.text import load_rows
from dd.errors import DDError
from dd.networks.options import canonical
from dd.plan.exhibits import Cell, Exhibit
from dd.plan.jobs import evaluations
from dd.plan.needs import seen
from dd.report import fallbacks
from dd.report.read.published import Published, percentage


def collect(exhibit: Exhibit) -> list[dict[str, Any]]:
    """One row for each cell of ``exhibit``, in the order of its axes.

    A row holds the axes (``dataset`` by its label), ``accuracies`` on the test set in percent (one
    per network, over all synthetic sets), their ``mean``, ``std`` (sample standard deviation; None
    for one network) and number ``n``, the published values (:meth:`Published.of`), ``diverged``
    (the number of networks that diverged), ``note`` and ``fallback`` (the settings that were used
    if a recipe has none of its own; otherwise empty).

    Raises:
        DDError: if an evaluation file is missing, incomplete or malformed; the message names it.
    """
    published = Published(exhibit)
    rows = []
    for cell in exhibit.cells():
        accuracies, diverged, note = _accuracies(cell, exhibit)
        rows.append(
            {
                **labels(exhibit, cell),
                "accuracies": accuracies,
                "mean": statistics.fmean(accuracies),
                "std": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
                "n": len(accuracies),
                **published.of(cell),
                "diverged": diverged,
                "note": note,
                "fallback": fallbacks.of_cell(exhibit.run, cell),
            }
        )
    return rows


def mark_seen(exhibit: Exhibit, rows: list[dict[str, Any]]) -> None:
    """Add ``seen`` to each row of :func:`collect`: whether its network was used in distillation.

    ``yes`` if the network is the method's own or an auxiliary network, otherwise ``no``.
    """
    for cell, row in zip(exhibit.cells(), rows, strict=True):
        used = seen(exhibit.run, cell.method, cell.dataset, cell.ipc)
        row["seen"] = "yes" if canonical(str(cell.arch)) in used else "no"


def labels(exhibit: Exhibit, cell: Cell) -> dict[str, Any]:
    """The axes of a cell as shown: ``dataset`` by its label."""
    return {**cell.labels, "dataset": exhibit.run.datasets[cell.dataset]["label"]}


def _accuracies(cell: Cell, exhibit: Exhibit) -> tuple[list[float], int, str]:
    """The accuracies of a cell, the number of networks that diverged, and a note about them."""
    run = exhibit.run
    by_protocol: dict[str, list[tuple[float, bool]]] = {}
    for job in evaluations(cell, run):
        tested = _read(job.file(run), canonical(str(cell.arch)), run.networks)
        by_protocol.setdefault(job.protocol, []).extend(tested)
    best = max(by_protocol.values(), key=lambda tested: statistics.fmean(a for a, _ in tested))
    notes = []
    if cell.selected:
        notes.append(f"maximum over {len(by_protocol)} {cell.selected}s, selected on test data")
    diverged = sum(failed for _, failed in best)
    if diverged:
        notes.append(f"{diverged} of {len(best)} networks diverged (their loss became NaN)")
    return [accuracy for accuracy, _ in best], diverged, "; ".join(notes)


def _read(path: str, arch: str, networks: int) -> list[tuple[float, bool]]:
    """Each network of ``arch`` in an evaluation file: its accuracy, and whether it diverged."""
    rows = _rows(path)
    for column in ("arch", "accuracy"):
        if not rows or column not in rows[0]:
            raise DDError(f"{path}: has no column '{column}'; evaluate again")
    tested = [
        (percentage(path, row["accuracy"]), row.get("diverged") == "1")
        for row in rows
        if row["arch"] == arch
    ]
    if len(tested) != networks:
        raise DDError(
            f"{path}: has {len(tested)} networks of {arch}, the run needs {networks}; "
            "evaluate again"
        )
    return tested


@cache
def _rows(path: str) -> list[dict[str, str]]:
    return load_rows(path)
