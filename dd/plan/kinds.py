"""Kinds of tables and figures: the function that renders each kind, and what it reads.

From what a kind reads follow the jobs that a run needs, and the files that must exist before it is
rendered. To add a kind, write its function (``dd/report/tables``, ``dd/report/figures``) and
declare it here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dd.errors import DDError, unknown
from dd.plan.claims import claim_files, load_claims
from dd.plan.exhibits import Exhibit, published_files
from dd.plan.jobs import (
    ActivationMaps,
    Distillation,
    Erasing,
    Evaluation,
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
        jobs: returns the jobs that a table or figure needs.
        files: returns the files that a table or figure reads, given all jobs of the run.
    """

    jobs: Callable[[Exhibit], Iterable[Job]]
    files: Callable[[Exhibit, Sequence[Job]], list[str]]


def _evaluations(exhibit: Exhibit) -> list[Job]:
    return [job for cell in exhibit.cells() for job in evaluations(cell, exhibit.run)]


def _sets(exhibit: Exhibit) -> list[Job]:
    run = exhibit.run
    return [set_.job(run) for cell in exhibit.cells() for set_ in snapshots(cell, run)]


def _maps(exhibit: Exhibit) -> list[Job]:
    sets = (snapshot for cell in exhibit.cells() for snapshot in snapshots(cell, exhibit.run))
    return [ActivationMaps(snapshot) for snapshot in sets]


def _preparations(exhibit: Exhibit) -> list[Job]:
    """The images in the space of each distillation: its sets are shown by way of it."""
    cells = exhibit.cells()
    made = dict.fromkeys(job for cell in cells for job in distillations(cell, exhibit.run))
    spaces = dict.fromkeys((job.dataset, job.whitening(exhibit.run)) for job in made)
    return [Preparation(*space) for space in spaces]


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
    run = exhibit.run
    return [job.metrics(run) for job in _sets(exhibit) if isinstance(job, Distillation)]


def _evaluated(exhibit: Exhibit, jobs: Sequence[Job]) -> list[str]:
    return [job.file(exhibit.run) for job in jobs if isinstance(job, Evaluation)]


ACCURACIES = _of(_evaluations)
SETS = _of(_sets)
MAPS = _of(_maps)
IMAGES = _of(_preparations)  # real images
ERASED = _of(_erasings)
METRICS = Read(_sets, _metrics)
EVALUATIONS = Read(_nothing, _evaluated)  # all of the run
POOLS = Read(_nothing, _pools)  # the model pools of all methods in the run
# These are the outputs of the jobs, not the measurements beside them. If a measurement were an
# input, losing it would trigger a rerun of a finished job.
COSTS = Read(_nothing, lambda exhibit, jobs: [job.file(exhibit.run) for job in jobs])

QUANTITIES = {  # what a claim may be about, and what it is read from
    "accuracy": ACCURACIES,
    "auxiliary_variance": MAPS,
    "unseen_variance": MAPS,
    "memory": SETS,
    "erased_accuracy": ERASED,
}


def _claimed(exhibit: Exhibit) -> list[Job]:
    claims = load_claims(exhibit.run)
    return [job for claim in claims for job in QUANTITIES[claim.quantity].jobs(claim.exhibit)]


def _behind_claims(exhibit: Exhibit, jobs: Sequence[Job]) -> list[str]:
    files = claim_files(exhibit.run)
    for claim in load_claims(exhibit.run):
        files += [claim.exhibit.path, *published_files(claim.exhibit)]
    return [*files, *(job.file(exhibit.run) for job in _claimed(exhibit))]


CLAIMS = Read(_claimed, _behind_claims)


@dataclass(frozen=True)
class Kind:
    """A kind of table or figure.

    Attributes:
        renderer: ``MODULE:FUNCTION`` that renders it from an :class:`Exhibit`.
        reads: what it is made from.
        parts: what has a place for each axis: the keys that the ``layout`` of a figure must have,
            and of a table those of ``rows`` and ``columns`` that it has.
        single: those of ``parts`` whose axes may have one value only.
        x: the axis that the part ``x`` must be; "" for any.
        distilled: whether it shows what only a distillation by this suite leaves (its metrics, and
            tensors beside the images), and so no imported sets.
        check: ``MODULE:FUNCTION`` that refuses an :class:`Exhibit` that no results could make
            right; "" if there is nothing more to check than for all kinds.
        check_jobs: the same, for what depends on the jobs of the run; it is given these, too
            (without those of optional tables and figures).
    """

    renderer: str
    reads: tuple[Read, ...] = ()
    parts: tuple[str, ...] = ()
    single: tuple[str, ...] = ()
    x: str = ""
    distilled: bool = False
    check: str = ""
    check_jobs: str = ""

    def render(self, exhibit: Exhibit) -> Any:
        """Render ``exhibit``."""
        return resolve(self.renderer)(exhibit)

    def jobs(self, exhibit: Exhibit) -> list[Job]:
        """The jobs whose files ``exhibit`` reads."""
        return [job for read in self.reads for job in read.jobs(exhibit)]


TABLES = {
    "results": Kind("dd.report.tables.pivot:results", (ACCURACIES,), ("rows", "columns")),
    "reweighting": Kind(
        "dd.report.tables.reweighting:reweighting",
        (ACCURACIES, SETS),
        ("rows", "columns"),
        single=("columns",),
        distilled=True,
    ),
    "cost": Kind(
        "dd.report.tables.cost:cost",
        (SETS, METRICS),
        ("rows",),
        check_jobs="dd.report.read.costs:check",
    ),
    "areas": Kind(
        "dd.report.tables.areas:areas",
        (MAPS,),
        ("rows", "columns"),
        check="dd.report.read.maps:check",
    ),
    "stages": Kind("dd.report.tables.stages:stages", (COSTS,)),
    "settings": Kind("dd.report.tables.settings:settings", (POOLS,)),
    "hyperparameters": Kind(
        "dd.report.tables.hyperparameters:hyperparameters",
        check_jobs="dd.report.tables.hyperparameters:check",
    ),
    "listing": Kind("dd.report.tables.listing:listing", check="dd.report.tables.listing:check"),
    "evaluations": Kind("dd.report.tables.evaluations:evaluations", (EVALUATIONS,)),
    "claims": Kind("dd.report.tables.claims:claims", (CLAIMS,)),
    "ranking": Kind(
        "dd.report.tables.ranking:ranking",
        (ACCURACIES, SETS),
        ("rows",),
        check="dd.report.tables.ranking:check",
    ),
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
        x="iterations",
        distilled=True,
    ),
    "images": Kind("dd.report.figures.images:draw", (SETS, IMAGES), ("block", "row")),
    "difference": Kind(
        "dd.report.figures.difference:draw", (SETS,), ("color", "column", "row"), distilled=True
    ),
    "weights": Kind(
        "dd.report.figures.weights:draw",
        (SETS,),
        ("x", "column", "row"),
        x="iterations",
        distilled=True,
    ),
    "cams": Kind(
        "dd.report.figures.cams:draw",
        (MAPS, SETS, IMAGES),
        ("block", "row"),
        check="dd.report.read.maps:check",
    ),
    "variance": Kind(
        "dd.report.figures.variance:draw",
        (MAPS,),
        ("x", "color", "column", "row"),
        x="iterations",
        check="dd.report.read.maps:check",
    ),
    "erasing": Kind("dd.report.figures.erasing:draw", (ERASED,)),  # a panel per dataset, no cells
    "stages": Kind("dd.report.figures.stages:draw", (COSTS,)),
    "claims": Kind("dd.report.figures.claims:draw", (CLAIMS,)),
    "ranking": Kind(
        "dd.report.figures.ranking:draw", (ACCURACIES, SETS), ("color", "column", "row")
    ),
}


def kind_of(exhibit: Exhibit) -> Kind:
    """The kind of a table or figure."""
    return (TABLES if exhibit.renders == "table" else FIGURES)[exhibit.definition["kind"]]


def check(exhibit: Exhibit) -> None:
    """Check what is wrong in ``exhibit`` whatever the results are, so that no job runs for it in
    vain.

    Raises:
        DDError: for an axis without a place, for published values that do not fit, for cells that
            have not what its kind shows, and for what its kind refuses; the message names it and
            the file.
    """
    _check_arrangement(exhibit)
    _check_cells(exhibit)
    _check_published(exhibit)
    if own := kind_of(exhibit).check:
        resolve(own)(exhibit)


def _check_cells(exhibit: Exhibit) -> None:
    """Check that cells of accuracies name a network, and that some cell has a set."""
    kind, cells = kind_of(exhibit), exhibit.cells()
    if not {ACCURACIES, SETS, MAPS} & {*kind.reads}:
        return
    shown = f"{exhibit.renders} of kind {exhibit.definition['kind']}"
    for cell in cells if ACCURACIES in kind.reads else ():
        if cell.arch is None:
            place = ", ".join(f"{axis} {value}" for axis, value in cell.labels.items())
            raise DDError(
                f"{exhibit.path}: no axis binds 'arch', the network whose accuracy a {shown} shows "
                f"(cell: {place})"
            )
    if not any(distillations(cell, exhibit.run) for cell in cells):
        why = (
            "its sets are imported, and imported lists none of them" if cells else "no cell is left"
        )
        raise DDError(
            f"run {exhibit.run.name}, {exhibit.renders} {exhibit.name}: has no synthetic set to "
            f"show ({why}); leave it out"
        )


def _check_published(exhibit: Exhibit) -> None:
    for path in map(Path, published_files(exhibit)):
        if not path.is_file():
            known = [file.name for file in path.parent.glob("*.csv")]
            fault = unknown(f"file in {path.parent}", path.name, known)
            raise DDError(f"{exhibit.path}: published.file: {fault}")
    if exhibit.published:
        published = resolve("dd.report.read.published:Published")(exhibit)
        for cell in exhibit.cells():
            published.of(cell)  # refuses two values for a cell


def _check_arrangement(exhibit: Exhibit) -> None:
    """Check that each axis with several values has a place in ``exhibit``; without one, cells would
    hide each other.

    Raises:
        DDError: for an axis without a place, and a layout without a part of its kind, or with a
            part that its kind does not have; the message names it and the file.
    """
    kind, definition, figure = kind_of(exhibit), exhibit.definition, exhibit.renders == "figure"
    places = definition.get("layout", {}) if figure else definition
    for part in kind.parts:
        if part not in places:
            raise DDError(
                f"{exhibit.path}: layout has no '{part}'; it needs {', '.join(kind.parts)}"
            )
    for part in places if figure else ():
        if part not in kind.parts:
            raise DDError(f"{exhibit.path}: {unknown('part of layout', part, kind.parts)}")
    if kind.x and places["x"] != [kind.x]:
        raise DDError(f"{exhibit.path}: layout: x must be [{kind.x}]")
    cells = exhibit.cells()
    several = [axis for axis in exhibit.axes if len({cell.labels[axis] for cell in cells}) > 1]
    for axis in several:
        holding = [part for part in kind.parts if axis in places[part]]
        if kind.parts and not holding:
            raise DDError(
                f"{exhibit.path}: axis '{axis}' has several values but no place; put it into "
                f"{' or '.join(kind.parts)}{' of layout' if figure else ''}"
            )
        if {*holding} & {*kind.single}:
            raise DDError(
                f"{exhibit.path}: axis '{axis}' has several values and is in {holding[0]}, where a "
                f"table of kind {definition['kind']} shows one; put it into rows"
            )


def networks_behind(exhibit: Exhibit) -> list[Pretraining]:
    """The frozen networks that the jobs behind a table or figure use."""
    jobs = needed(exhibit.run, kind_of(exhibit).jobs(exhibit))
    return [job for job in jobs if isinstance(job, Pretraining)]


def inputs(exhibit: Exhibit, jobs: Sequence[Job]) -> list[str]:
    """The files that a table or figure is rendered from, besides its definition.

    Args:
        exhibit: the table or figure.
        jobs: all jobs of the run, without those of its optional tables and figures.
    """
    files = published_files(exhibit)
    for read in kind_of(exhibit).reads:
        files += read.files(exhibit, jobs)
    files += [job.file(exhibit.run) for job in networks_behind(exhibit)]
    return list(dict.fromkeys(files))
