"""A run's configuration, resolved and checked; which jobs its tables and figures need.

``python -m dd configure`` writes ``config.json``: the run, and for every distillation the settings
that it is given. The workflow asks :class:`Plan` for the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dd.config.methods import Part, format_value, parse_protocol
from dd.config.recipes import uses_pretrained
from dd.config.run import Run
from dd.errors import DDError, unknown
from dd.networks.options import auxiliaries
from dd.plan.exhibits import Cell, Exhibit, load_exhibit, published_files
from dd.plan.jobs import (
    GENERATOR,
    Distillation,
    Erasing,
    Evaluation,
    Pretraining,
    Relabelling,
    Shard,
    Snapshot,
    cams_file,
    data_file,
    distillations,
    erasing_file,
    evaluation_file,
    evaluations,
    labels_file,
    metrics_file,
    pretrained_file,
    shard_file,
    synthetic_file,
)
from dd.plan.measurements import measured_jobs
from dd.plan.needs import (
    auxiliary,
    auxiliary_networks,
    cam_networks,
    cam_rectify,
    networks,
    pool_files,
)

SHOWN = ("images", "difference", "weights", "cost")  # kinds that show synthetic sets themselves
BESIDE = ("reweighting",)  # kinds that show synthetic sets beside accuracies
MEASURED = ("curves", "cost")  # kinds that show the metrics of distillations
CAM_KINDS = ("areas", "variance", "cams")  # kinds that show class activation maps
ENDINGS = {"table": ("csv", "md", "tex", "html"), "figure": ("png", "pdf")}
SOFT = "soft"  # the protocol of networks that learn from soft labels
KD = "kd"  # that of networks that learn from a teacher, which is trained with them


class Plan:
    """The jobs of a run: each once, whatever number of tables and figures share it.

    Attributes:
        run: the run.
        exhibits: the tables and figures by ``(kind, name)``, optional ones included.
        distillations: the snapshots asked of each distillation, ascending.
        shards: the buffers' parts that they read.
        pretrainings: the networks and generators that anything reads.
        relabellings: the soft labels that evaluations learn from.
        snapshots_with_cams: the synthetic sets whose class activation maps are shown.
        erasings: by dataset.
        evaluations: the architectures asked of each evaluation, in alphabetical order.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.exhibits = {
            (kind, name): load_exhibit(kind, run.path(f"{kind}s", f"{name}.yaml"), run)
            for kind, name in self._names()
        }
        known = {axis for exhibit in self.exhibits.values() for axis in exhibit.axes}
        for exhibit in self.exhibits.values():
            known |= _selected(exhibit)
        for axis in run.axes:
            if axis not in known:
                raise DDError(
                    f"run {run.name}: axis '{axis}' is in none of its tables and figures "
                    f"(their axes are {', '.join(sorted(known))})"
                )
        for name, axes in run.axes_for.items():
            self._check_axes_for(name, axes)

    def _check_axes_for(self, name: str, axes: Iterable[str]) -> None:
        """``axes_for`` may only name what is in the run and has these axes."""
        exhibits = self.exhibits.values()
        named = [g for g in exhibits if name in (g.name, g.definition["paper"])]
        if not named:
            known = {word for g in exhibits for word in (g.name, g.definition["paper"])}
            raise unknown(f"table, figure or paper in axes_for of run {self.run.name}", name, known)
        there = {axis for exhibit in named for axis in (*exhibit.axes, *_selected(exhibit))}
        for axis in axes:
            if axis not in there:
                raise unknown(f"axis in axes_for of {name}, run {self.run.name},", axis, there)

    def _names(self) -> list[tuple[str, str]]:
        run = self.run
        listed = [("table", name) for name in run.tables]
        listed += [("figure", name) for name in run.figures]
        return listed + [
            (kind, name)
            for name in run.optional
            for kind in ("table", "figure")
            if Path(run.path(f"{kind}s", f"{name}.yaml")).is_file() and (kind, name) not in listed
        ]

    @cached_property
    def main(self) -> Plan:
        """The same without the optional tables and figures, which may not be there."""
        return Plan(replace(self.run, optional=[])) if self.run.optional else self

    @cached_property
    def distillations(self) -> dict[Distillation, tuple[int, ...]]:
        found: dict[Distillation, set[int]] = {}
        for cell in self._cells():
            for job in distillations(cell, self.run):
                found.setdefault(job, set()).add(cell.iterations)
        return {job: tuple(sorted(snapshots)) for job, snapshots in found.items()}

    @cached_property
    def shards(self) -> list[Shard]:
        jobs = self.distillations
        return list(dict.fromkeys(shard for job in jobs for shard in self.shards_of(job)))

    @cached_property
    def pretrainings(self) -> list[Pretraining]:
        found: dict[Pretraining, None] = {}
        for job in self.distillations:
            found |= dict.fromkeys([*self.pretrained_of(job), *self.generator_of(job)])
        for relabelling in self.relabellings:
            found |= dict.fromkeys(self.teachers_of(relabelling))
        for snapshot in self.snapshots_with_cams:
            found |= dict.fromkeys(self.seers_of(snapshot.distillation))
        for erasing in self.erasings:
            found |= dict.fromkeys(self.erased_for(erasing))
        return list(found)

    @cached_property
    def relabellings(self) -> list[Relabelling]:
        found = [made for job in self.evaluations for made in self.labels_of(job)]
        return list(dict.fromkeys(found))

    @cached_property
    def snapshots_with_cams(self) -> list[Snapshot]:
        exhibits = [g for g in self.exhibits.values() if g.definition["kind"] in CAM_KINDS]
        return list(dict.fromkeys(s for exhibit in exhibits for s in self._snapshots(exhibit)))

    @cached_property
    def erasings(self) -> list[Erasing]:
        exhibits = [g for g in self.exhibits.values() if g.definition["kind"] == "erasing"]
        return [
            Erasing(dataset) for dataset in {d: 0 for exhibit in exhibits for d in exhibit.datasets}
        ]

    @cached_property
    def evaluations(self) -> dict[Evaluation, tuple[str, ...]]:
        found: dict[Evaluation, set[str]] = {}
        for cell in self._cells():
            for job in evaluations(cell, self.run):
                found.setdefault(job, set()).add(str(cell.arch))
        return {job: tuple(sorted(archs)) for job, archs in found.items()}

    def _cells(self) -> list[Cell]:
        return [cell for exhibit in self.exhibits.values() for cell in exhibit.cells()]

    def _snapshots(self, exhibit: Exhibit) -> list[Snapshot]:
        """The synthetic sets of a table or figure."""
        return [
            Snapshot(job, cell.iterations)
            for cell in exhibit.cells()
            for job in distillations(cell, self.run)
        ]

    def shards_of(self, job: Distillation) -> list[Shard]:
        """The shards that hold the experts of a distillation; none where it needs no experts."""
        settings = self.settings(job)
        if "experts" not in settings:
            return []
        count = -(-settings["experts"] // self.run.buffer(job.dataset)["experts"])
        return [
            Shard(job.dataset, settings["whitening"], network, number)
            for network in networks(self.run, job.method, job.dataset, job.ipc)
            for number in range(count)
        ]

    def pretrained_of(self, job: Distillation) -> list[Pretraining]:
        """The frozen networks that a distillation reads: its own, if they come trained, and the
        auxiliary ones of its regulariser."""
        run, method = self.run, self.run.parse(job.method)
        names = []
        if uses_pretrained(method.objective):
            names += networks(run, job.method, job.dataset, job.ipc)
        names += auxiliary_networks(run, job.method, job.dataset, job.ipc)
        return self._pretrainings(job, names)

    def generator_of(self, job: Distillation) -> list[Pretraining]:
        """The generator to train whose latents a distillation optimises, if it does and the run
        brings none."""
        used = self.run.parse(job.method).parametrisation is not None
        given = job.dataset in self.run.generators
        return self._pretrainings(job, [GENERATOR] if used and not given else [])

    def generator_files(self, job: Distillation) -> list[str]:
        """The generator that a distillation reads, trained here or the run's own; or none."""
        if self.run.parse(job.method).parametrisation is None:
            return []
        if given := self.run.generators.get(job.dataset):
            return [given["weights"]]
        return [pretrained_file(self.run, one) for one in self.generator_of(job)]

    def labels_of(self, job: Evaluation) -> list[Relabelling]:
        """The soft labels that an evaluation learns from, if its protocol does."""
        options = parse_protocol(job.protocol, self.run.protocols).options
        if options["protocol"] != SOFT:
            return []
        return [Relabelling(Snapshot(job.distillation, job.iterations), options["teacher"])]

    def teachers_of(self, job: Relabelling) -> list[Pretraining]:
        """The frozen networks that give soft labels."""
        return self._pretrainings(job.snapshot.distillation, auxiliaries(job.teacher))

    def seers_of(self, job: Distillation) -> list[Pretraining]:
        """The networks whose class activation maps of a synthetic set are measured."""
        return self._pretrainings(job, cam_networks(self.run))

    def erased_for(self, job: Erasing) -> list[Pretraining]:
        """The networks tested with erased regions, those that say which regions included."""
        names = dict.fromkeys([*auxiliary(self.run, job.dataset), *cam_networks(self.run)])
        return [Pretraining(job.dataset, job.whitening, name) for name in names]

    def _pretrainings(self, job: Distillation, names: Iterable[str]) -> list[Pretraining]:
        whitening = self.settings(job)["whitening"]
        return [Pretraining(job.dataset, whitening, name) for name in dict.fromkeys(names)]

    def settings(self, job: Distillation) -> dict[str, Any]:
        """The objective's settings for a distillation, iterations apart."""
        settings = self.run.distillation(job.method, job.dataset, job.ipc)
        return {name: value for name, value in settings.items() if name != "iterations"}

    def parts(self, job: Distillation) -> dict[str, dict[str, Any]]:
        """Name and settings of a distillation's parametrisation and regulariser, if any."""
        method = self.run.parse(job.method)
        chosen = {"parametrisation": method.parametrisation, "regulariser": method.regulariser}
        return {
            kind: {
                "name": part.name,
                **self.run.part(part, method.objective, job.dataset, job.ipc),
            }
            for kind, part in chosen.items()
            if part
        }

    def protocol(self, job: Evaluation, network: str = "") -> dict[str, Any]:
        """How ``network``, or one that no section of a recipe is about, is trained in an
        evaluation: settings and protocol."""
        made = job.distillation
        protocol = parse_protocol(job.protocol, self.run.protocols)
        settings = self.run.evaluation(made.method, made.dataset, made.ipc, network)
        return settings | dict(protocol.options)

    def arch_settings(self, job: Evaluation) -> dict[str, dict[str, Any]]:
        """The networks of an evaluation, a teacher trained there included, that are trained with
        other settings than :meth:`protocol` says of all, and those settings."""
        common = self.protocol(job)
        archs = dict.fromkeys(self.evaluations.get(job, ()))
        if common["protocol"] == KD:
            archs[common["teacher"]] = None
        own = {arch: self.protocol(job, arch).items() - common.items() for arch in archs}
        return {arch: dict(sorted(settings)) for arch, settings in own.items() if settings}

    def preparation(self, dataset: str) -> dict[str, Any]:
        """Options of ``python -m dd prepare``."""
        run = self.run
        shown = ("comparable_to", "copy")  # by tables and figures alone
        asked = {k: v for k, v in run.datasets[dataset].items() if k not in shown}
        asked["normalise_as"] = run.normalisation(dataset)
        spaces = {self.settings(j)["whitening"] for j in self.distillations if j.dataset == dataset}
        return asked | {"name": dataset, "zca": "zca" in spaces}

    def buffer_options(self, shard: Shard) -> dict[str, Any]:
        """Options of ``python -m dd buffer`` that decide what comes out."""
        settings = self.run.buffer(shard.dataset)
        return {
            "network": shard.network,
            "whitening": shard.whitening,
            "first": shard.number * settings["experts"],
            "width_factor": self.run.width_factor,
            **settings,
        }

    def distill_options(self, job: Distillation) -> dict[str, Any]:
        """Options of ``python -m dd distill`` that decide what comes out."""
        run, method = self.run, self.run.parse(job.method)
        options = {
            "objective": method.objective,
            "ipc": job.ipc,
            "seed": job.seed,
            "pool": next(iter(pool_files(run, job.method)), None),
            "width_factor": run.width_factor,
            **self.settings(job),
        }
        if method.pool:  # in place of a network
            options.pop("network", None)
        for kind, settings in self.parts(job).items():
            name = settings.pop("name")
            options[kind] = str(Part(name, settings))
        if method.parametrisation:
            options["adapter"] = run.generators.get(job.dataset, {}).get("adapter")
        return options

    def pretrain_options(self, job: Pretraining) -> dict[str, Any]:
        """Options of ``python -m dd pretrain`` that decide what comes out."""
        run = self.run
        return {
            "network": job.network,
            "whitening": job.whitening,
            "width_factor": run.width_factor,
            "weights": run.pretrained.get(job.dataset, {}).get(job.network),
            **run.pretrain(job.network, job.dataset),
        }

    def generator_options(self, job: Pretraining) -> dict[str, Any]:
        """Options of ``python -m dd generator`` that decide what comes out."""
        return {"whitening": job.whitening, **self.run.generator(job.dataset)}

    def evaluate_options(self, job: Evaluation) -> dict[str, Any]:
        """Options of ``python -m dd evaluate`` that decide what comes out."""
        run = self.run
        # Apart by more than a set has networks: no two sets of a cell share a network's seed.
        fixed = {"networks": run.networks, "seed": 1000 * job.distillation.seed}
        fixed["diverged"] = "record"  # a setting that fails is a result too; tables say so
        fixed["arch_settings"] = [str(Part(*own)) for own in self.arch_settings(job).items()]
        return fixed | {"width_factor": run.width_factor} | self.protocol(job)

    def relabel_options(self, job: Relabelling) -> dict[str, Any]:
        """Options of ``python -m dd relabel`` that decide what comes out."""
        made = job.snapshot.distillation
        views = self.run.relabel(made.dataset)
        return {"seed": made.seed, "width_factor": self.run.width_factor, **views}

    def cams_options(self) -> dict[str, Any]:
        """Options of ``python -m dd cams`` that decide what comes out."""
        return {"width_factor": self.run.width_factor, "rectify": cam_rectify(self.run)}

    def erase_options(self, job: Erasing) -> dict[str, Any]:
        """Options of ``python -m dd erase`` that decide what comes out."""
        regions = ".".join(auxiliary(self.run, job.dataset))
        return {
            "whitening": job.whitening,
            "width_factor": self.run.width_factor,
            "regions_from": regions,
            "rectify": cam_rectify(self.run),
        }

    def targets(self) -> dict[str, tuple[list[str], list[str]]]:
        """Tables and figures by target: each paper's (without the optional ones), each name's."""
        found: dict[str, tuple[list[str], list[str]]] = {}
        for (kind, name), exhibit in self.exhibits.items():
            targets = [name] if name in self.run.optional else [exhibit.definition["paper"], name]
            for target in targets:
                found.setdefault(target, ([], []))[kind == "figure"].append(name)
        return found

    def document(self) -> dict[str, Any]:
        """What ``config.json`` holds."""
        return {
            "run": self.run.document(),
            "protocols": self.run.protocols,
            "distillations": {
                str(job): {"snapshots": list(snapshots), **self.settings(job), **self.parts(job)}
                for job, snapshots in self.distillations.items()
            },
            "buffers": {str(shard): self.buffer_options(shard) for shard in self.shards},
            "pretrained": {
                str(job): self.generator_options(job)
                if job.network == GENERATOR
                else self.pretrain_options(job)
                for job in self.pretrainings
            },
            "labels": {str(job): self.relabel_options(job) for job in self.relabellings},
            "cams": {
                str(snapshot): {
                    "networks": [job.network for job in self.seers_of(snapshot.distillation)],
                    **self.cams_options(),
                }
                for snapshot in self.snapshots_with_cams
            },
            "erasing": {str(job): self.erase_options(job) for job in self.erasings},
            "evaluations": {
                str(job): {
                    "arch": list(archs),
                    **self.protocol(job),
                    "arch_settings": self.arch_settings(job),
                }
                for job, archs in self.evaluations.items()
            },
        }

    def files(self) -> list[str]:
        """All that the run makes: what its jobs leave, its tables and figures."""
        run, jobs = self.run, self.distillations
        files = [data_file(run, dataset) for dataset in run.datasets]
        files += [shard_file(run, job) for job in self.shards]
        files += [pretrained_file(run, job) for job in self.pretrainings]
        files += [synthetic_file(run, job, n) for job, snapshots in jobs.items() for n in snapshots]
        files += [metrics_file(run, job) for job in jobs]
        files += [labels_file(run, job) for job in self.relabellings]
        files += [cams_file(run, s.distillation, s.iterations) for s in self.snapshots_with_cams]
        files += [erasing_file(run, job.dataset) for job in self.erasings]
        files += [evaluation_file(run, job) for job in self.evaluations]
        for kind, name in self.exhibits:
            files += [f"{run.root}/{kind}s/{name}.{ending}" for ending in ENDINGS[kind]]
        return files

    def pretrained_for(self, exhibit: Exhibit) -> list[Pretraining]:
        """The frozen networks that what a table or figure shows was made with."""
        made: list[Pretraining] = []
        for cell in exhibit.cells():
            for job in distillations(cell, self.run):
                made += self.pretrained_of(job)
            for job in evaluations(cell, self.run):
                for labels in self.labels_of(job):
                    made += self.teachers_of(labels)
        if exhibit.definition["kind"] in CAM_KINDS:
            for snapshot in self._snapshots(exhibit):
                made += self.seers_of(snapshot.distillation)
        if exhibit.definition["kind"] == "erasing":
            made += [network for job in self.erasings for network in self.erased_for(job)]
        return list(dict.fromkeys(made))

    def inputs(self, kind: str, name: str) -> list[str]:
        """The files that a table or figure is rendered from, beside its definition."""
        exhibit, run = self.exhibits[kind, name], self.run
        cells = exhibit.cells()
        files = published_files(exhibit)
        kind = exhibit.definition["kind"]
        if kind == "settings":
            methods = {job.method for job in self.distillations}
            files += sorted({file for method in methods for file in pool_files(run, method)})
        if kind in ("images", "cams"):
            files += [data_file(run, dataset) for dataset in {c.dataset: 0 for c in cells}]
        if kind in (*SHOWN, *BESIDE, *CAM_KINDS):
            made = [(s.distillation, s.iterations) for s in self._snapshots(exhibit)]
            if kind in CAM_KINDS:
                files += [cams_file(run, job, iterations) for job, iterations in made]
            if kind not in ("areas", "variance"):
                files += [synthetic_file(run, job, iterations) for job, iterations in made]
        if kind not in (*SHOWN, *CAM_KINDS):
            jobs = [job for cell in cells for job in evaluations(cell, run)]
            files += [evaluation_file(run, job) for job in jobs]
        if kind in MEASURED:
            files += [metrics_file(run, job) for c in cells for job in distillations(c, run)]
        if kind == "erasing":
            files += [erasing_file(run, job.dataset) for job in self.erasings]
        if kind == "stages":
            # not the measurements: that of a finished job, if lost, is not worth doing it again
            files += [job.made for job in measured_jobs(self.main)]
        files += [pretrained_file(run, job) for job in self.pretrained_for(exhibit)]
        return list(dict.fromkeys(files))


def _selected(exhibit: Exhibit) -> set[str]:
    binds = [bound for axis in exhibit.axes for bound in exhibit.values(axis).values()]
    return {bound["select"]["axis"] for bound in binds if "select" in bound}


def options(settings: Mapping[str, Any]) -> list[str]:
    """Settings as command-line options: ``lr_img: 0.1`` is ``--lr-img 0.1``; true is a flag, and
    a list has its values after the name."""
    words = []
    for name, value in settings.items():
        if value is False or value is None or value == []:
            continue
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words += [format_value(one) for one in (value if isinstance(value, list) else [value])]
            if isinstance(value, str) and value.startswith("-"):  # no option of its own
                words[-2:] = [f"{words[-2]}={words[-1]}"]
    return words
