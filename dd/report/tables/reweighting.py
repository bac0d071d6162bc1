"""What IADD's weights W do: accuracies, and how much of the matching loss's fall is theirs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy

from dd.distill.importance import RATES
from dd.errors import DDError
from dd.plan.exhibits import Cell, Exhibit
from dd.report.read.vectors import sets, vectors
from dd.report.sheet import Sheet, Text
from dd.report.tables.pivot import Rows, results, rounded

COLUMNS = {
    "rate": "lr of W or v",
    "moved": "Median |W − 1|",
    "loss_both": "Loss left (%)",
    "loss_weights": "By W alone (%)",
    "loss_images": "By images alone (%)",
    "share": "Share of W in the fall (%)",
}
FIGURES = 3  # significant ones that are shown


def reweighting(exhibit: Exhibit) -> tuple[Rows, Sheet]:
    """The rows and the sheet of kind ``results``, and beside each accuracy :data:`COLUMNS`."""
    rows, sheet = results(exhibit)
    if len(sheet.body) != len(rows):
        raise DDError(f"{exhibit.path}: columns: one column of accuracies fits, there are several")
    measured = [measures(exhibit, cell) for cell in exhibit.cells()]
    return (
        [row | rounded(values) for row, values in zip(rows, measured, strict=True)],
        replace(
            sheet,
            header=[*sheet.header, *COLUMNS.values()],
            body=[
                [*line, *(Text(_shown(values[name])) for name in COLUMNS)]
                for line, values in zip(sheet.body, measured, strict=True)
            ],
        ),
    )


def measures(exhibit: Exhibit, cell: Cell) -> dict[str, float | None]:
    """A value for each of :data:`COLUMNS`; None where the method learns no weights.

    L(W, D) is the loss of students that were trained on D, its own rate included, a mean over the
    same segments for all. D_0 and W = 1 are the start, D_T and W_T the set. ``loss_both`` is
    L(W_T, D_T) / L(1, D_0), ``loss_weights`` L(W_T, D_0) / L(1, D_0), ``loss_images``
    L(1, D_T) / L(1, D_0), all in percent and geometric means over sets and networks; ``share`` is
    ln(loss_weights) / ln(loss_both), None where the loss did not fall. ``moved`` is of weights that
    were learned; one that a whole tensor shares counts once.

    Raises:
        DDError: naming the set that does not hold its losses.
    """
    losses, plain, moved = [], [], []
    shared = _settings(exhibit, cell).get("weights") == "layer"
    for path in sets(exhibit, cell):
        weights = vectors(path, "importance")
        weighted = vectors(path, "weighted", "iadd with learned weights" if weights else "")
        matching = vectors(path, "matching", "mtt and iadd")
        moved += [numpy.abs(_learned(values, shared) - 1) for values in weights.values()]
        for network, pair in matching.items():
            plain.append(_logarithms(path, f"matching.{network}", pair))
            if weights:
                losses.append(_logarithms(path, f"weighted.{network}", weighted.get(network)))
    found: dict[str, float | None] = dict.fromkeys(COLUMNS)
    start, images = numpy.mean(plain, axis=0)
    found["loss_images"] = 100 * math.exp(images - start)
    if moved:
        alone, both = numpy.mean(losses, axis=0) - start
        found["rate"] = _rate(exhibit, cell)
        distances = numpy.concatenate(moved)
        found["moved"] = float(numpy.median(distances)) if len(distances) else 0.0
        found["loss_both"], found["loss_weights"] = 100 * math.exp(both), 100 * math.exp(alone)
        found["share"] = 100 * float(alone / both) if both < 0 else None
    return found


def _logarithms(path: str, name: str, pair: numpy.ndarray | None) -> numpy.ndarray:
    """ln of the two losses called ``name``: with the initial images, with the set's."""
    if pair is None or pair.shape != (2,) or not (pair > 0).all():
        raise DDError(f"{path}: '{name}' must be two losses above 0; distil again")
    return numpy.log(pair.astype(numpy.float64))


def _learned(values: numpy.ndarray, shared: bool) -> numpy.ndarray:
    """Those of the weights ``values [P]`` of a network that were learned, each once.

    Parameters without a gradient keep the weight 1, exactly; one that learned is not at 1 in
    float32. Weights that are ``shared`` are the same all through a tensor.
    """
    learned = values[values != 1]
    return learned[numpy.diff(learned, prepend=numpy.nan) != 0] if shared else learned


def _rate(exhibit: Exhibit, cell: Cell) -> float:
    """The setting that says how fast the weights of a cell learn."""
    settings = _settings(exhibit, cell)
    return settings[RATES[settings["weights"]]]


def _settings(exhibit: Exhibit, cell: Cell) -> dict[str, Any]:
    return exhibit.run.distillation(cell.method, cell.dataset, cell.ipc)


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.{FIGURES}g}"
