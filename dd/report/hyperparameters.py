"""The hyperparameters of a run, a row for each distillation method, dataset and IPC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dd import recipes
from dd.errors import DDError, unknown
from dd.plan import Plan
from dd.run import Run
from dd.spec import format_value

JOB = ("dataset", "ipc", "method")
RECIPE = "recipe"  # "own", or whose settings a method takes that has none of its own
BUFFER = "buffer."  # before the names of settings of the experts' training


def hyperparameter_rows(
    run: Run, objectives: Sequence[str], columns: Sequence[str], where: str
) -> list[dict[str, Any]]:
    """What the distillations of ``run`` by ``objectives`` were given.

    Args:
        objectives: which methods have a row; their variants (``iadd@weights=raw``) have none.
        columns: settings of the objectives, ``iterations``, and the experts' as ``buffer.<name>``.
        where: the file that asks, for messages.

    Returns:
        Rows with :data:`JOB` (``dataset`` by its label), ``columns`` (None where a method has no
        such setting) and :data:`RECIPE`, in the order of the plan.

    Raises:
        DDError: for an unknown objective, a setting that none has, or if the run has none of them.
    """
    for name in objectives:
        if name not in recipes.objectives():
            raise DDError(f"{where}: {unknown('objective', name, recipes.objectives())}")
    plan = Plan(replace(run, optional=[]))
    rows: dict[tuple, dict[str, Any]] = {}
    for job, snapshots in plan.distillations.items():
        spec = run.parse(job.spec)
        if spec.objective not in objectives or spec.settings or spec.parts:
            continue
        settings = {"iterations": snapshots[-1], **plan.settings(job)}
        settings |= {f"{BUFFER}{k}": value for k, value in run.buffer(job.dataset).items()}
        label = run.datasets[job.dataset]["label"]
        place = dict(zip(JOB, (label, job.ipc, job.spec), strict=True))
        taken = recipes.fallback(spec.objective, job.dataset, job.ipc)
        settings[RECIPE] = f"fallback: {taken.takes}" if taken else "own"
        rows[tuple(place.values())] = place | settings  # all seeds have the same
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
    """A setting in words: ``–`` where there is none, ``all`` for an unlimited batch."""
    if value is None:
        return "–"
    return "all" if name == "batch_syn" and value == 0 else format_value(value)
