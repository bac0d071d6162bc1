"""The jobs of a run: what identifies each, which files it makes, which networks it uses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dd.errors import DDError
from dd.grid import Cell, Grid
from dd.run import Run
from dd.spec import Part

GENERATOR = "generator"  # its file's stem, beside networks


@dataclass(frozen=True)
class Distillation:
    """One job that makes a synthetic set; its path below ``distilled/`` names it."""

    dataset: str
    spec: str
    ipc: int
    seed: int

    def __str__(self) -> str:
        return f"{self.dataset}/{self.spec}/ipc{self.ipc}/seed{self.seed}"


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
    """One job that trains a network, or a generator, to be used frozen; a path below ``pools/``."""

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
    return [Distillation(cell.dataset, cell.spec, cell.ipc, seed) for seed in run.seeds]


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


def pool_files(run: Run, spec: str) -> list[str]:
    """The definition of the pool that ``spec`` draws networks from, if it does."""
    pool = run.parse(spec).pool
    return [run.path("pools", f"{pool}.yaml")] if pool else []


def networks(run: Run, spec: str, dataset: str, ipc: int) -> list[str]:
    """The networks that ``spec`` distils with, canonical; none where it uses none."""
    from dd.networks import load_pool  # imports torch, which the workflow's parsing need not

    pools = pool_files(run, spec)
    if pools:
        return [name for name, _ in load_pool(pools[0]).networks()]
    settings = run.distillation(spec, dataset, ipc)
    return _canonical([settings["network"]] if "network" in settings else [])


def auxiliary_networks(run: Run, spec: str, dataset: str, ipc: int) -> list[str]:
    """The auxiliary networks of the regulariser of ``spec``, canonical; none without one."""
    method = run.parse(spec)
    if method.regulariser is None:
        return []
    settings = run.part(method.regulariser, method.objective, dataset, ipc)
    return auxiliaries(settings["auxiliary"])


def auxiliary(run: Run, dataset: str) -> list[str]:
    """The auxiliary networks that the run's MetaDD uses unless a spec says otherwise."""
    return auxiliaries(metadd(run, dataset)["auxiliary"])


def metadd(run: Run, dataset: str) -> dict[str, Any]:
    """The settings that the run's MetaDD has unless a spec or an objective says otherwise."""
    return run.part(Part("metadd"), "", dataset, run.axes["ipc"][0])


def cam_rectify(run: Run) -> str:
    """What all class activation maps of the run's tables and figures do with negative values, as
    its MetaDD does unless a spec says otherwise.

    Raises:
        DDError: if it is not the same for all datasets.
    """
    found = {dataset: metadd(run, dataset)["rectify"] for dataset in run.datasets}
    chosen = list(dict.fromkeys(found.values()))
    if len(chosen) > 1:
        said = ", ".join(f"{value} for {dataset}" for dataset, value in found.items())
        raise DDError(f"rectify of metadd is {said}; all class activation maps of a run follow one")
    return chosen[0]


def auxiliaries(joined: str) -> list[str]:
    """Canonical networks from their specs, joined by dots."""
    return _canonical(joined.split("."))


def seen(run: Run, spec: str, dataset: str, ipc: int) -> list[str]:
    """The networks that ``spec`` uses while it distils: its own and the auxiliary ones."""
    own = networks(run, spec, dataset, ipc)
    return list(dict.fromkeys([*own, *auxiliary_networks(run, spec, dataset, ipc)]))


def cam_networks(run: Run) -> list[str]:
    """The networks whose class activation maps the run measures."""
    named = run.cam_networks or auxiliary(run, next(iter(run.datasets)))
    return _canonical(named)


def _canonical(names: Iterable[str]) -> list[str]:
    from dd.networks import canonical  # imports torch, which the workflow's parsing need not

    return [canonical(name) for name in names]


def synthetic_file(run: Run, job: Distillation, iterations: int) -> str:
    return f"{run.root}/distilled/{job}/it{iterations}.safetensors"


def metrics_file(run: Run, job: Distillation) -> str:
    return f"{run.root}/distilled/{job}/metrics.jsonl"


def shard_file(run: Run, shard: Shard) -> str:
    return f"{run.root}/buffers/{shard}.safetensors"


def pretrained_file(run: Run, job: Pretraining) -> str:
    return f"{run.root}/pools/{job}.safetensors"


def labels_file(run: Run, job: Relabelling) -> str:
    return f"{run.root}/labels/{job}.safetensors"


def cams_file(run: Run, job: Distillation, iterations: int) -> str:
    return f"{run.root}/cams/{job}/it{iterations}.safetensors"


def erasing_file(run: Run, dataset: str) -> str:
    return f"{run.root}/erasing/{Erasing(dataset)}.csv"


def evaluation_file(run: Run, job: Evaluation) -> str:
    return f"{run.root}/evaluations/{job}.csv"


def published_files(grid: Grid) -> list[str]:
    return [str(Path(grid.run.workflow, "reference", one["file"])) for one in grid.published]
