"""What the stages of a run took: Snakemake's measurements of its jobs, added up."""

from __future__ import annotations

import csv
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dd.artifacts.headers import read_header
from dd.artifacts.text import load_rows
from dd.errors import DDError
from dd.plan.exhibits import Exhibit
from dd.plan.measurements import MeasuredJob
from dd.plan.plan import Plan
from dd.report.tables.pivot import Rows

KEYS = ("dataset", "stage", "method", "ipc")
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


def spent(exhibit: Exhibit) -> Rows:
    """A row for each dataset, stage, method and IPC of the run: how many jobs, of how many there is
    no measurement, and what the others took.

    ``gpu_seconds`` are the wall seconds of jobs that held a GPU, None if none did.
    """
    run = exhibit.run
    jobs = [job.measured(run) for job in Plan(run).main.jobs]
    datasets, names = list(run.datasets), list(dict.fromkeys(job.stage for job in jobs))
    groups: dict[tuple[Any, ...], list[MeasuredJob]] = {}
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
