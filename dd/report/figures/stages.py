"""The figure of the cost of each stage of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dd.plan.exhibits import Exhibit
from dd.report import escape
from dd.report.captions import facts
from dd.report.figures.style import WIDTH, annotate, colors
from dd.report.labels import axis_label
from dd.report.read.stage_costs import spent
from dd.report.tables.pivot import Rows
from dd.report.tables.stages import in_all

LONG = 3600  # if a row takes more seconds, the figure shows hours


def draw(exhibit: Exhibit) -> Figure:
    """A row of panels for each dataset.

    The left panel shows the wall time of each stage, by IPC; the right panel shows the largest
    memory of its jobs.
    """
    rows, names = spent(exhibit), list(exhibit.datasets)
    ipcs = sorted({row["ipc"] for row in rows if row["ipc"] is not None})
    tint = {None: (0.6, 0.6, 0.6), **colors(ipcs)}
    count = max(len({row["stage"] for row in rows}), 4)
    size = (WIDTH, 0.9 + 0.27 * count * len(names))
    figure, panels = pyplot.subplots(
        len(names), 2, figsize=size, squeeze=False, layout="constrained",
        width_ratios=(1.6, 1), sharey="row", sharex="col",
        gridspec_kw={"wspace": 0.08},  # between the last number of one axis and the 0 of the next
    )  # fmt: skip
    unit, length = ("h", 3600) if max(row["seconds"] or 0 for row in rows) > LONG else ("s", 1)
    for name, (wall, memory) in zip(names, panels, strict=True):
        label = exhibit.run.datasets[name]["label"]
        _draw(wall, memory, [row for row in rows if row["dataset"] == label], tint, length)
        wall.set_title(escape.figure(label) if len(names) > 1 else "", loc="left")
    panels[-1, 0].set_xlabel(f"Wall time of all jobs ({unit})")
    panels[-1, 1].set_xlabel("Peak memory of a job (MB)")
    used = {row["ipc"] for row in rows}
    handles = [
        pyplot.Rectangle((0, 0), 1, 1, color=color, label="none" if ipc is None else str(ipc))
        for ipc, color in tint.items()
        if ipc in used
    ]
    figure.legend(handles=handles, title=axis_label("ipc"), loc="outside right center")
    annotate(
        figure, exhibit, f"{exhibit.definition['caption']} {in_all(rows)} {facts(exhibit, [])}"
    )
    return figure


def _draw(
    wall: Axes,
    memory: Axes,
    rows: Rows,
    tint: Mapping[int | None, Sequence[float]],
    length: int,
) -> None:
    """Draw the panels of one dataset; ``length`` is the unit of time in seconds."""
    names = list(dict.fromkeys(row["stage"] for row in rows))
    memory.margins(x=0.1)  # no point on the edge
    for y, stage in enumerate(names):
        start = 0.0
        for ipc, color in tint.items():
            here = [row for row in rows if row["stage"] == stage and row["ipc"] == ipc]
            width = math.fsum(row["seconds"] or 0 for row in here) / length
            wall.barh(y, width, left=start, color=color, edgecolor="white", linewidth=0.5)
            start += width
            peaks = [row["memory_mb"] for row in here if row["memory_mb"] is not None]
            if peaks:
                memory.plot(max(peaks), y, "o", color=color, ms=5)
    wall.set_yticks(range(len(names)), names)
    wall.invert_yaxis()
    for panel in (wall, memory):
        panel.set_xlim(left=0)
        panel.grid(False, axis="y")
