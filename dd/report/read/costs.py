"""What distillations cost: the time of their iterations, and where and in how much memory."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from dd.artifacts.headers import read_origin
from dd.errors import DDError
from dd.plan.exhibits import Cell, Exhibit
from dd.plan.jobs import Distillation, Job, snapshots
from dd.report.read.metrics import read_metric

LEAST = 2  # iterations, since the time of the first one is left out


def check(exhibit: Exhibit, jobs: Sequence[Job]) -> None:
    """Raise a :class:`DDError` for a cell whose distillation is too short to be timed.

    Args:
        exhibit: the table.
        jobs: those of the run: a distillation may go on after the iterations of the cell.
    """
    run = exhibit.run
    ends = {job: job.snapshots[-1] for job in jobs if isinstance(job, Distillation)}
    for snapshot in (one for cell in exhibit.cells() for one in snapshots(cell, run)):
        made = snapshot.distillation
        last = max(snapshot.iterations, ends.get(made, 0))
        if last < LEAST and not run.is_imported(made.dataset, made.method):
            raise DDError(
                f"run {run.name}, {exhibit.renders} {exhibit.name}: a cost needs at least {LEAST} "
                f"iterations, {made.method} on {made.dataset} at IPC {made.ipc} has {last}; give "
                "it more, or leave it out"
            )


def seconds_per_iteration(paths: Sequence[str]) -> list[float]:
    """The time of each iteration in the files ``metrics.jsonl`` at ``paths``.

    The first iteration of each file is left out, because its time includes the start of the job.

    Raises:
        DDError: if a file is missing or malformed, or has no second iteration.
    """
    times: list[float] = []
    for path in paths:
        times += numpy.diff(read_metric(path, "seconds")).tolist()
    if not times:
        raise DDError(f"{paths[0]}: a cost needs at least {LEAST} iterations; distil longer")
    return times


def origin(path: str) -> dict[str, Any]:
    """The provenance of a synthetic set, with its peak memory.

    Raises:
        DDError: if its header has none.
    """
    made = read_origin(path)
    if "host" not in made.get("peak_memory_mb", {}):
        raise DDError(
            f"{path}: its header has no peak memory; make the set by `python -m dd distill`"
        )
    return made


def peak(made: Mapping[str, Any]) -> float:
    """The peak memory in MB of what has this provenance: on the GPU, if it was made on one."""
    memory = made["peak_memory_mb"]
    return float(memory.get("gpu", memory["host"]))


def costs(exhibit: Exhibit, cell: Cell) -> dict[str, Any]:
    """The median time and the largest peak memory of the distillations of a cell; None for imported
    sets, since nobody measured those."""
    if exhibit.run.is_imported(cell.dataset, cell.method):
        return {"seconds": None, "memory_mb": None}
    files = [snapshot.file(exhibit.run) for snapshot in snapshots(cell, exhibit.run)]
    origins = [origin(file) for file in files]
    for file, made in zip(files, origins, strict=True):
        if not isinstance(made.get("wall_seconds"), int | float):
            raise DDError(
                f"{file}: its header has no wall_seconds; make it by `python -m dd distill`"
            )
    return {
        "seconds": statistics.median(float(made["wall_seconds"]) for made in origins),
        "memory_mb": max(map(peak, origins)),
    }
