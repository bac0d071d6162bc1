"""The measured cost of methods: seconds per iteration and peak memory."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any

from dd.plan.exhibits import Cell, Exhibit
from dd.plan.jobs import Snapshot, distillations
from dd.report.captions import facts, warnings
from dd.report.labels import axis_label
from dd.report.read.costs import origin, seconds_per_iteration
from dd.report.read.places import labels
from dd.report.sheet import Sheet, Text
from dd.report.tables.pivot import Rows, place_labels, rounded

MEASURES = {
    "seconds": ("Seconds per iteration", "#.3g"),
    "host_mb": ("Memory (MB)", ".0f"),
    "gpu_mb": ("GPU memory (MB)", ".0f"),
}


def cost(exhibit: Exhibit) -> tuple[Rows, Sheet]:
    """One row per cell: each measure, and its ratio to the measure of the cell's base.

    The base is the same objective on pixels, without a regulariser.
    """
    rows = [_measured(exhibit, cell) for cell in exhibit.cells()]
    bases = {
        (c.dataset, c.ipc, c.method): row for c, row in zip(exhibit.cells(), rows, strict=True)
    }
    for cell, row in zip(exhibit.cells(), rows, strict=True):
        method = exhibit.run.parse(cell.method)
        plain = str(replace(method, parametrisation=None, regulariser=None))
        base = bases.get((cell.dataset, cell.ipc, plain))
        for name in MEASURES:
            own, of_base = row[name], base and base[name]
            known = own is not None and of_base
            row[f"{name}_ratio"] = own / of_base if known else None
    shown = [name for name in MEASURES if any(row[name] is not None for row in rows)]
    down = exhibit.definition["rows"]
    header = [*map(axis_label, down)]
    for name in shown:
        header += [MEASURES[name][0], "× base"]
    sheet = Sheet(
        name=exhibit.name,
        title=exhibit.definition["title"],
        caption=f"{exhibit.definition['caption']} {_hardware(rows)} {facts(exhibit, [])}",
        header=header,
        body=[
            [
                *map(Text, place_labels(row, down)),
                *(Text(text) for name in shown for text in _shown(row, name)),
            ]
            for row in rows
        ],
        keys=len(down),
        notes=warnings(exhibit),
    )
    return [rounded(row) for row in rows], sheet


def _measured(exhibit: Exhibit, cell: Cell) -> dict[str, Any]:
    """The measures of a cell: the median time over all seeds, the largest memory of any seed.

    Nobody measured those of imported sets.
    """
    run = exhibit.run
    if run.is_imported(cell.dataset, cell.method):
        unknown = {**dict.fromkeys(MEASURES), "iterations_timed": 0, "hardware": ""}
        return {**labels(exhibit, cell), **unknown}
    jobs = distillations(cell, run)
    times = seconds_per_iteration([job.metrics(run) for job in jobs])
    origins = [origin(Snapshot(job, cell.iterations).file(run)) for job in jobs]
    peaks = [made["peak_memory_mb"] for made in origins]
    on_gpu = [peak["gpu"] for peak in peaks if "gpu" in peak]
    return {
        **labels(exhibit, cell),
        "seconds": statistics.median(times),
        "iterations_timed": len(times),
        "host_mb": max(peak["host"] for peak in peaks),
        "gpu_mb": max(on_gpu) if on_gpu else None,
        "hardware": " or ".join(dict.fromkeys(map(_machine, origins))),
    }


def _machine(made: dict[str, Any]) -> str:
    """The machine on which an artifact was made, from its provenance."""
    threads = made.get("threads", "?")
    chip = made.get("gpu") or made.get("cpu") or made.get("machine", "unknown machine")
    return (
        f"{chip} ({made.get('device', 'unknown device')}), "
        f"{threads} {'thread' if threads == 1 else 'threads'}, torch {made.get('torch', '?')}"
    )


def _hardware(rows: Rows) -> str:
    machines = list(dict.fromkeys(row["hardware"] for row in rows if row["hardware"]))
    if not machines:
        return "Not measured, since no set was distilled here."
    if len(machines) == 1:
        return f"Measured on {machines[0]}."
    return (
        f"Measured on different machines ({'; '.join(machines)}): ratios between them mean little."
    )


def _shown(row: dict[str, Any], name: str) -> tuple[str, str]:
    value, ratio = row[name], row[f"{name}_ratio"]
    return (
        "–" if value is None else f"{value:{MEASURES[name][1]}}",
        "–" if ratio is None else f"{ratio:.2f}",
    )
