"""Kinds of tables and figures: what makes each, and what it reads.

What a kind reads says which jobs a run needs, and which files must be there before it is rendered.
To add a kind, write what makes it (``dd/report/tables``, ``dd/report/figures``) and declare it
here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dd.plan.exhibits import Exhibit, published_files
from dd.plan.jobs import (
    ActivationMaps,
    Distillation,
    Erasing,
    Job,
    Preparation,
    Pretraining,
    distillations,
    evaluations,
    needed,
    snapshots,
)
from dd.plan.needs import pool_files
from dd.registry import resolve


@dataclass(frozen=True)
class Read:
    """Something that tables and figures read.

    Attributes:
        jobs: whose files it is, by table or figure.
        files: its files; of the jobs of the whole run where it is about them.
    """

    jobs: Callable[[Exhibit], Iterable[Job]]
    files: Callable[[Exhibit, Sequence[Job]], list[str]]


def _evaluations(exhibit: Exhibit) -> list[Job]:
    return [job for cell in exhibit.cells() for job in evaluations(cell, exhibit.run)]


def _distillations(exhibit: Exhibit) -> list[Job]:
    return [job for cell in exhibit.cells() for job in distillations(cell, exhibit.run)]


def _maps(exhibit: Exhibit) -> list[Job]:
    sets = (one for cell in exhibit.cells() for one in snapshots(cell, exhibit.run))
    return [ActivationMaps(one) for one in sets]


def _preparations(exhibit: Exhibit) -> list[Job]:
    return [Preparation(dataset) for dataset in dict.fromkeys(c.dataset for c in exhibit.cells())]


def _erasings(exhibit: Exhibit) -> list[Job]:
    return [Erasing(dataset) for dataset in exhibit.datasets]


def _nothing(exhibit: Exhibit) -> list[Job]:
    return []


def _of(jobs: Callable[[Exhibit], Iterable[Job]]) -> Read:
    """The files of ``jobs``."""
    return Read(jobs, lambda exhibit, _: [job.file(exhibit.run) for job in jobs(exhibit)])


def _pools(exhibit: Exhibit, jobs: Sequence[Job]) -> list[str]:
    methods = {job.method for job in jobs if isinstance(job, Distillation)}
    return sorted({file for method in methods for file in pool_files(exhibit.run, method)})


def _metrics(exhibit: Exhibit, jobs: Sequence[Job]) -> list[str]:
    cells, run = exhibit.cells(), exhibit.run
    return [job.metrics(run) for cell in cells for job in distillations(cell, run)]


ACCURACIES = _of(_evaluations)
SETS = _of(_distillations)
MAPS = _of(_maps)
IMAGES = _of(_preparations)  # of the real data
ERASED = _of(_erasings)
METRICS = Read(_distillations, _metrics)
POOLS = Read(_nothing, _pools)  # of all methods of the run
# Not the measurements: losing that of a finished job is no reason to do the job again.
COSTS = Read(_nothing, lambda exhibit, jobs: [job.file(exhibit.run) for job in jobs])


@dataclass(frozen=True)
class Kind:
    """A kind of table or figure.

    Attributes:
        renderer: ``MODULE:FUNCTION`` that makes it from an :class:`Exhibit`.
        reads: what it is made from.
        parts: of a figure's ``layout``, those that it must have.
    """

    renderer: str
    reads: tuple[Read, ...] = ()
    parts: tuple[str, ...] = ()

    def render(self, exhibit: Exhibit) -> Any:
        """``exhibit``, by its renderer."""
        return resolve(self.renderer)(exhibit)

    def jobs(self, exhibit: Exhibit) -> list[Job]:
        """The jobs whose files ``exhibit`` reads."""
        return [job for read in self.reads for job in read.jobs(exhibit)]


TABLES = {
    "results": Kind("dd.report.tables.pivot:results", (ACCURACIES,)),
    "reweighting": Kind("dd.report.tables.reweighting:reweighting", (ACCURACIES, SETS)),
    "cost": Kind("dd.report.tables.cost:cost", (SETS, METRICS)),
    "areas": Kind("dd.report.tables.areas:areas", (MAPS,)),
    "stages": Kind("dd.report.tables.stages:stages", (COSTS,)),
    "settings": Kind("dd.report.tables.settings:settings", (POOLS,)),
    "hyperparameters": Kind("dd.report.tables.hyperparameters:hyperparameters"),
    "listing": Kind("dd.report.tables.listing:listing"),
}
FIGURES = {
    "curve": Kind(
        "dd.report.figures.accuracy_curve:draw",
        (ACCURACIES,),
        ("x", "color", "style", "column", "row"),
    ),
    "bars": Kind("dd.report.figures.bars:draw", (ACCURACIES,), ("x", "color", "column", "row")),
    "curves": Kind(
        "dd.report.figures.training_curves:draw",
        (ACCURACIES, METRICS),
        ("x", "color", "column", "row"),
    ),
    "images": Kind("dd.report.figures.images:draw", (SETS, IMAGES), ("block", "row")),
    "difference": Kind("dd.report.figures.difference:draw", (SETS,), ("color", "column", "row")),
    "weights": Kind("dd.report.figures.weights:draw", (SETS,), ("x", "column", "row")),
    "cams": Kind("dd.report.figures.cams:draw", (MAPS, SETS, IMAGES), ("block", "row")),
    "variance": Kind("dd.report.figures.variance:draw", (MAPS,), ("x", "color", "column", "row")),
    "erasing": Kind("dd.report.figures.erasing:draw", (ERASED,)),  # no cells: panels a dataset
    "stages": Kind("dd.report.figures.stages:draw", (COSTS,)),
}


def kind_of(exhibit: Exhibit) -> Kind:
    """The kind of a table or figure."""
    return (TABLES if exhibit.renders == "table" else FIGURES)[exhibit.definition["kind"]]


def networks_behind(exhibit: Exhibit) -> list[Pretraining]:
    """The frozen networks that what a table or figure shows was made with."""
    jobs = needed(exhibit.run, kind_of(exhibit).jobs(exhibit))
    return [job for job in jobs if isinstance(job, Pretraining)]


def inputs(exhibit: Exhibit, jobs: Sequence[Job]) -> list[str]:
    """The files that a table or figure is rendered from, beside its definition.

    Args:
        jobs: of the whole run, without those of its optional tables and figures.
    """
    files = published_files(exhibit)
    for read in kind_of(exhibit).reads:
        files += read.files(exhibit, jobs)
    files += [job.file(exhibit.run) for job in networks_behind(exhibit)]
    return list(dict.fromkeys(files))
