"""Checks of a run that import the stages, because only the stages know these names and values."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy

from dd import plugins
from dd.artifacts.headers import load_arrays
from dd.config.methods import SOFT, planned_as, protocol_of_plugin
from dd.config.recipes import (
    SECTIONS,
    datasets,
    evaluated,
    plugin,
    uses_generator,
    uses_pretrained,
)
from dd.config.run import Run
from dd.config.settings import build
from dd.data.raw import check_enough
from dd.errors import DDError, unknown
from dd.networks.options import canonical
from dd.plan.exhibits import Exhibit, unknown_value
from dd.plan.jobs import (
    STAGES,
    Distillation,
    Evaluation,
    Job,
    Preparation,
    Pretraining,
    check_networks_for,
)
from dd.plan.kinds import check, kind_of
from dd.plan.needs import auxiliary_networks, cam_networks
from dd.plan.plan import Plan
from dd.plugins import Entry
from dd.registry import resolve


def check_plan(plan: Plan, narrowed: Collection[str] = ()) -> None:
    """Raise a :class:`DDError` for an error that would otherwise stop a job hours later, or have no
    effect.

    Such an error is a data source, network, objective, pool, protocol or setting that does not
    exist or is out of range, or an entry of the run that is for nothing in it.

    Args:
        plan: the plan of the run.
        narrowed: the keys of the run that its user replaced. Of ``seeds`` there may then be fewer
            than entries of the run are for.
    """
    run = plan.run
    for exhibit in plan.exhibits.values():
        _check_networks(exhibit)
    for name, block in run.recipes.items():
        with _within(f"run {run.name}, recipes of {name}"):
            _check_named(run, block)
    if run.cam_networks:
        with _within(f"run {run.name}, cam_networks"):
            cam_networks(run)
    known = {stage.resources for stage in STAGES} | {"render"}
    for stage in run.resources:
        if stage not in known:
            raise unknown(f"stage in resources of run {run.name}", stage, known)
    for dataset, files in run.pretrained.items():
        if dataset in run.other_datasets:
            continue
        used = [job.network for job in plan.of(Pretraining) if job.dataset == dataset]
        if files and not used:
            raise DDError(
                f"run {run.name}, pretrained: no method of the run uses frozen networks of "
                f"{dataset}; leave the entry out"
            )
        for name in files:
            if name not in used:
                raise unknown(f"network in pretrained of run {run.name}, {dataset},", name, used)
    _check_generators(plan)
    check_networks_for(run)
    # before the tables and figures, which a wrong value would leave without cells or sets
    _check_exclude(plan)
    _check_numbers(plan)
    _check_imported(plan, narrowed)
    for exhibit in plan.exhibits.values():
        check(exhibit)
        if own := kind_of(exhibit).check_jobs:
            resolve(own)(exhibit, plan.main.jobs)
        _check_distilled(exhibit)
    prepared = {job.file(run) for job in plan.of(Preparation) if _is_current(plan, job)}
    sizes = {path: _class_sizes(path) for path in prepared}
    for job in plan.jobs:
        with _within(f"run {run.name}, {job}"):
            settings: list[Any] = []
            for declared in job.checked_values(run):
                settings_class = resolve(declared.settings)
                if declared.values is not None:
                    settings.append(build(settings_class, declared.values, declared.owner))
            job.check(run, settings)
            for entry, what, said, found in _declared(plan, job, settings):
                if said != found:
                    raise DDError(f"{entry}: {what} is {said} in its file, {found} in its class")
            if isinstance(job, Distillation):
                _check_ipc(run, job)
                if settings[0].starts_real:
                    (images,) = job.inputs(run)["data"]
                    if counted := sizes.get(images):
                        check_enough(job.ipc, *counted, job.dataset)
    for entry in plugins.used_of("network"):
        with _within(f"run {run.name}"):
            resolve("dd.networks.build:check_options")(entry)


def _is_current(plan: Plan, job: Preparation) -> bool:
    """Whether the file of ``job`` holds the images that the run asks for.

    Raises:
        DDError: if the folder of its images cannot be read, whether there is a file or not: the
            workflow lists the folder in any case.
    """
    with _within(f"run {plan.run.name}, {job}"):
        plan.listing(job.dataset)
        return plan.is_current(job.file(plan.run))


def _check_exclude(plan: Plan) -> None:
    """Refuse a value in ``exclude`` that no table or figure has, and an axis that none shows."""
    axes: dict[str, dict[Any, None]] = {"dataset": dict.fromkeys(plan.run.other_datasets)}
    for exhibit in plan.defined.values():
        for axis in exhibit.axes:
            axes.setdefault(axis, {}).update(dict.fromkeys(exhibit.asked_values(axis)))
    for number, rule in enumerate(plan.run.exclude):
        where = f"in exclude.{number} of run {plan.run.name}"
        for axis, values in rule.items():
            if axis not in axes:
                raise unknown(f"axis {where}", axis, axes)
            for value in values:
                if value not in axes[axis]:
                    raise unknown_value(f"axis '{axis}' {where}", value, axes[axis])


def _check_numbers(plan: Plan) -> None:
    """Refuse a number of iterations or images in ``networks_for`` that no evaluation has."""
    if plan.run.other_datasets:  # whose evaluations are not planned
        return
    tested = plan.of(Evaluation)
    known = {
        "ipc": {job.distillation.ipc for job in tested},
        "iterations": {job.iterations for job in tested},
    }
    for number, rule in enumerate(plan.run.networks_for):
        for key in known.keys() & rule.keys():
            for value in rule[key]:
                if value not in known[key]:
                    what = f"{key} of networks_for.{number} of run {plan.run.name}"
                    raise unknown(what, str(value), map(str, known[key]))


def _check_imported(plan: Plan, narrowed: Collection[str]) -> None:
    """Refuse an entry of ``imported`` whose set no table or figure shows."""
    run = plan.run
    cells = [cell for exhibit in plan.exhibits.values() for cell in exhibit.cells()]
    for number, entry in enumerate(run.imported):
        method, dataset = str(run.parse(entry["method"])), entry["dataset"]
        if dataset in run.other_datasets:
            continue
        own = [cell for cell in cells if (cell.dataset, cell.method) == (dataset, method)]
        if not own:
            raise DDError(
                f"run {run.name}, imported.{number}: no table or figure shows sets of {method} on "
                f"{dataset}"
            )
        seeds = (entry["seed"],) if "seeds" in narrowed else ()
        known = {_place(c.ipc, c.iterations, s) for c in own for s in seeds or c.seeds}
        place = _place(entry["ipc"], entry["iterations"], entry["seed"])
        if place not in known:
            raise unknown(f"set of imported.{number} of run {run.name}", place, known)


def _place(ipc: int, iterations: int, seed: int) -> str:
    return f"IPC {ipc}, {iterations} iterations, seed {seed}"


def _check_networks(exhibit: Exhibit) -> None:
    """Refuse a network that nobody knows, with the place where it stands."""
    used = list({cell.arch for cell in exhibit.cells()} - {None})
    for axis in exhibit.axes:
        for value, binds in exhibit.values(axis).items():
            if binds.get("arch") in used:
                with _within(exhibit.where(axis, value)):
                    canonical(binds["arch"])


def _check_distilled(exhibit: Exhibit) -> None:
    """Refuse a table or figure of what only a distillation by this suite leaves, if its sets are
    imported."""
    if not kind_of(exhibit).distilled:
        return
    for cell in exhibit.cells():
        if exhibit.run.is_imported(cell.dataset, cell.method):
            raise DDError(
                f"run {exhibit.run.name}, {exhibit.renders} {exhibit.name}: shows what a "
                f"distillation leaves, but the sets of {cell.method} are imported; leave it out"
            )


def _declared(
    plan: Plan, job: Job, settings: list[Any]
) -> Iterator[tuple[Entry, str, object, object]]:
    """What a job uses of plug-ins: each time the entry, and what its file and its class say of it.

    The plan follows the file and the stage follows the class, so both must say the same.
    """
    run = plan.run
    if isinstance(job, Distillation):
        method, known = run.parse(job.method), job.settings(run)
        if entry := plugin(method.objective):
            own = resolve(f"dd.distill.objectives:OBJECTIVES[{entry.name}]")
            drawing = resolve("dd.distill.objectives.base:NetworkSettings")
            pretrained = uses_pretrained(entry.name)
            yield entry, "'networks: pretrained'", pretrained, own.needs_pretrained
            draws = issubclass(own.Settings, drawing)
            yield entry, "a setting 'network'", "network" in known, draws
            yield entry, "a setting 'experts'", "experts" in known, own.needs_trajectories
        if (part := method.parametrisation) and (entry := plugin(part.name)):
            own = resolve(f"dd.distill.parametrisations:PARAMETRISATIONS[{entry.name}]")
            decodes = uses_generator(entry.name)
            yield entry, "'generator: trained'", decodes, own.needs_generator
        if (part := method.regulariser) and (entry := plugin(part.name)):
            own = resolve(f"dd.distill.regularisers:REGULARISERS[{entry.name}]")
            listed = auxiliary_networks(run, job.method, job.dataset, job.ipc)
            needed = [*own.needs(settings[-1])]  # the regulariser's are the last
            yield entry, "the list of networks (setting 'auxiliary')", listed, needed
    elif isinstance(job, Evaluation):
        options = job.conditions(run)
        if entry := protocol_of_plugin(options["protocol"]):
            own = resolve(f"dd.evaluate.protocols:PROTOCOLS[{entry.name}]")
            resolve("dd.evaluate.protocols:check_options")(entry)
            yield entry, "'like: soft'", planned_as(entry.name) == SOFT, own.needs_labels
            trained = own.also_trained(settings[-1])
            yield entry, "the teacher ('like: kd')", job.also_trained(run), trained


def _check_ipc(run: Run, job: Distillation) -> None:
    """Refuse 0 images of a class, unless the method takes all that there are."""
    name = run.parse(job.method).objective
    if resolve(f"dd.distill.objectives:OBJECTIVES[{name}]").takes_all != (job.ipc == 0):
        must = "at least 1" if job.ipc == 0 else f"0, because {name} takes all images"
        raise DDError(f"ipc is {job.ipc}, it must be {must}")


def _class_sizes(path: str) -> tuple[list[int], list[str]] | None:
    """The training images of each class in a prepared file, and the classes; None if it is broken,
    which the jobs that need it say."""
    try:
        tensors, header = load_arrays(path, "dataset", only=["train_labels"])
    except DDError:
        return None
    classes = header.get("classes")
    if not isinstance(classes, list):
        return None
    return numpy.bincount(tensors["train_labels"], minlength=len(classes)).tolist(), classes


def check_found(plan: Plan) -> None:
    """Raise a :class:`DDError` if images or weights that the run reads do not exist.

    A run can be planned without them, so this check is separate.
    """
    run = plan.run
    for job in plan.main.jobs:
        with _within(f"run {run.name}, {job}"):
            job.check_found(run)


def _check_named(run: Run, block: Mapping[str, Any]) -> None:
    """Refuse a section of a block of recipes for a network, objective or dataset that nobody knows.

    A section for something that this run has not is no slip if it is known: a run may be a part of
    a larger one. So a dataset is one of the run, or one of the recipes of this suite.
    """
    for network in _listed(block, "network"):
        canonical(network)
    for objective in _listed(block, "objective"):
        if objective not in evaluated():
            raise unknown("objective", objective, evaluated())
    known = {*run.datasets, *run.other_datasets, *datasets()}
    for dataset in _listed(block, "dataset"):
        if dataset not in known:
            raise unknown("dataset", dataset, known)


def _check_generators(plan: Plan) -> None:
    """Refuse an entry of ``generators`` from which no method of the run decodes."""
    run = plan.run
    used = {job.dataset for job in plan.of(Distillation) if job.reads(run)["generator"]}
    for dataset in run.generators:
        if dataset not in (*used, *run.other_datasets):
            raise DDError(
                f"run {run.name}, generators: no method of the run decodes latents of the "
                f"generator of {dataset}; leave the entry out"
            )


def _listed(block: Mapping[str, Any], section: str) -> Iterator[str]:
    """The names in the sections of a kind of a block of recipes, at any depth."""
    for kind in SECTIONS:
        refined = block.get(kind)
        if isinstance(refined, Mapping):
            yield from refined if kind == section else ()
            for inner in refined.values():
                yield from _listed(inner, section)


@contextmanager
def _within(where: str) -> Iterator[None]:
    """Put ``where`` in front of the message of a :class:`DDError`."""
    try:
        yield
    except DDError as error:
        raise DDError(f"{where}: {error}") from None
