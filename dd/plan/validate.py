"""Checks of a run that need the stages themselves: names and values that only they know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from dd.config.recipes import SECTIONS
from dd.config.settings import build
from dd.data.sources import SOURCES
from dd.distill.objectives import OBJECTIVES
from dd.distill.parametrisations import PARAMETRISATIONS
from dd.distill.regularisers import REGULARISERS
from dd.errors import DDError, unknown
from dd.evaluate.protocols import PROTOCOLS
from dd.evaluate.relabel import Settings as RelabelSettings
from dd.networks.options import canonical
from dd.networks.pool import load_pool
from dd.plan.jobs import GENERATOR
from dd.plan.needs import cam_rectify, metadd
from dd.plan.plan import Plan
from dd.pretrain.buffer import Settings as BufferSettings
from dd.pretrain.generator import Settings as GeneratorSettings
from dd.pretrain.pretrain import Settings as PretrainSettings
from dd.training.recipe import Recipe


def check_plan(plan: Plan) -> None:
    """Raise a :class:`DDError` for what would otherwise stop a job hours later: a data source,
    network, objective, pool, protocol or setting that does not exist or is out of range."""
    run = plan.run
    for name, options in run.datasets.items():
        with _within(f"run {run.name}, dataset {name}"):
            _ = SOURCES[options["source"]]
    for name, block in run.recipes.items():
        with _within(f"run {run.name}, recipes of {name}"):
            for network in _networks(block):
                canonical(network)
    for job, snapshots in plan.distillations.items():
        with _within(f"run {run.name}, {job}"):
            method = run.parse(job.method)
            settings = plan.settings(job) | {"iterations": snapshots[-1]}
            objective = OBJECTIVES[method.objective]
            settings = build(objective.Settings, settings, method.objective)
            if method.pool:
                load_pool(run.path("pools", f"{method.pool}.yaml"))
            for part in method.parts:
                found = PARAMETRISATIONS if part.name in PARAMETRISATIONS else REGULARISERS
                values = run.part(part, method.objective, job.dataset, job.ipc)
                build(found[part.name].Settings, values, part.name)
            if objective.needs_trajectories:
                experts = build(BufferSettings, run.buffer(job.dataset), "buffer")
                if settings.last_epoch > experts.epochs:
                    raise DDError(
                        f"max_start_epoch {settings.max_start_epoch} and expert_epochs "
                        f"{settings.expert_epochs} need {settings.last_epoch} epochs of the "
                        f"experts, the buffer has {experts.epochs}"
                    )
    for dataset, files in run.pretrained.items():
        used = [job.network for job in plan.pretrainings if job.dataset == dataset]
        for name in files:
            if name not in used:
                raise unknown(f"network in pretrained of run {run.name}, {dataset},", name, used)
    for job in plan.pretrainings:
        with _within(f"run {run.name}, {job}"):
            if job.network == GENERATOR:
                build(GeneratorSettings, run.generator(job.dataset), "generator")
            else:
                build(PretrainSettings, run.pretrain(job.network, job.dataset), "pretrain")
    if plan.snapshots_with_cams or plan.erasings:
        with _within(f"run {run.name}, class activation maps"):
            for dataset in run.datasets:
                build(REGULARISERS["metadd"].Settings, metadd(run, dataset), "metadd")
            cam_rectify(run)
    for relabelling in plan.relabellings:
        with _within(f"run {run.name}, {relabelling}"):
            dataset = relabelling.snapshot.distillation.dataset
            build(RelabelSettings, run.relabel(dataset), "relabel")
    for job, archs in plan.evaluations.items():
        with _within(f"run {run.name}, {job}"):
            for arch in ("", *plan.arch_settings(job)):
                options = plan.protocol(job, arch)
                names = [field.name for field in fields(Recipe) if field.name in options]
                training = {name: options.pop(name) for name in names}
                build(Recipe, training, f"evaluation of {arch}" if arch else "evaluation")
                views = run.relabel(job.distillation.dataset) if plan.labels_of(job) else {}
                if views.get("cutmix") and views["batch"] != training["batch"]:
                    raise DDError(
                        f"batch of evaluation is {training['batch']}, of relabel {views['batch']}: "
                        "the images that CutMix mixes are those of a batch; give both the same"
                    )
            protocol = PROTOCOLS[options.pop("protocol")].Settings
            defaults = {field.name: field.default for field in fields(protocol)}
            build(protocol, defaults | options, f"protocol {job.protocol}")
            for arch in archs:
                canonical(arch)


def _networks(block: Mapping[str, Any]) -> Iterator[str]:
    """The networks that sections of a block of recipes are about."""
    for section in SECTIONS:
        refined = block.get(section)
        if isinstance(refined, Mapping):
            yield from refined if section == "network" else ()
            for inner in refined.values():
                yield from _networks(inner)


@contextmanager
def _within(where: str) -> Iterator[None]:
    try:
        yield
    except DDError as error:
        raise DDError(f"{where}: {error}") from None
