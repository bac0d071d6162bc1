"""The variance over networks of activation maps of synthetic images, by iteration (MetaDD)."""

from __future__ import annotations

from typing import Any

import numpy
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dd.plan.exhibits import Exhibit
from dd.plan.jobs import ActivationMaps, Snapshot, distillations
from dd.plan.needs import cam_rectify
from dd.report.captions import facts, warnings
from dd.report.figures.style import WIDTH, annotate, colors, describe, place, title_facets
from dd.report.read.maps import AUXILIARY, UNSEEN, VARIANCE, groups, pooled
from dd.report.read.places import labels, places
from dd.report.tables.areas import compared

LINES = {AUXILIARY: "-", UNSEEN: "--"}
MARKERS = ("o", "s", "D", "^", "v")


def draw(exhibit: Exhibit) -> Figure:
    """Facets by ``column`` and ``row``, with a line per ``color`` and group of networks.

    A line shows the variance of the maps over the networks by iteration: the mean over images and
    seeds, with a band of one standard deviation.
    """
    layout = exhibit.definition["layout"]
    lines: dict[tuple, dict[int, tuple[float, float]]] = {}
    spots: list[dict[str, Any]] = []
    shown: set[int] = set()
    for cell in exhibit.cells():
        at = labels(exhibit, cell)
        spot = tuple(place(at, layout[part]) for part in ("row", "column", "color"))
        files = [
            ActivationMaps(Snapshot(job, cell.iterations)).file(exhibit.run)
            for job in distillations(cell, exhibit.run)
        ]
        if not files:  # others did not publish the set
            continue
        spots.append(at)
        for group, members in groups(exhibit, cell.dataset).items():
            values, _, part = pooled(files, members, cam_rectify(exhibit.run))
            shown |= part
            by_image = values[VARIANCE]
            point = (by_image.mean(), by_image.std(ddof=1) if len(by_image) > 1 else 0.0)
            lines.setdefault((*spot, group), {})[cell.iterations] = point
    down, across, hues = (
        places(exhibit, layout[part], spots) for part in ("row", "column", "color")
    )
    drawn = list(dict.fromkeys(group for *_, group in lines))
    tint = colors(hues)
    size = (WIDTH, 0.8 + 2.6 * len(down))
    figure, panels = pyplot.subplots(
        len(down), len(across), figsize=size, sharex=True, sharey="row", squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for (at_row, at_column, hue, group), line in lines.items():
        panel = panels[down.index(at_row), across.index(at_column)]
        x = sorted(line)
        mean, std = numpy.array([line[at] for at in x]).T
        marker = MARKERS[hues.index(hue) % len(MARKERS)]
        panel.plot(x, mean, LINES[group], color=tint[hue], marker=marker, ms=3.5, lw=1.4)
        panel.fill_between(x, mean - std, mean + std, color=tint[hue], alpha=0.1, lw=0)
    title_facets(exhibit, panels, down, across)
    for panel in panels[-1]:
        panel.set_xlabel("Iterations")
    for panel in panels[:, 0]:
        panel.set_ylabel("Variance of CAMs\nover networks")
        panel.set_ylim(bottom=0)
    handles = [
        Line2D([], [], color=color, marker=MARKERS[hues.index(hue) % len(MARKERS)], ms=3.5,
               label=describe(layout["color"], hue))
        for hue, color in tint.items()
    ]  # fmt: skip
    handles += [
        Line2D([], [], color="0.3", ls=LINES[group], label=f"{group} networks") for group in drawn
    ]
    figure.legend(handles=handles, loc="outside right center")
    caption = [exhibit.definition["caption"], compared(exhibit, shown), facts(exhibit, [])]
    annotate(figure, exhibit, " ".join([*caption, *warnings(exhibit)]))
    return figure
