"""The plan of a run: its tables and figures, and the jobs that they need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from dd.config.run import Run
from dd.errors import DDError, unknown
from dd.plan.exhibits import Exhibit, load_exhibit
from dd.plan.jobs import STAGES, Distillation, Evaluation, Import, Job, Preparation, needed
from dd.plan.kinds import kind_of

ENDINGS = {"table": ("csv", "md", "tex", "html"), "figure": ("png", "pdf")}

J = TypeVar("J", bound=Job)


class Plan:
    """The jobs of a run. Tables and figures share jobs; each job is planned once.

    Attributes:
        run: the run.
        defined: the tables and figures by ``(kind, name)``, optional ones included.
        exhibits: those of them that are shown (:attr:`Exhibit.is_shown`).
    """

    def __init__(self, run: Run, whole: Plan | None = None) -> None:
        """Plan ``run``; if it is a part of another plan, ``whole``, its names are those of that.

        Raises:
            DDError: if a table or figure is wrong, or the run names an axis, table, figure or paper
                that it does not have.
        """
        self.run = run
        self.defined = {
            (kind, name): load_exhibit(kind, run.path(f"{kind}s", f"{name}.yaml"), run)
            for kind, name in self._names()
        }
        self.exhibits = {key: e for key, e in self.defined.items() if e.is_shown}
        self._listings: dict[str, str | None] = {}
        self._current: dict[str, bool] = {}
        if whole is None:
            self._check_names()

    def _check_names(self) -> None:
        run = self.run
        known = {axis for exhibit in self.defined.values() for axis in exhibit.axes}
        for exhibit in self.defined.values():
            known |= exhibit.selected
        for axis in run.axes:
            if axis not in known:
                raise DDError(
                    f"run {run.name}: axis '{axis}' is in none of its tables and figures "
                    f"(their axes are {', '.join(sorted(known))})"
                )
        for name, axes in run.axes_for.items():
            self._check_axes_for(name, axes)
        for name in run.seeds_for:
            self._named("seeds_for", name)
        for number, rule in enumerate(run.exclude):
            for axis in rule:
                if axis not in known:
                    raise unknown(f"axis in exclude.{number} of run {run.name}", axis, known)

    def _named(self, key: str, name: str) -> list[Exhibit]:
        """The tables and figures that ``name`` in ``key`` of the run names, by name or by paper."""
        exhibits = self.defined.values()
        named = [e for e in exhibits if name in (e.name, e.definition["paper"])]
        if not named:
            known = {word for e in exhibits for word in (e.name, e.definition["paper"])}
            raise unknown(f"table, figure or paper in {key} of run {self.run.name}", name, known)
        return named

    def _check_axes_for(self, name: str, axes: Iterable[str]) -> None:
        """Raise a :class:`DDError` unless ``name`` is a table, figure or paper of the run that has
        all these ``axes``."""
        named = self._named("axes_for", name)
        known_axes = {axis for exhibit in named for axis in (*exhibit.axes, *exhibit.selected)}
        for axis in axes:
            if axis not in known_axes:
                raise unknown(f"axis in axes_for of {name}, run {self.run.name},", axis, known_axes)

    def _names(self) -> list[tuple[str, str]]:
        run, listed = self.run, self._listed()
        return listed + [
            (kind, name)
            for name in run.optional
            for kind in ("table", "figure")
            if Path(run.path(f"{kind}s", f"{name}.yaml")).is_file() and (kind, name) not in listed
        ]

    def _listed(self) -> list[tuple[str, str]]:
        """Kinds and names of tables and figures that are not optional."""
        listed = [("table", name) for name in self.run.tables]
        return listed + [("figure", name) for name in self.run.figures]

    @cached_property
    def main(self) -> Plan:
        """The plan without the optional tables and figures, which are made only on request."""
        return Plan(replace(self.run, optional=[]), self) if self.run.optional else self

    @cached_property
    def jobs(self) -> list[Job]:
        """The jobs of the run, in the order of the stages."""
        roots: list[Job] = []
        for exhibit in self.exhibits.values():
            roots += kind_of(exhibit).jobs(exhibit)
        jobs = needed(self.run, roots)
        return [job for stage in STAGES for job in jobs if type(job) is stage]

    def of(self, stage: type[J]) -> list[J]:
        """The jobs of ``stage``."""
        return [job for job in self.jobs if type(job) is stage]

    def listing(self, dataset: str) -> str | None:
        """The digest of the files of the folder of ``dataset``, if there is one.

        A folder is listed when it is first asked for: with millions of files this takes minutes.

        Raises:
            DDError: if something in the folder cannot be read.
        """
        if dataset not in self._listings:
            prepared = next(job for job in self.of(Preparation) if job.dataset == dataset)
            self._listings[dataset] = prepared.listing(self.run)
        return self._listings[dataset]

    def is_current(self, prepared: str) -> bool:
        """Whether a prepared file is there and holds the images that the run asks for."""
        if prepared not in self._current:
            (job,) = (job for job in self.of(Preparation) if job.file(self.run) == prepared)
            self._current[prepared] = job.is_current(self.run, self.listing)
        return self._current[prepared]

    def planned(self, job: J) -> J:
        """The job of the plan that is equal to ``job``.

        It also has the fields that equality ignores: snapshots, architectures.
        """
        return self._planned[job]  # type: ignore[return-value]  # equal jobs are of one class

    @cached_property
    def _planned(self) -> dict[Job, Job]:
        return {job: job for job in self.jobs}

    def targets(self) -> dict[str, tuple[list[str], list[str]]]:
        """The tables and the figures of each target.

        A target is the name of a table or figure, or of a paper. A paper's target leaves out the
        optional tables and figures.
        """
        by_target: dict[str, tuple[list[str], list[str]]] = {}
        listed = self._listed()
        for (kind, name), exhibit in self.exhibits.items():
            targets = [exhibit.definition["paper"]] if (kind, name) in listed else []
            targets.append(name)
            for target in dict.fromkeys(targets):  # a paper's name may be that of its table
                by_target.setdefault(target, ([], []))[kind == "figure"].append(name)
        return by_target

    def document(self) -> dict[str, Any]:
        """The content of ``config.json``."""
        sections: dict[str, dict[str, Any]] = {stage.section: {} for stage in STAGES}
        for job in self.jobs:
            sections[job.section][str(job)] = job.described(self.run)
        del sections[Preparation.section]
        if not sections[Import.section]:  # as in the file of an older run
            del sections[Import.section]
        return {"run": self.run.document(), "protocols": self._protocols(), **sections}

    def _protocols(self) -> dict[str, Mapping[str, Any]]:
        """The definitions of the workflow, and those of plug-ins that the run uses."""
        known = self.run.protocols
        used = sorted({job.protocol.partition("@")[0] for job in self.of(Evaluation)})
        return {**known.own, **{name: known[name] for name in used}}

    def files(self) -> list[str]:
        """All files that the run makes: the outputs of its jobs, its tables and its figures."""
        files = [file for job in self.jobs for file in job.files(self.run)]
        for kind, name in self.exhibits:
            files += [f"{self.run.root}/{kind}s/{name}.{ending}" for ending in ENDINGS[kind]]
        return files


def made_sets(plan: Plan) -> str:
    """In words, how many distillations and imported sets a run has; one of both if it has only
    these."""
    distilled, imported = len(plan.of(Distillation)), len(plan.of(Import))
    counts = [f"{distilled} distillations"] if distilled or not imported else []
    return ", ".join(counts + ([f"{imported} imported sets"] if imported else []))
