"""Accuracy of methods against the time of a distillation, a point for each method."""

from __future__ import annotations

import itertools
from typing import Any

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from dd.plan.exhibits import Exhibit
from dd.report import escape
from dd.report.captions import facts
from dd.report.figures.style import (
    ACCURACY,
    WIDTH,
    annotate,
    colors,
    describe,
    facet,
    failed_handles,
    mark_failed,
    place,
)
from dd.report.labels import axis_label
from dd.report.read.accuracies import collect
from dd.report.read.costs import costs
from dd.report.read.places import places

MARKERS = "osD^vP*X<>hp"
DASHES = ("--", ":", "-.", (0, (6, 1)), (0, (1, 3)))


def draw(exhibit: Exhibit) -> Figure:
    """Facets by ``column`` and ``row``, a point for each ``color``."""
    layout = exhibit.definition["layout"]
    pairs = zip(exhibit.cells(), collect(exhibit), strict=True)
    made = [(cell, row) for cell, row in pairs if row["n"]]  # without those that others kept
    rows = [row for _, row in made]
    for cell, row in made:
        row["seconds"] = costs(exhibit, cell)["seconds"]
        row["name"] = describe(layout["color"], place(row, layout["color"]))
        for part in ("column", "row"):
            row[f"at {part}"] = facet(exhibit, (layout[part], place(row, layout[part])))
    across, down, names = (
        list(dict.fromkeys(name(at) for at in places(exhibit, layout[part], rows)))
        for part, name in (
            ("column", lambda at: facet(exhibit, (layout["column"], at))),
            ("row", lambda at: facet(exhibit, (layout["row"], at))),
            ("color", lambda at: describe(layout["color"], at)),
        )
    )
    lined = {row["name"] for row in rows if not row["seconds"]}
    dashes = dict(zip(filter(lined.__contains__, names), itertools.cycle(DASHES), strict=False))
    size = (max(WIDTH, 2.4 * len(across) + 1.6), 0.6 + 2.6 * len(down))
    figure, panels = pyplot.subplots(
        len(down), len(across), figsize=size,
        sharex=True, sharey="row", squeeze=False, layout="constrained",
    )  # fmt: skip
    tint = colors(names)
    for i, at_row in enumerate(down):
        for j, at_column in enumerate(across):
            here = [r for r in rows if r["at row"] == at_row and r["at column"] == at_column]
            _draw(panels[i, j], here, tint, dashes)
            panels[i, j].set_title(", ".join(filter(None, (at_row, at_column))))
        panels[i, 0].set_ylabel(ACCURACY)
    for panel in panels[-1]:
        panel.set_xlabel("Seconds of all iterations")
    handles: dict[tuple[str, type], Any] = {}
    for panel in panels.flat:
        for handle, name in zip(*panel.get_legend_handles_labels(), strict=True):
            handles[name, type(handle)] = handle  # a point here may be a line there
    places_in_legend = sorted(handles, key=lambda key: names.index(key[0]))
    title = escape.figure(" and ".join(map(axis_label, layout["color"])))
    entries = [handles[key] for key in places_in_legend]
    order = [name for name, _ in places_in_legend]
    for cross in failed_handles(rows):
        entries, order = [*entries, cross], [*order, str(cross.get_label())]
    figure.legend(entries, order, title=title, loc="outside right center")
    annotate(figure, exhibit, f"{exhibit.definition['caption']} {facts(exhibit, rows)}")
    return figure


def _draw(
    panel: Axes, rows: list[dict[str, Any]], tint: dict[str, Any], dashes: dict[str, Any]
) -> None:
    """Draw a point for each row with a time, a line for each without; ``tint`` and ``dashes`` are
    the same in all panels, since they share a legend."""
    names = list(tint)
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_locator(NullLocator())
    for row in rows:
        name, mean = row["name"], row["mean"]
        look: dict[str, Any] = {"color": tint[name], "label": name}
        if row["seconds"]:
            marker = MARKERS[names.index(name) % len(MARKERS)]
            panel.errorbar([row["seconds"]], [mean], [row["std"] or 0], marker=marker, ls="",
                           markersize=4.5, elinewidth=0.9, **look)  # fmt: skip
            mark_failed(panel, [row["seconds"]], [row])
        else:
            panel.axhline(mean, ls=dashes[name], lw=1, **look | {"color": "0.3"})
            mark_failed(panel, [0.5], [row], transform=panel.get_yaxis_transform())
