"""The table of every network that a run evaluated."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from dd.config.run import Run
from dd.errors import DDError
from dd.plan.exhibits import Exhibit
from dd.plan.jobs import Evaluation
from dd.plan.plan import Plan
from dd.report.captions import facts, imported_of
from dd.report.labels import axis_label, value_label
from dd.report.read.accuracies import rows_of_networks
from dd.report.read.published import percentage
from dd.report.sheet import Sheet, Text
from dd.report.tables.pivot import Rows, rounded

KEYS = ("dataset", "method", "ipc", "iterations", "set", "protocol")
KEPT = (  # of the rows of an evaluation
    "arch",
    "network",
    "seed",
    "accuracy",
    "train_accuracy",
    "teacher_accuracy",
    "diverged",
    "epochs",
    "seconds",
    "device",
    "precision",
    "synthetic",
)
GROUPS = ("dataset", "protocol", "arch")


def evaluations(exhibit: Exhibit) -> tuple[Rows, Sheet]:
    """A row for each network in the CSV; the sheet counts them by protocol and architecture.

    Raises:
        DDError: if an evaluation is missing or has no accuracies; the message names its file.
    """
    run = exhibit.run
    jobs = Plan(run).main.of(Evaluation)
    rows = [row for job in jobs for row in _networks(run, job)]
    said = [exhibit.definition["caption"], facts(exhibit, [])]
    said += imported_of(run, [job.snapshot for job in jobs])
    groups: dict[tuple[str, ...], Rows] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in GROUPS), []).append(row)
    sheet = Sheet(
        name=exhibit.name,
        title=exhibit.definition["title"],
        caption=" ".join(said),
        header=[*map(axis_label, GROUPS), "Sets", "Networks", "Diverged", "Training (s)"],
        body=[
            [Text(value_label(*place)) for place in zip(GROUPS, group, strict=True)]
            + [Text(text) for text in _counted(members)]
            for group, members in groups.items()
        ],
        keys=len(GROUPS),
    )
    return [rounded(row) for row in rows], sheet


def _networks(run: Run, job: Evaluation) -> Rows:
    """A row for each network of an evaluation.

    It names the evaluation (``KEYS``; ``set`` is the seed of the synthetic set), and has what the
    evaluation says of the network (``KEPT``; empty where it says nothing).
    """
    made, path = job.distillation, job.file(run)
    label = run.datasets[made.dataset]["label"]
    place = (label, made.method, made.ipc, job.iterations, made.seed, job.protocol)
    rows = []
    for network in rows_of_networks(path):
        percentage(path, network["accuracy"])
        _check_seconds(path, network.get("seconds"))
        kept = {name: network.get(name, "") for name in KEPT}
        rows.append(dict(zip(KEYS, place, strict=True)) | kept)
    return rows


def _check_seconds(path: str, text: str | None) -> None:
    """Raise a :class:`DDError` if a training time is given that is none."""
    with suppress(ValueError):
        if not text or 0 <= float(text) < math.inf:
            return
    raise DDError(f"{path}: seconds is '{text}', it must be a number from 0; evaluate again")


def _counted(members: Sequence[dict[str, Any]]) -> list[str]:
    """Sets, networks, diverged networks, and the median of their training times."""
    sets = {tuple(row[key] for key in KEYS[:5]) for row in members}
    diverged = sum(row["diverged"] == "1" for row in members)
    seconds = [float(row["seconds"]) for row in members if row["seconds"]]
    time = f"{statistics.median(seconds):.1f}" if seconds else "–"
    return [str(len(sets)), str(len(members)), str(diverged), time]
