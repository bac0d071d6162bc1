"""The jobs of a run: what identifies each, which files it makes, which networks it uses."""

from __future__ import annotations

from dataclasses import dataclass

from dd.config.run import Run
from dd.plan.exhibits import Cell

GENERATOR = "generator"  # its file's stem, beside networks


@dataclass(frozen=True)
class Distillation:
    """One job that makes a synthetic set; its path below ``distilled/`` names it."""

    dataset: str
    method: str
    ipc: int
    seed: int

    def __str__(self) -> str:
        return f"{self.dataset}/{self.method}/ipc{self.ipc}/seed{self.seed}"


@dataclass(frozen=True)
class Shard:
    """One job that trains experts; its path below ``buffers/`` names it."""

    dataset: str
    whitening: str
    network: str
    number: int

    def __str__(self) -> str:
        return f"{self.dataset}/{self.whitening}/{self.network}/shard{self.number}"


@dataclass(frozen=True)
class Pretraining:
    """One job that trains a network, or a generator, to be used frozen: ``pretrained/<job>``."""

    dataset: str
    whitening: str
    network: str

    def __str__(self) -> str:
        return f"{self.dataset}/{self.whitening}/{self.network}"


@dataclass(frozen=True)
class Snapshot:
    """A synthetic set: what a distillation is after some iterations."""

    distillation: Distillation
    iterations: int

    def __str__(self) -> str:
        return f"{self.distillation}/it{self.iterations}"


@dataclass(frozen=True)
class Relabelling:
    """One job that gives the views of a synthetic set soft labels; a path below ``labels/``."""

    snapshot: Snapshot
    teacher: str

    def __str__(self) -> str:
        return f"{self.snapshot}/{self.teacher}"


@dataclass(frozen=True)
class Erasing:
    """One job that erases regions of test images; its path below ``erasing/`` names it."""

    dataset: str
    whitening: str = "none"

    def __str__(self) -> str:
        return f"{self.dataset}/{self.whitening}"


@dataclass(frozen=True)
class Evaluation:
    """One job that evaluates a snapshot; its path below ``evaluations/`` names it."""

    distillation: Distillation
    iterations: int
    protocol: str

    def __str__(self) -> str:
        return f"{self.distillation}/it{self.iterations}/{self.protocol}"


def distillations(cell: Cell, run: Run) -> list[Distillation]:
    """The synthetic sets of a cell, one a seed."""
    return [Distillation(cell.dataset, cell.method, cell.ipc, seed) for seed in run.seeds]


def evaluations(cell: Cell, run: Run) -> list[Evaluation]:
    """The evaluations of a cell, protocol by protocol, one a seed; none where it has no network."""
    if cell.arch is None:
        return []
    return [
        Evaluation(job, cell.iterations, protocol)
        for protocol in cell.protocols
        for job in distillations(cell, run)
    ]


def data_file(run: Run, dataset: str) -> str:
    return f"{run.root}/data/{dataset}.safetensors"


def synthetic_file(run: Run, job: Distillation, iterations: int) -> str:
    return f"{run.root}/distilled/{job}/it{iterations}.safetensors"


def metrics_file(run: Run, job: Distillation) -> str:
    return f"{run.root}/distilled/{job}/metrics.jsonl"


def shard_file(run: Run, shard: Shard) -> str:
    return f"{run.root}/buffers/{shard}.safetensors"


def pretrained_file(run: Run, job: Pretraining) -> str:
    return f"{run.root}/pretrained/{job}.safetensors"


def labels_file(run: Run, job: Relabelling) -> str:
    return f"{run.root}/labels/{job}.safetensors"


def cams_file(run: Run, job: Distillation, iterations: int) -> str:
    return f"{run.root}/cams/{job}/it{iterations}.safetensors"


def erasing_file(run: Run, dataset: str) -> str:
    return f"{run.root}/erasing/{Erasing(dataset)}.csv"


def evaluation_file(run: Run, job: Evaluation) -> str:
    return f"{run.root}/evaluations/{job}.csv"
