"""The course of a distillation: matching loss per iteration, test accuracy per snapshot."""

from __future__ import annotations

import itertools

import numpy
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dd.plan.exhibits import Exhibit
from dd.plan.jobs import distillations
from dd.report.captions import facts
from dd.report.figures.style import (
    ACCURACY,
    LAYERED,
    WIDTH,
    annotate,
    colors,
    describe,
    failed_handles,
    mark_failed,
    place,
    title_facets,
)
from dd.report.read.accuracies import collect
from dd.report.read.metrics import read_metric
from dd.report.read.places import places


def draw(exhibit: Exhibit) -> Figure:
    """Facets by ``column`` and ``row``, each with two panels over the iterations.

    Both panels have a line per ``color``. The upper panel shows the loss (a running median over all
    seeds, and faint lines for all values), the lower one the accuracy with a band of one standard
    deviation.
    """
    layout, rows = exhibit.definition["layout"], collect(exhibit)
    lines: dict[tuple, list] = {}
    for cell, row in zip(exhibit.cells(), rows, strict=True):
        spot = tuple(place(row, layout[part]) for part in ("row", "column", "color"))
        lines.setdefault(spot, []).append((cell, row))
    down, across, hues = (
        places(exhibit, layout[part], rows) for part in ("row", "column", "color")
    )
    tint, widths = colors(hues), dict(zip(hues, itertools.cycle(LAYERED), strict=False))
    size = (WIDTH, 0.9 + 3.2 * len(down))
    figure, panels = pyplot.subplots(
        2 * len(down), len(across), figsize=size, sharex="col", sharey="row", squeeze=False,
        layout="constrained",
    )  # fmt: skip
    windows = set()
    for (at_row, at_column, hue), line in lines.items():
        i, j, color = 2 * down.index(at_row), across.index(at_column), tint[hue]
        look = {"color": color, "lw": widths[hue]}
        line.sort(key=lambda entry: entry[0].iterations)
        last = line[-1][0]
        jobs = distillations(last, exhibit.run)
        losses = [read_metric(job.metrics(exhibit.run), "loss", last.iterations) for job in jobs]
        iterations, window = range(1, last.iterations + 1), width(last.iterations)
        windows.add(window)
        for values in losses:
            panels[i, j].plot(iterations, values, color=color, alpha=0.2, lw=0.5, rasterized=True)
        panels[i, j].plot(iterations, running_median(losses, window), **look)
        panels[i, j].set_yscale("log")
        x = [cell.iterations for cell, _ in line]
        mean = numpy.array([row["mean"] for _, row in line])
        std = numpy.array([row["std"] or 0 for _, row in line])
        panels[i + 1, j].plot(x, mean, marker="o", ms=2 + widths[hue], **look)
        mark_failed(panels[i + 1, j], x, [row for _, row in line])
        panels[i + 1, j].fill_between(x, mean - std, mean + std, color=color, alpha=0.15, lw=0)
    title_facets(exhibit, panels[::2], down, across)
    for i in range(0, 2 * len(down), 2):
        panels[i, 0].set_ylabel("Matching loss")
        panels[i + 1, 0].set_ylabel(ACCURACY)
    for panel in panels[-1]:
        panel.set_xlabel("Iterations")
        panel.xaxis.get_major_locator().set_params(integer=True)
    handles = [
        Line2D([], [], color=tint[hue], lw=widths[hue], label=describe(layout["color"], hue))
        for hue in hues
    ]
    figure.legend(handles=[*handles, *failed_handles(rows)], loc="outside right center")
    over = " or ".join(map(str, sorted(windows)))
    loss = f"Loss: median over {over} iterations and all synthetic sets; faint: each value."
    annotate(figure, exhibit, f"{exhibit.definition['caption']} {loss} {facts(exhibit, rows)}")
    return figure


def width(iterations: int) -> int:
    """The window of the running median: an odd number near 2 % of ``iterations``, at least 5."""
    return 2 * max(2, iterations // 100) + 1


def running_median(series: list[numpy.ndarray], window: int) -> numpy.ndarray:
    """The median of all ``series`` (each ``[n]``) in a window around each position, ``[n]``.

    At both ends the window is shorter.
    """
    values, half = numpy.stack(series), window // 2
    around = (values[:, max(0, i - half) : i + half + 1] for i in range(values.shape[1]))
    return numpy.array([numpy.median(part) for part in around])
