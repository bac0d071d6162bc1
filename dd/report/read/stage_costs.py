"""The cost of each stage of a run: sums of what its jobs measured of themselves."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from dd.artifacts.headers import read_origin
from dd.artifacts.text import load_rows
from dd.plan.exhibits import Exhibit
from dd.plan.measurements import MeasuredJob, read
from dd.plan.plan import Plan
from dd.report.tables.pivot import Rows

KEYS = ("dataset", "stage", "method", "ipc")
NO_IPC = "–"  # for jobs without a synthetic set


def on_gpu(path: str) -> bool:
    """Whether the artifact at ``path`` was made on a GPU, according to its provenance."""
    if path.endswith(".csv"):
        device = next(iter(load_rows(path)), {}).get("device", "")
    else:
        device = read_origin(path).get("device", "")
    return str(device).startswith("cuda")


def spent(exhibit: Exhibit) -> Rows:
    """A row for each dataset, stage, method and IPC of the run.

    It has the number of jobs, the number of jobs without a measurement, and the cost of the others.
    ``gpu_seconds`` is the wall time of the jobs that held a GPU; None if no job did.
    """
    run = exhibit.run
    jobs = [job.measured(run) for job in Plan(run).main.jobs]
    datasets, names = list(run.datasets), list(dict.fromkeys(job.stage for job in jobs))
    groups: dict[tuple[Any, ...], list[MeasuredJob]] = {}
    for job in sorted(jobs, key=lambda j: (datasets.index(j.dataset), names.index(j.stage))):
        groups.setdefault((job.dataset, job.stage, job.method, job.ipc), []).append(job)
    rows = []
    for (dataset, *place), members in groups.items():
        measured = [job for job in members if Path(job.benchmark).is_file()]
        costs = [read(job.benchmark) for job in measured]
        walls = [cost.seconds for cost in costs]
        on_gpus = [c.seconds for c, job in zip(costs, measured, strict=True) if on_gpu(job.made)]
        memory = [cost.memory_mb for cost in costs if cost.memory_mb is not None]
        rows.append(
            {
                **dict(zip(KEYS, (run.datasets[dataset]["label"], *place), strict=True)),
                "jobs": len(members),
                "not_measured": len(members) - len(measured),
                "median_seconds": statistics.median(walls) if walls else None,
                "seconds": math.fsum(walls) if walls else None,
                "cpu_seconds": math.fsum(cost.cpu_seconds or 0.0 for cost in costs) or None,
                "gpu_seconds": math.fsum(on_gpus) if on_gpus else None,
                "memory_mb": max(memory, default=None),
            }
        )
    return rows
