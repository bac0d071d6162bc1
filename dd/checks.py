"""Checks of a run that need the stages themselves: names and values that only they know."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields

from dd.buffer import Settings as BufferSettings
from dd.data.sources import SOURCES
from dd.errors import DDError
from dd.evaluate import PROTOCOLS
from dd.networks import canonical, load_pool
from dd.objectives import OBJECTIVES
from dd.plan import Plan
from dd.settings import build
from dd.training import Recipe


def check_plan(plan: Plan) -> None:
    """Raise a :class:`DDError` for what would otherwise stop a job hours later: a data source,
    network, objective, pool, protocol or setting that does not exist or is out of range."""
    run = plan.run
    for name, options in run.datasets.items():
        with _within(f"run {run.name}, dataset {name}"):
            _ = SOURCES[options["source"]]
    for job, snapshots in plan.distillations.items():
        with _within(f"run {run.name}, {job}"):
            spec = run.parse(job.spec)
            settings = plan.settings(job) | {"iterations": snapshots[-1]}
            objective = OBJECTIVES[spec.objective]
            settings = build(objective.Settings, settings, spec.objective)
            if spec.pool:
                load_pool(run.path("pools", f"{spec.pool}.yaml"))
            if objective.needs_trajectories:
                experts = build(BufferSettings, run.buffer(job.dataset), "buffer")
                if settings.last_epoch > experts.epochs:
                    raise DDError(
                        f"max_start_epoch {settings.max_start_epoch} and expert_epochs "
                        f"{settings.expert_epochs} need {settings.last_epoch} epochs of the "
                        f"experts, the buffer has {experts.epochs}"
                    )
    for job, archs in plan.evaluations.items():
        with _within(f"run {run.name}, {job}"):
            options = plan.protocol(job)
            training = {field.name: options.pop(field.name) for field in fields(Recipe)}
            build(Recipe, training, "evaluation")
            protocol = PROTOCOLS[options.pop("protocol")].Settings
            defaults = {field.name: field.default for field in fields(protocol)}
            build(protocol, defaults | options, f"protocol {job.protocol}")
            for arch in archs:
                canonical(arch)


@contextmanager
def _within(where: str) -> Iterator[None]:
    try:
        yield
    except DDError as error:
        raise DDError(f"{where}: {error}") from None
