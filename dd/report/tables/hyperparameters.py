"""The hyperparameters of a run, a row for each distillation method, dataset and IPC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dd.config import recipes
from dd.config.methods import format_value
from dd.config.run import Run
from dd.errors import DDError, unknown
from dd.plan.exhibits import Exhibit
from dd.plan.jobs import Distillation, Job
from dd.plan.plan import Plan
from dd.report.captions import facts
from dd.report.labels import axis_label, setting_label, value_label
from dd.report.sheet import Sheet, Text
from dd.report.tables.pivot import Rows

JOB = ("dataset", "ipc", "method")
RECIPE = "recipe"  # "own", or a description of the settings that replace missing ones
BUFFER = "buffer."  # prefix of settings with which experts are trained


def hyperparameter_rows(
    run: Run, jobs: Sequence[Job], objectives: Sequence[str], columns: Sequence[str], where: str
) -> list[dict[str, Any]]:
    """The settings of the distillations of ``run`` by ``objectives``.

    Args:
        run: the run.
        jobs: all its jobs, without those of its optional tables and figures.
        objectives: methods that have a row; their variants (``iadd@weights=raw``) have none.
        columns: settings of the objectives, ``iterations``, and settings with which experts are
            trained, as ``buffer.<name>``.
        where: the file that names the columns, for messages.

    Returns:
        Rows with :data:`JOB` (``dataset`` by its label), ``columns`` (None if a method has no such
        setting) and :data:`RECIPE`, in the order of the plan.

    Raises:
        DDError: if an objective is unknown, if no objective has one of the settings, or if the run
            has none of the objectives.
    """
    for name in objectives:
        if name not in recipes.objectives():
            raise DDError(f"{where}: {unknown('objective', name, recipes.objectives())}")
    rows: dict[tuple, dict[str, Any]] = {}
    for job in jobs:
        if not isinstance(job, Distillation):
            continue
        method = run.parse(job.method)
        if method.objective not in objectives or method.settings or method.parts:
            continue
        settings = {"iterations": job.snapshots[-1], **job.settings(run)}
        settings |= {
            f"{BUFFER}{k}": value for k, value in run.training("buffer", job.dataset).items()
        }
        label = run.datasets[job.dataset]["label"]
        place = dict(zip(JOB, (label, job.ipc, job.method), strict=True))
        taken = recipes.fallback(method.objective, job.dataset, job.ipc)
        settings[RECIPE] = f"fallback: {taken.takes}" if taken else "own"
        rows[tuple(place.values())] = place | settings  # all seeds have the same settings
    if not rows:
        raise DDError(f"{where}: run {run.name} does not distil by {' or '.join(objectives)}")
    known = dict.fromkeys(
        name for row in rows.values() for name in row if name not in (*JOB, RECIPE)
    )
    for column in columns:
        if column not in known:
            raise DDError(f"{where}: columns: {unknown('setting', column, known)}")
    return [{name: row.get(name) for name in (*JOB, *columns, RECIPE)} for row in rows.values()]


def setting_shown(name: str, value: Any) -> str:
    """A setting as text: ``–`` if there is none, ``all`` for an unlimited batch."""
    if value is None:
        return "–"
    return "all" if name == "batch_syn" and value == 0 else format_value(value)


def check(exhibit: Exhibit, jobs: Sequence[Job]) -> None:
    """Raise a :class:`DDError` for an objective or a column that the run does not have.

    Args:
        exhibit: the table.
        jobs: see :func:`hyperparameter_rows`.
    """
    _rows(exhibit, jobs)


def _rows(exhibit: Exhibit, jobs: Sequence[Job]) -> Rows:
    objectives, columns = (exhibit.definition[key] for key in ("objectives", "columns"))
    return hyperparameter_rows(exhibit.run, jobs, objectives, columns, exhibit.path)


def hyperparameters(exhibit: Exhibit) -> tuple[Rows, Sheet]:
    """A row for each dataset, IPC and method: the settings named in the definition, as used."""
    columns = exhibit.definition["columns"]
    rows = _rows(exhibit, Plan(exhibit.run).main.jobs)
    sheet = Sheet(
        name=exhibit.name,
        title=exhibit.definition["title"],
        caption=f"{exhibit.definition['caption']} {facts(exhibit, [])}",
        header=[*map(axis_label, JOB), *map(setting_label, columns), axis_label(RECIPE)],
        body=[
            [
                *(Text(value_label(axis, row[axis])) for axis in JOB),
                *(Text(setting_shown(name, row[name])) for name in columns),
                Text(row[RECIPE].partition(":")[0]),  # the rest is in the caption
            ]
            for row in rows
        ],
        keys=len(JOB),
    )
    return [{k: "" if v is None else v for k, v in row.items()} for row in rows], sheet
