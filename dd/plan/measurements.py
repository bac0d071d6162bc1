"""The measured cost of a job: which job it is, where the measurement is stored, what it says."""

from __future__ import annotations

import csv
from dataclasses import dataclass

from dd.errors import DDError


@dataclass(frozen=True)
class MeasuredJob:
    """A job of a compute stage.

    Attributes:
        stage: its stage; for evaluations under other protocols than ``hard`` with the protocol.
        dataset: its dataset.
        method: the method that it distils or evaluates, or the network that it trains; "" if
            neither.
        ipc: images per class; None if it has no synthetic set, or if the set is the full data.
        benchmark: the file of Snakemake's measurement (``benchmark:`` of the rule).
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
    """Snakemake's measurement of a job; None: the job was too short to be sampled.

    Attributes:
        seconds: wall time.
        cpu_seconds: CPU time of its processes at the last sample.
        memory_mb: memory of its processes in the largest sample.
    """

    seconds: float
    cpu_seconds: float | None
    memory_mb: float | None


def read(path: str) -> Measured:
    """Read a benchmark file of Snakemake.

    Raises:
        DDError: if ``path`` is no such file.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            row = next(csv.DictReader(file, delimiter="\t"))
        return Measured(float(row["s"]), _number(row["cpu_time"]), _number(row["max_rss"]))
    except (StopIteration, KeyError, TypeError, ValueError):
        raise DDError(
            f"{path}: is no benchmark file of Snakemake; delete it, then its job counts as not "
            "measured"
        ) from None


def _number(text: str) -> float | None:
    return None if text in ("-", "NA") else float(text)
