"""The measured cost of a job: which job it is, where the measurement is stored, what it says."""

from __future__ import annotations

import csv
import resource
from dataclasses import dataclass
from pathlib import Path

from dd.artifacts.text import save_text
from dd.errors import DDError
from dd.runtime.limits import resident_bytes

ENDING = ".tsv"  # of the files


@dataclass(frozen=True)
class MeasuredJob:
    """A job of a compute stage.

    Attributes:
        stage: its stage; for evaluations under other protocols than ``hard`` with the protocol.
        dataset: its dataset.
        method: the method that it distils or evaluates, or the network that it trains; "" if
            neither.
        ipc: images per class; None if it has no synthetic set, or if the set is the full data.
        benchmark: the file of its measurement (:func:`write`).
        made: an output file of the job; its provenance names the device.
    """

    stage: str
    dataset: str
    method: str
    ipc: int | None
    benchmark: str
    made: str


@dataclass(frozen=True)
class Measured:
    """The measurement of a job. In older results, CPU time and memory of a short job are None:
    Snakemake took no sample of it.

    Attributes:
        seconds: wall time.
        cpu_seconds: CPU time of its process and of those that it started.
        memory_mb: the most memory, in MiB, that its process had resident.
    """

    seconds: float
    cpu_seconds: float | None
    memory_mb: float | None


def write(path: str | Path, seconds: float) -> None:
    """Write what this process has spent, with the columns of a benchmark file of Snakemake.

    Snakemake's own measurement samples the processes below the job's shell. It misses what short
    jobs need, and a job that a fork server carries out (:mod:`dd.runtime.fork_server`) altogether.

    Args:
        path: of the file.
        seconds: wall time of the job.
    """
    own, others = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    cpu = own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime
    memory = resident_bytes() / 2**20
    save_text(path, f"s\tmax_rss\tcpu_time\n{seconds:.4f}\t{memory:.2f}\t{cpu:.2f}\n")


def read(path: str) -> Measured:
    """Read what :func:`write` wrote, or a benchmark file of Snakemake.

    Raises:
        DDError: if ``path`` is no such file.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            row = next(csv.DictReader(file, delimiter="\t"))
        return Measured(float(row["s"]), _number(row["cpu_time"]), _number(row["max_rss"]))
    except (StopIteration, KeyError, TypeError, ValueError):
        raise DDError(
            f"{path}: is no measurement of a job; delete it, then its job counts as not measured"
        ) from None


def _number(text: str) -> float | None:
    return None if text in ("-", "NA") else float(text)
