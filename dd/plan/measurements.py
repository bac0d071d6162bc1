"""What the table of costs has to know of a job: what it is, and where Snakemake measured it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MeasuredJob:
    """A job of a compute stage.

    Attributes:
        stage: its stage; evaluations under other protocols than ``hard`` name theirs.
        dataset: its dataset.
        method: that it distils or evaluates, or the network that it trains; "" if neither.
        ipc: images per class; None if it has to do with no synthetic set, or with the full data.
        benchmark: Snakemake's measurement of it.
        made: a file that it leaves, which says on what device it was made.
    """

    stage: str
    dataset: str
    method: str
    ipc: int | None
    benchmark: str
    made: str
