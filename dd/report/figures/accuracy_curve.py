"""Accuracy along an axis: a line per colour and style, with a band of one standard deviation."""

from __future__ import annotations

import itertools

from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.typing import LineStyleType

from dd.plan.exhibits import Exhibit
from dd.report import escape
from dd.report.captions import facts
from dd.report.figures.style import (
    ACCURACY,
    WIDTH,
    annotate,
    colors,
    describe,
    failed_handles,
    mark_failed,
    mark_published,
    place,
    published_handle,
    title_facets,
)
from dd.report.labels import axis_label
from dd.report.read import published
from dd.report.read.accuracies import collect
from dd.report.read.places import places

LINES: tuple[LineStyleType, ...] = ("-", "--", ":", "-.")


def draw(exhibit: Exhibit) -> Figure:
    """Facets by ``column`` and ``row``, with evenly spaced values of ``x``.

    For temperatures from 0 to 10, a linear axis would crowd the small values, and a logarithmic
    axis has no place for 0.
    """
    layout, rows = exhibit.definition["layout"], collect(exhibit)
    across, down, hues, styles, ticks = (
        places(exhibit, layout[part], rows) for part in ("column", "row", "color", "style", "x")
    )
    tint = colors(hues)
    size = (WIDTH, 0.6 + 2.6 * len(down))
    figure, panels = pyplot.subplots(
        len(down), len(across), figsize=size, sharey="row", squeeze=False, layout="constrained"
    )
    for i, at_row in enumerate(down):
        for j, at_column in enumerate(across):
            panel = panels[i, j]
            for hue, color in tint.items():
                for style, line in zip(styles, itertools.cycle(LINES), strict=False):
                    here = [
                        row
                        for row in rows
                        if row["n"]
                        and place(row, layout["row"]) == at_row
                        and place(row, layout["column"]) == at_column
                        and place(row, layout["color"]) == hue
                        and place(row, layout["style"]) == style
                    ]
                    if not here:
                        continue
                    here.sort(key=lambda row: ticks.index(place(row, layout["x"])))
                    x = [ticks.index(place(row, layout["x"])) for row in here]
                    mean = [row["mean"] for row in here]
                    low = [row["mean"] - (row["std"] or 0) for row in here]
                    high = [row["mean"] + (row["std"] or 0) for row in here]
                    panel.plot(x, mean, line, color=color, marker="o", markersize=2.5, lw=1.2)
                    panel.fill_between(x, low, high, color=color, alpha=0.12, lw=0)
                    mark_failed(panel, x, here)
                    mark_published(panel, x, here, color)
            names = [describe(layout["x"], tick) for tick in ticks]
            panel.set_xticks(range(len(ticks)), names, rotation=45 if len(ticks) > 8 else 0)
            panel.set_xlabel(escape.figure(" and ".join(map(axis_label, layout["x"]))))
        panels[i, 0].set_ylabel(ACCURACY)
    title_facets(exhibit, panels, down, across)
    handles = [Line2D([], [], color=c, label=describe(layout["color"], h)) for h, c in tint.items()]
    handles += [
        Line2D([], [], color="0.3", linestyle=line, label=describe(layout["style"], style))
        for style, line in zip(styles, itertools.cycle(LINES), strict=False)
    ]
    handles += failed_handles(rows)
    if any(row["published"] is not None for row in rows):
        handles.append(published_handle())
    figure.legend(handles=handles, loc="outside right center")
    diamonds = published.in_caption(rows, "Diamonds", "; error bars: ")
    annotate(figure, exhibit, f"{exhibit.definition['caption']} {facts(exhibit, rows)}{diamonds}")
    return figure
