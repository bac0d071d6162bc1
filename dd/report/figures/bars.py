"""Accuracy by group: bars of means, error bars of one standard deviation, published values."""

from __future__ import annotations

import pandas
import seaborn
from matplotlib import pyplot
from matplotlib.artist import Artist
from matplotlib.figure import Figure

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
    mark_published,
    place,
    published_handle,
)
from dd.report.labels import axis_label
from dd.report.read import published
from dd.report.read.accuracies import collect, flat
from dd.report.read.places import places

BAR_WIDTH = 0.8  # width of all bars of a group, seaborn's default
BAR_INCHES = 0.085  # least width of a bar, including its share of the gaps


def draw(exhibit: Exhibit) -> Figure:
    """Facets by ``column`` and ``row``, groups along ``x``, a bar for each ``color``.

    A marker on a bar shows the published value, if there is a comparable one.
    """
    layout, rows = exhibit.definition["layout"], collect(exhibit)
    names = {
        **dict.fromkeys(("column", "row"), lambda axes, at: facet(exhibit, (axes, at))),
        **dict.fromkeys(("x", "color"), describe),
    }
    for row in rows:
        row["accuracies"] = flat(row["accuracies"])
        for part, name in names.items():
            row[f"at {part}"] = name(layout[part], place(row, layout[part]))
    across, down, groups, hues = (
        list(dict.fromkeys(name(layout[part], at) for at in places(exhibit, layout[part], rows)))
        for part, name in names.items()
    )
    there = [row for row in rows if row["n"]]  # no bar for a set that nobody published
    networks = pandas.DataFrame(there).explode("accuracies").astype({"accuracies": float})
    count = len(across) * len(groups) * len(hues)
    size = (max(WIDTH, BAR_INCHES * count) + 1.5, 0.8 + 2.0 * len(down))
    figure, panels = pyplot.subplots(
        len(down), len(across), figsize=size, sharey="row", squeeze=False, layout="constrained"
    )
    for i, at_row in enumerate(down):
        for j, at_column in enumerate(across):
            panel = panels[i, j]
            inside = (networks["at row"] == at_row) & (networks["at column"] == at_column)
            seaborn.barplot(
                networks[inside],
                x="at x",
                y="accuracies",
                hue="at color",
                order=groups,
                hue_order=hues,
                palette=colors(hues),
                errorbar="sd",
                err_kws={"linewidth": 0.8, "color": "0.2"},
                width=BAR_WIDTH,
                ax=panel,
                legend=False,
            )
            here = [r for r in rows if r["at row"] == at_row and r["at column"] == at_column]
            # markers stand beside the middle of a bar, where its own error bar is
            beside = BAR_WIDTH / len(hues) / 5
            middle = [
                groups.index(row["at x"]) + _offset(hues.index(row["at color"]), len(hues))
                for row in here
            ]
            mark_published(panel, [x + beside for x in middle], here)
            mark_failed(panel, middle, here)
            panel.set(xlabel="", ylabel=ACCURACY if j == 0 else "")
            panel.set_title(", ".join(filter(None, (at_row, at_column))))
            panel.tick_params(axis="x", rotation=40)
            for name in panel.get_xticklabels():
                name.set(ha="right", rotation_mode="anchor")
    handles: list[Artist] = [
        pyplot.Rectangle((0, 0), 1, 1, color=c, label=n) for n, c in colors(hues).items()
    ]
    handles += failed_handles(rows)
    if any(row["published"] is not None for row in rows):
        handles.append(published_handle())
    title = escape.figure(" and ".join(map(axis_label, layout["color"])))
    figure.legend(handles=handles, title=title, loc="outside right center")
    diamonds = published.in_caption(rows, "Diamonds", "; error bars: ")
    annotate(figure, exhibit, f"{exhibit.definition['caption']} {facts(exhibit, rows)}{diamonds}")
    return figure


def _offset(index: int, count: int) -> float:
    """The position of bar ``index`` of ``count``, relative to the middle of its group."""
    return (index - (count - 1) / 2) * BAR_WIDTH / count
