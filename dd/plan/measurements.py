"""What the table of costs needs to know of a job: what it does, and where its cost is stored."""

from __future__ import annotations

from dataclasses import dataclass


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
