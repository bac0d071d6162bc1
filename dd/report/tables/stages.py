"""The table of the cost of each stage of a run."""

from __future__ import annotations

import math
from typing import Any

from dd.plan.exhibits import Exhibit
from dd.report.captions import facts
from dd.report.labels import axis_label, value_label
from dd.report.read.stage_costs import KEYS, NO_IPC, spent
from dd.report.sheet import Sheet, Text
from dd.report.tables.pivot import Rows, rounded

MEASURES = {
    "jobs": "Jobs",
    "median_seconds": "Median job (s)",
    "seconds": "Wall (s)",
    "cpu_seconds": "CPU (s)",
    "gpu_seconds": "GPU (s)",
    "memory_mb": "Memory (MB)",
}


def stages(exhibit: Exhibit) -> tuple[Rows, Sheet]:
    """The rows of :func:`spent` as a table, with the total of all jobs in the caption."""
    rows = spent(exhibit)
    shown = [name for name in MEASURES if any(row[name] is not None for row in rows)]
    sheet = Sheet(
        name=exhibit.name,
        title=exhibit.definition["title"],
        caption=f"{exhibit.definition['caption']} {in_all(rows)} {facts(exhibit, [])}",
        header=[*map(axis_label, KEYS), *(MEASURES[name] for name in shown)],
        body=[
            [*map(Text, _place(row)), *(Text(_shown(name, row[name])) for name in shown)]
            for row in rows
        ],
        keys=len(KEYS),
    )
    return [rounded(row) for row in rows], sheet


def in_all(rows: Rows) -> str:
    """A sentence with the totals of all rows."""
    jobs = sum(row["jobs"] for row in rows)
    seconds, cpu, gpu = (
        math.fsum(row[name] or 0.0 for row in rows)
        for name in ("seconds", "cpu_seconds", "gpu_seconds")
    )
    held = f", {_hours(gpu)} on a GPU" if gpu else ""
    lost = sum(row["not_measured"] for row in rows)
    without = f" ({lost} of the jobs have no measurement)" if lost else ""
    return f"Total: {jobs} jobs, {_hours(seconds)}{held}, {_hours(cpu)} of CPU time{without}."


def _hours(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _place(row: dict[str, Any]) -> list[str]:
    """The headings of a row. The column of methods has the network for stages that train one."""
    method, ipc = row["method"], row["ipc"]
    axis = "arch" if row["stage"] in ("buffer", "pretrain") else "method"
    name = value_label(axis, method) if method else NO_IPC
    return [row["dataset"], row["stage"], name, NO_IPC if ipc is None else str(ipc)]


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1f}" if name == "median_seconds" else f"{value:.0f}"
