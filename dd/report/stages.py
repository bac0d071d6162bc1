"""What the stages of a run took: Snakemake's measurements of its jobs, added up."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dd.artifacts import load_rows, read_header
from dd.errors import DDError
from dd.grid import Grid
from dd.plan import Plan
from dd.report import escape
from dd.report.labels import axis_label, value_label
from dd.report.pivot import Rows, rounded
from dd.report.results import facts
from dd.report.sheet import Sheet, Text
from dd.report.style import WIDTH, annotate, colors
from dd.work import Work, work

KEYS = ("dataset", "stage", "method", "ipc")
MEASURES = {
    "jobs": "Jobs",
    "median_seconds": "Median job (s)",
    "seconds": "Wall (s)",
    "cpu_seconds": "CPU (s)",
    "gpu_seconds": "GPU (s)",
    "memory_mb": "Memory (MB)",
}
LONG = 3600  # seconds of a row from which on a figure counts in hours
NO_IPC = "–"  # of jobs that have to do with no synthetic set


@dataclass(frozen=True)
class Measured:
    """What Snakemake measured of a job; None: too short to tell.

    Attributes:
        seconds: wall time.
        cpu_seconds: of its processes, as last sampled.
        memory_mb: the largest sample of what its processes held.
    """

    seconds: float
    cpu_seconds: float | None
    memory_mb: float | None


def read(path: str) -> Measured:
    """A benchmark file of Snakemake.

    Raises:
        DDError: if it is none.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            row = next(csv.DictReader(file, delimiter="\t"))
        return Measured(float(row["s"]), _number(row["cpu_time"]), _number(row["max_rss"]))
    except (StopIteration, KeyError, TypeError, ValueError):
        raise DDError(
            f"{path}: is no benchmark file of Snakemake; delete it, and its job counts as not "
            "measured"
        ) from None


def _number(text: str) -> float | None:
    return None if text in ("-", "NA") else float(text)


def on_gpu(path: str) -> bool:
    """Whether the artifact at ``path`` was made on a GPU, as it says itself."""
    if path.endswith(".csv"):
        device = next(iter(load_rows(path)), {}).get("device", "")
    else:
        device = read_header(path).get("provenance", {}).get("device", "")
    return str(device).startswith("cuda")


def spent(grid: Grid) -> Rows:
    """A row for each dataset, stage, method and IPC of the run: how many jobs, of how many there is
    no measurement, and what the others took.

    ``gpu_seconds`` are the wall seconds of jobs that held a GPU, None if none did.
    """
    run, jobs = grid.run, work(Plan(grid.run).main)
    datasets, names = list(run.datasets), list(dict.fromkeys(job.stage for job in jobs))
    groups: dict[tuple[Any, ...], list[Work]] = {}
    for job in sorted(jobs, key=lambda j: (datasets.index(j.dataset), names.index(j.stage))):
        groups.setdefault((job.dataset, job.stage, job.method, job.ipc), []).append(job)
    rows = []
    for (dataset, *place), those in groups.items():
        there = [job for job in those if Path(job.benchmark).is_file()]
        found = [read(job.benchmark) for job in there]
        walls = [one.seconds for one in found]
        held = [one.seconds for one, job in zip(found, there, strict=True) if on_gpu(job.made)]
        memory = [one.memory_mb for one in found if one.memory_mb is not None]
        rows.append(
            {
                **dict(zip(KEYS, (run.datasets[dataset]["label"], *place), strict=True)),
                "jobs": len(those),
                "not_measured": len(those) - len(there),
                "median_seconds": statistics.median(walls) if walls else None,
                "seconds": math.fsum(walls) if walls else None,
                "cpu_seconds": math.fsum(one.cpu_seconds or 0.0 for one in found) or None,
                "gpu_seconds": math.fsum(held) if held else None,
                "memory_mb": max(memory, default=None),
            }
        )
    return rows


def stages(grid: Grid) -> tuple[Rows, Sheet]:
    """The table: the rows of :func:`spent`, and what all jobs took together."""
    rows = spent(grid)
    shown = [name for name in MEASURES if any(row[name] is not None for row in rows)]
    sheet = Sheet(
        name=grid.name,
        title=grid.definition["title"],
        caption=f"{grid.definition['caption']} {in_all(rows)} {facts(grid, [])}",
        header=[*map(axis_label, KEYS), *(MEASURES[name] for name in shown)],
        body=[
            [*map(Text, _place(row)), *(Text(_shown(name, row[name])) for name in shown)]
            for row in rows
        ],
        keys=len(KEYS),
    )
    return [rounded(row) for row in rows], sheet


def in_all(rows: Rows) -> str:
    """The sums of all rows, a sentence."""
    jobs = sum(row["jobs"] for row in rows)
    seconds, cpu, gpu = (
        math.fsum(row[name] or 0.0 for row in rows)
        for name in ("seconds", "cpu_seconds", "gpu_seconds")
    )
    held = f", {_hours(gpu)} on a GPU" if gpu else ""
    lost = sum(row["not_measured"] for row in rows)
    without = f" (of {lost} jobs there is no measurement)" if lost else ""
    return f"In all: {jobs} jobs, {_hours(seconds)}{held}, {_hours(cpu)} of CPU time{without}."


def _hours(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _place(row: dict[str, Any]) -> list[str]:
    """Where a row stands, in words; a method is a spec, or the network that is trained."""
    method, ipc = row["method"], row["ipc"]
    axis = "arch" if row["stage"] in ("buffer", "pretrain") else "method"
    name = value_label(axis, method) if method else NO_IPC
    return [row["dataset"], row["stage"], name, NO_IPC if ipc is None else str(ipc)]


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1f}" if name == "median_seconds" else f"{value:.0f}"


def draw(grid: Grid) -> Figure:
    """Left, the wall time of each stage, by IPC; right, the largest memory of any of its jobs.
    Panels in a row for each dataset."""
    rows, names = spent(grid), list(grid.datasets)
    ipcs = sorted({row["ipc"] for row in rows if row["ipc"] is not None})
    tint = {None: (0.6, 0.6, 0.6), **colors(ipcs)}
    count = max(len({row["stage"] for row in rows}), 4)
    size = (WIDTH, 0.9 + 0.27 * count * len(names))
    figure, panels = pyplot.subplots(
        len(names), 2, figsize=size, squeeze=False, layout="constrained",
        width_ratios=(1.6, 1), sharey="row", sharex="col",
    )  # fmt: skip
    unit, length = ("h", 3600) if max(row["seconds"] or 0 for row in rows) > LONG else ("s", 1)
    for name, (wall, memory) in zip(names, panels, strict=True):
        label = grid.run.datasets[name]["label"]
        _draw(wall, memory, [row for row in rows if row["dataset"] == label], tint, length)
        wall.set_title(escape.figure(label) if len(names) > 1 else "", loc="left")
    panels[-1, 0].set_xlabel(f"Wall time of all jobs ({unit})")
    panels[-1, 1].set_xlabel("Peak memory of a job (MB)")
    there = {row["ipc"] for row in rows}
    handles = [
        pyplot.Rectangle((0, 0), 1, 1, color=color, label="none" if ipc is None else str(ipc))
        for ipc, color in tint.items()
        if ipc in there
    ]
    figure.legend(handles=handles, title=axis_label("ipc"), loc="outside right center")
    annotate(figure, grid, f"{grid.definition['caption']} {in_all(rows)} {facts(grid, [])}")
    return figure


def _draw(
    wall: Axes,
    memory: Axes,
    rows: Rows,
    tint: dict[int | None, Sequence[float]],
    length: int,
) -> None:
    """One dataset's panels; ``length``: of the unit of time, in seconds."""
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
