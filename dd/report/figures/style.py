"""The look of all figures, and how they are saved."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dd.artifacts.atomic import replacing
from dd.plan.exhibits import Exhibit
from dd.report import escape
from dd.report.labels import in_words

WIDTH = 7.2  # inches: the text width of a page
ACCURACY = "Test accuracy (%)"
PUBLISHED: dict[str, Any] = {
    "marker": "D",
    "markersize": 3,
    "markerfacecolor": "white",
    "linestyle": "",
    "zorder": 3,
}
FAILED: dict[str, Any] = {"marker": "x", "color": "black", "linestyle": "", "markersize": 5}
LAYERED = (3.0, 1.6, 0.8)  # line widths: thin lines on wide ones stay visible where lines overlap

_STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "legend.frameon": False,
    "figure.titlesize": 10,
    "figure.titleweight": "bold",
    "pdf.fonttype": 42,  # text in the PDF stays text, it is not drawn as outlines
    "savefig.dpi": 200,
}


def use_style() -> None:
    """Set the look of all figures, and draw without a display."""
    matplotlib.use("agg")
    seaborn.set_theme(style="whitegrid", context="paper", palette="colorblind", rc=_STYLE)


def colors(names: Sequence[Any]) -> dict[Any, tuple[float, float, float]]:
    """A colour for each name. Colour-blind readers can tell the colours apart."""
    palette = seaborn.color_palette("colorblind", len(names))
    return dict(zip(names, palette, strict=True))


def place(row: Mapping[str, Any], axes: Sequence[str]) -> tuple[Any, ...]:
    """The values of a row on ``axes``."""
    return tuple(row[axis] for axis in axes)


def mark_published(
    panel: Axes, x: Sequence[float], rows: Sequence[Mapping[str, Any]], color: Any = "black"
) -> None:
    """Draw a hollow marker at ``x`` for each of ``rows`` with a published value.

    Error bars show the published standard deviations.
    """
    shown = [(at, row) for at, row in zip(x, rows, strict=True) if row["published"] is not None]
    if shown:
        spread = [row["published_std"] or 0 for _, row in shown]
        values = [row["published"] for _, row in shown]
        panel.errorbar([at for at, _ in shown], values, spread, elinewidth=0.7, color=color,
                       **PUBLISHED)  # fmt: skip


def published_handle() -> Line2D:
    """The legend entry for the markers of :func:`mark_published`."""
    return Line2D([], [], color="black", label="published", **PUBLISHED)


def mark_failed(
    panel: Axes, x: Sequence[float], rows: Sequence[Mapping[str, Any]], **more: Any
) -> None:
    """Draw a cross at ``x`` and the mean for each of ``rows`` with networks that diverged."""
    failed = [(at, row["mean"]) for at, row in zip(x, rows, strict=True) if row["diverged"]]
    if failed:
        panel.plot(*zip(*failed, strict=True), **FAILED, zorder=4, **more)


def failed_handles(rows: Iterable[Mapping[str, Any]]) -> list[Line2D]:
    """The legend entry for the crosses of :func:`mark_failed`; none if no network diverged."""
    if not any(row["diverged"] for row in rows):
        return []
    return [Line2D([], [], label="networks diverged", **FAILED)]


def describe(axes: Sequence[str], values: Sequence[Any]) -> str:
    """Values on ``axes`` as text for matplotlib, see :func:`dd.report.labels.in_words`."""
    return escape.figure(in_words(axes, values))


def facet(exhibit: Exhibit, *places: tuple[Sequence[str], Sequence[Any]]) -> str:
    """The title of a facet: its values on axes; axes with a single value are left out."""
    words = [
        describe([axis], [value])
        for axes, values in places
        for axis, value in zip(axes, values, strict=True)
        if len(exhibit.values(axis)) > 1
    ]
    return ", ".join(words)


def title_facets(
    exhibit: Exhibit,
    panels: Any,
    down: Sequence[Sequence[Any]],
    across: Sequence[Sequence[Any]],
) -> None:
    """Give all ``panels``, a grid of facets ``down`` × ``across``, their titles."""
    layout = exhibit.definition["layout"]
    for row, at_row in zip(panels, down, strict=True):
        for panel, at_column in zip(row, across, strict=True):
            panel.set_title(facet(exhibit, (layout["row"], at_row), (layout["column"], at_column)))


def annotate(figure: Figure, exhibit: Exhibit, caption: str) -> None:
    """Write title and dataset above the figure and the caption below it, for any size. Facets
    without data say so."""
    for panel in figure.axes:
        if panel.axison and not panel.has_data():
            _empty(panel)
    width, height = figure.get_size_inches()
    run = exhibit.run
    data = " and ".join(options["label"] for options in exhibit.datasets.values())
    instead = f" in place of {run.stands_in_for}" if run.stands_in_for else ""
    below = escape.figure(f"{data}{instead}")
    figure.suptitle(f"{escape.figure(exhibit.definition['title'])}\n{below}")
    text = "\n".join(map(escape.figure, textwrap.wrap(caption, width=round(width * 17))))
    figure.text(0.01, -0.1 / height, text, ha="left", va="top", fontsize=7.5, color="0.25")


def _empty(panel: Axes) -> None:
    """Show of a facet its title alone. If the others of its row or column have their label and
    numbers from it, the nearest one that has data takes them."""
    others = [one for one in panel.figure.axes if one.has_data()]
    row = [one for one in others if _position(one)[0] == _position(panel)[0]]
    column = [one for one in others if _position(one)[1] == _position(panel)[1]]
    if panel.get_ylabel() and row and not row[0].get_ylabel():
        row[0].set_ylabel(panel.get_ylabel())
        row[0].tick_params(labelleft=True)
    if panel.get_xlabel() and column and not column[-1].get_xlabel():
        column[-1].set_xlabel(panel.get_xlabel())
        column[-1].tick_params(labelbottom=True)
    panel.set_axis_off()
    where = panel.transAxes
    panel.text(0.5, 0.5, "no data", color="0.5", ha="center", va="center", transform=where)


def _position(panel: Axes) -> tuple[int, int]:
    """The row and the column of a panel in the grid of its figure; (-1, -1) outside of one."""
    place = panel.get_subplotspec()
    return (-1, -1) if place is None else (place.rowspan.start, place.colspan.start)


def save(figure: Figure, out: Path) -> None:
    """Write ``out`` (PNG) and the PDF beside it. The same content always gives the same bytes."""
    nothing = {".png": {"Software": None}, ".pdf": {"CreationDate": None, "Producer": None}}
    for ending in (".pdf", ".png"):
        kind, drawn = ending.removeprefix("."), io.BytesIO()
        figure.savefig(drawn, format=kind, bbox_inches="tight", metadata=nothing[ending])
        with replacing(out.with_suffix(ending)) as partial:
            partial.write_bytes(drawn.getvalue())
