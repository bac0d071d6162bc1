"""How far students end from their experts, by parameter (IADD, arXiv:2401.15863, Fig. 1)."""

from __future__ import annotations

import itertools

import numpy
from matplotlib import pyplot
from matplotlib.figure import Figure

from dd.errors import DDError
from dd.plan.exhibits import Cell, Exhibit
from dd.report.captions import facts
from dd.report.figures.style import LAYERED, WIDTH, annotate, colors, describe, place, title_facets
from dd.report.read.places import labels, places
from dd.report.read.vectors import sets, vectors

POINTS = 400  # points of a curve
SHOWN = 99.5  # % of the parameters; the last ones hardly move and would flatten the rest
WEIGHTED = ", weighted"


def draw(exhibit: Exhibit) -> Figure:
    """Facets by ``column`` and ``row``, with a line per ``color``.

    If the method learned weights, a dashed line shows the weighted differences. A second panel
    below shows all lines as multiples of the first. The parameters of all synthetic sets of a cell
    are ranked together.
    """
    layout = exhibit.definition["layout"]
    facets: dict[tuple, dict[str, numpy.ndarray]] = {}
    spots = [labels(exhibit, cell) for cell in exhibit.cells()]
    for cell, at in zip(exhibit.cells(), spots, strict=True):
        spot = place(at, layout["row"]), place(at, layout["column"])
        name = describe(layout["color"], place(at, layout["color"]))
        plain, weighted = differences(exhibit, cell)
        facets.setdefault(spot, {})[name] = plain
        if weighted is not None:
            facets[spot][f"{name}{WEIGHTED}"] = weighted
    down, across = (places(exhibit, layout[part], spots) for part in ("row", "column"))
    tint = colors(list(dict.fromkeys(name for here in facets.values() for name in here)))
    size = (WIDTH, 0.7 + 3.4 * len(down))
    figure, panels = pyplot.subplots(
        2 * len(down), len(across), figsize=size, sharex=True, sharey="row", squeeze=False,
        height_ratios=[2.4, 1] * len(down), layout="constrained",
    )  # fmt: skip
    for (at_row, at_column), here in facets.items():
        i, j = 2 * down.index(at_row), across.index(at_column)
        first = next(iter(here))
        base = ranked(here[first])
        for (name, values), lw in zip(here.items(), itertools.cycle(LAYERED), strict=False):
            look = {"color": tint[name], "ls": "--" if name.endswith(WEIGHTED) else "-", "lw": lw}
            share, falling = ranked(values)
            panels[i, j].plot(share, falling, label=f"{name}: {rms(values):.3g}", **look)
            kept = share <= SHOWN
            with numpy.errstate(divide="ignore", invalid="ignore"):  # parameters that never move
                multiple = falling[kept] / numpy.interp(share[kept], *base)
            panels[i + 1, j].plot(share[kept], multiple, **look)
        panels[i, j].legend(title="root mean square", loc="lower left", alignment="left")
        panels[i, j].set(yscale="log", xlim=(0, 100))
        panels[i + 1, j].set_xlabel("Share of parameters (%)")
        panels[i + 1, 0].set_ylabel(f"relative\nto {first}")
    title_facets(exhibit, panels[::2], down, across)
    for i, at_row in enumerate(down):
        panels[2 * i, 0].set_ylabel("|student − expert|\n(expert moves by 1)")
        shown = [v for (row, _), here in facets.items() if row == at_row for v in here.values()]
        least = min(numpy.percentile(values, 100 - SHOWN) for values in shown)
        if least > 0:
            panels[2 * i, 0].set_ylim(bottom=least)
    annotate(figure, exhibit, f"{exhibit.definition['caption']} {facts(exhibit, [])}")
    return figure


def differences(exhibit: Exhibit, cell: Cell) -> tuple[numpy.ndarray, numpy.ndarray | None]:
    """The differences of all parameters of a cell's sets ``[n]``, and the same times W.

    The second is None if no weights were learned.

    Raises:
        DDError: if a set has no differences, or another number of weights; the message names it.
    """
    plain, weighted = [], []
    for path in sets(exhibit, cell):
        weights = vectors(path, "importance")
        for network, values in vectors(path, "difference", "mtt and iadd").items():
            plain.append(values)
            if network not in weights:
                continue
            if weights[network].shape != values.shape:
                raise DDError(
                    f"{path}: has {len(values)} differences of {network} and "
                    f"{len(weights[network])} weights"
                )
            weighted.append(numpy.abs(weights[network]) * values)
    return numpy.concatenate(plain), numpy.concatenate(weighted) if weighted else None


def ranked(values: numpy.ndarray, points: int = POINTS) -> tuple[numpy.ndarray, numpy.ndarray]:
    """``values`` [n] from largest to smallest, at no more than ``points`` evenly spaced ranks.

    Returns:
        For each of these ranks the share of all values that are at least as large, in %, and the
        value.
    """
    falling = numpy.sort(values)[::-1]
    ranks = numpy.unique(numpy.linspace(0, len(values) - 1, points).round().astype(int))
    return 100 * (ranks + 1) / len(values), falling[ranks]


def rms(values: numpy.ndarray) -> float:
    """The root mean square."""
    return float(numpy.sqrt(numpy.square(values, dtype=numpy.float64).mean()))
