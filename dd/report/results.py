"""The numbers of a table or figure: evaluation files to one row a cell, published values beside."""

from __future__ import annotations

import statistics
from functools import cache
from typing import Any

from dd.artifacts import load_rows
from dd.errors import DDError
from dd.grid import Cell, Grid
from dd.jobs import evaluation_file, evaluations, seen
from dd.networks import canonical
from dd.plan import pretrained_warnings
from dd.report import fallbacks
from dd.report.published import Published, percentage


def collect(grid: Grid) -> list[dict[str, Any]]:
    """One row for each cell of ``grid``, in the order of its axes.

    A row holds the axes (``dataset`` by its label), ``accuracies`` on the test set in percent (one
    a network, over all synthetic sets), their ``mean``, ``std`` (sample standard deviation; None
    for one network) and number ``n``, what is published of it (:meth:`Published.of`), ``diverged``
    (how many of the networks did), ``note`` and ``fallback`` (whose settings stood in for those
    that a recipe does not have; else empty).

    Raises:
        DDError: naming the evaluation file that is missing, incomplete or malformed.
    """
    published = Published(grid)
    rows = []
    for cell in grid.cells():
        accuracies, diverged, note = _accuracies(cell, grid)
        rows.append(
            {
                **labels(grid, cell),
                "accuracies": accuracies,
                "mean": statistics.fmean(accuracies),
                "std": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
                "n": len(accuracies),
                **published.of(cell),
                "diverged": diverged,
                "note": note,
                "fallback": fallbacks.of_cell(grid.run, cell),
            }
        )
    return rows


def mark_seen(grid: Grid, rows: list[dict[str, Any]]) -> None:
    """Add to each row of :func:`collect` whether its network was ``seen`` while distilling: yes,
    the method's own or an auxiliary one; or no."""
    for cell, row in zip(grid.cells(), rows, strict=True):
        used = seen(grid.run, cell.spec, cell.dataset, cell.ipc)
        row["seen"] = "yes" if canonical(str(cell.arch)) in used else "no"


def labels(grid: Grid, cell: Cell) -> dict[str, Any]:
    """The axes of a cell as they are shown: ``dataset`` by its label."""
    return {**cell.labels, "dataset": grid.run.datasets[cell.dataset]["label"]}


def _accuracies(cell: Cell, grid: Grid) -> tuple[list[float], int, str]:
    """The accuracies of a cell, how many networks diverged, and what has to be said of them."""
    run = grid.run
    by_protocol: dict[str, list[tuple[float, bool]]] = {}
    for job in evaluations(cell, run):
        found = _read(evaluation_file(run, job), canonical(str(cell.arch)), run.networks)
        by_protocol.setdefault(job.protocol, []).extend(found)
    best = max(by_protocol.values(), key=lambda found: statistics.fmean(a for a, _ in found))
    notes = []
    if cell.selected:
        notes.append(f"maximum over {len(by_protocol)} {cell.selected}s, selected on test data")
    diverged = sum(failed for _, failed in best)
    if diverged:
        notes.append(f"{diverged} of {len(best)} networks diverged (their loss became NaN)")
    return [accuracy for accuracy, _ in best], diverged, "; ".join(notes)


def _read(path: str, arch: str, networks: int) -> list[tuple[float, bool]]:
    """Accuracy, and whether it diverged, of each network of ``arch`` in an evaluation file."""
    rows = _rows(path)
    for column in ("arch", "accuracy"):
        if not rows or column not in rows[0]:
            raise DDError(f"{path}: has no column '{column}'; evaluate again")
    found = [
        (percentage(path, row["accuracy"]), row.get("diverged") == "1")
        for row in rows
        if row["arch"] == arch
    ]
    if len(found) != networks:
        raise DDError(
            f"{path}: has {len(found)} networks of {arch}, the run asks for {networks}; "
            "evaluate again"
        )
    return found


@cache
def _rows(path: str) -> list[dict[str, str]]:
    return load_rows(path)


def warnings(grid: Grid) -> list[str]:
    """What has to be said of the frozen networks behind a table or figure, a sentence each.

    They are behind all that was made with them, not behind single numbers: no cell has a mark.
    """
    return [f"Note: {phrase}." for phrase in pretrained_warnings(grid.run, grid)]


def facts(grid: Grid, rows: list[dict[str, Any]]) -> str:
    """What a caption has to say of the numbers: data, averages, settings, comparability."""
    run, cells, sets = grid.run, grid.cells(), len(grid.run.seeds)
    labels = [options["label"] for options in grid.datasets.values()]
    sentences = [f"Dataset: {' and '.join(labels)}."]
    if run.stands_in_for:
        sentences.append(
            f"It stands in for {run.stands_in_for} in this run ({run.name}): nothing here compares "
            "with published numbers."
        )
    copies = [options["copy"] for options in grid.datasets.values() if "copy" in options]
    if copies and any(row["published"] is not None for row in rows):
        sentences.append(
            f"Published values are of the original images, ours of a {' and a '.join(copies)} copy."
        )
    sentences += fallbacks.of_grid(grid)
    if rows:
        sentences.append(
            f"Test accuracy in %, mean ± standard deviation over {run.networks} networks on "
            f"{'one synthetic set' if sets == 1 else f'each of {sets} synthetic sets'}."
        )
        settings = (run.evaluation(c.spec, c.dataset, c.ipc, str(c.arch)) for c in cells)
        epochs = {each["epochs"] for each in settings}
        sentences.append(f"Evaluation: {' or '.join(map(str, sorted(epochs)))} epochs.")
    if any(row["diverged"] for row in rows):
        sentences.append(
            "Networks whose loss became NaN count with the accuracy of their constant answer."
        )
    if run.width_factor != 1:
        sentences.append(f"Network widths are scaled by {run.width_factor:g}, to no less than 8.")
    return " ".join(sentences)
