"""What the compute jobs of a run are, one by one, and where Snakemake measured them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dd.config.methods import parse_protocol
from dd.plan.jobs import (
    GENERATOR,
    cams_file,
    data_file,
    erasing_file,
    evaluation_file,
    labels_file,
    pretrained_file,
    shard_file,
    synthetic_file,
)

if TYPE_CHECKING:
    from dd.plan.plan import Plan


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


def measured_jobs(plan: Plan) -> list[MeasuredJob]:
    """The compute jobs of ``plan``, stage after stage."""
    run = plan.run

    def entry(
        stage: str, job: Any, dataset: str, method: str, ipc: int | None, made: str
    ) -> MeasuredJob:
        benchmark = f"{run.root}/benchmarks/{stage.partition(',')[0]}/{job}.tsv"
        return MeasuredJob(stage, dataset, method, ipc or None, benchmark, made)

    found = [entry("prepare", name, name, "", None, data_file(run, name)) for name in run.datasets]
    for job in plan.shards:
        made = shard_file(run, job)
        found.append(entry("buffer", job, job.dataset, job.network, None, made))
    for job in plan.pretrainings:
        stage = "generator" if job.network == GENERATOR else "pretrain"
        method = "" if job.network == GENERATOR else job.network
        found.append(entry(stage, job, job.dataset, method, None, pretrained_file(run, job)))
    for job, snapshots in plan.distillations.items():
        made = synthetic_file(run, job, snapshots[-1])
        found.append(entry("distill", job, job.dataset, job.method, job.ipc, made))
    for job in plan.relabellings:
        of = job.snapshot.distillation
        found.append(entry("relabel", job, of.dataset, of.method, of.ipc, labels_file(run, job)))
    for job in plan.evaluations:
        of = job.distillation
        protocol = parse_protocol(job.protocol, run.protocols).name.partition("@")[0]
        stage = "evaluate" if protocol == "hard" else f"evaluate, {protocol}"
        found.append(entry(stage, job, of.dataset, of.method, of.ipc, evaluation_file(run, job)))
    for job in plan.snapshots_with_cams:
        of = job.distillation
        made = cams_file(run, of, job.iterations)
        found.append(entry("cams", job, of.dataset, of.method, of.ipc, made))
    for job in plan.erasings:
        made = erasing_file(run, job.dataset)
        found.append(entry("erase", job, job.dataset, "", None, made))
    return found
