"""The effect of IADD's weights W: accuracies, and their share in the fall of the matching loss."""

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
FIGURES = 3  # significant figures that are shown


def reweighting(exhibit: Exhibit) -> tuple[Rows, Sheet]:
    """The rows and the sheet of kind ``results``, with :data:`COLUMNS` beside each accuracy."""
    rows, sheet = results(exhibit)
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
    """A value for each of :data:`COLUMNS`; None if the method learns no weights.

    L(W, D) is the mean loss of students that were trained on D, with the learning rate of D. The
    mean is over the same segments for all L. D_0 and W = 1 are the start of the distillation, D_T
    and W_T its result. ``loss_both`` is L(W_T, D_T) / L(1, D_0), ``loss_weights`` is
    L(W_T, D_0) / L(1, D_0), ``loss_images`` is L(1, D_T) / L(1, D_0). All three are in percent and
    geometric means over sets and networks. ``share`` is ln(loss_weights) / ln(loss_both), None if
    the loss did not fall. ``moved`` is about the weights that were learned; a weight that a whole
    tensor shares counts once.

    Raises:
        DDError: if a set does not hold its losses; the message names it.
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
    row: dict[str, float | None] = dict.fromkeys(COLUMNS)
    start, images = numpy.mean(plain, axis=0)
    row["loss_images"] = 100 * math.exp(images - start)
    if moved:
        alone, both = numpy.mean(losses, axis=0) - start
        row["rate"] = _rate(exhibit, cell)
        distances = numpy.concatenate(moved)
        row["moved"] = float(numpy.median(distances)) if len(distances) else 0.0
        row["loss_both"], row["loss_weights"] = 100 * math.exp(both), 100 * math.exp(alone)
        row["share"] = 100 * float(alone / both) if both < 0 else None
    return row


def _logarithms(path: str, name: str, pair: numpy.ndarray | None) -> numpy.ndarray:
    """ln of the two losses called ``name``: with the initial images, and with those of the set."""
    if pair is None or pair.shape != (2,) or not (pair > 0).all():
        raise DDError(f"{path}: '{name}' must be two losses above 0; distil again")
    return numpy.log(pair.astype(numpy.float64))


def _learned(values: numpy.ndarray, shared: bool) -> numpy.ndarray:
    """The weights among ``values [P]`` of a network that were learned, each once.

    Parameters without a gradient keep the weight exactly 1, and a learned weight is never exactly 1
    in float32. With ``shared``, all parameters of a tensor have the same weight.
    """
    learned = values[values != 1]
    return learned[numpy.diff(learned, prepend=numpy.nan) != 0] if shared else learned


def _rate(exhibit: Exhibit, cell: Cell) -> float:
    """The learning rate of the weights of a cell."""
    settings = _settings(exhibit, cell)
    return settings[RATES[settings["weights"]]]


def _settings(exhibit: Exhibit, cell: Cell) -> dict[str, Any]:
    return exhibit.run.distillation(cell.method, cell.dataset, cell.ipc)


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.{FIGURES}g}"
