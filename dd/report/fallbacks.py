"""Whose settings ran where a recipe has none for a dataset or IPC: what tables and figures say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from dd.config.methods import parse_protocol
from dd.config.recipes import Fallback, fallback, joined
from dd.config.run import Run
from dd.plan.exhibits import Cell, Exhibit
from dd.plan.jobs import SOFT, Distillation, Relabelling
from dd.plan.plan import Plan
from dd.report.labels import METHODS

RELABEL = "relabel"
NAMES = METHODS | {RELABEL: "relabelling"}
OPENING = "Fallback, where a recipe has no settings for a dataset or IPC and the run gives none: "

Use = tuple[str, str, int]  # a block of the recipes, a dataset, an IPC


def of_exhibit(exhibit: Exhibit) -> list[str]:
    """What has to be said of the recipes behind a table or figure: one sentence, or none."""
    kind = exhibit.definition["kind"]
    if kind == "settings":
        return of_run(exhibit.run)
    if kind == "hyperparameters":
        shown = exhibit.definition["objectives"]
        return sentence(exhibit.run, (use for use in _planned(exhibit.run) if use[0] in shown))
    return sentence(exhibit.run, _shown(exhibit))


def of_run(run: Run) -> list[str]:
    """The same of all that the run makes, its optional tables and figures apart."""
    return sentence(run, _planned(run))


def of_cell(run: Run, cell: Cell) -> str:
    """The same of one cell, in a few words for the CSV."""
    taken = {NAMES.get(use[0], use[0]): fallback(*use) for use in _behind(run, cell)}
    return "; ".join(f"{name}: {one.takes}" for name, one in taken.items() if one)


def sentence(run: Run, uses: Iterable[Use]) -> list[str]:
    """The fallbacks among ``uses``, methods that take the same ones at the same places together.

    Returns:
        One sentence, or none where every recipe has settings of its own.
    """
    ipcs: dict[tuple[str, Fallback, str], set[int]] = {}
    for name, dataset, ipc in uses:
        taken = fallback(name, dataset, ipc)
        if taken:
            key = (name, taken, run.datasets[dataset]["label"])
            ipcs.setdefault(key, set()).update({ipc} if taken.of_ipc else ())
    places: dict[tuple[str, Fallback, tuple[int, ...]], list[str]] = {}
    for (name, taken, label), those in ipcs.items():
        places.setdefault((name, taken, tuple(sorted(those))), []).append(label)
    groups: dict[tuple[str, Fallback], list[str]] = {}
    for (name, taken, found), labels in places.items():
        at = f" at IPC {joined([str(ipc) for ipc in found])}" if found else ""
        groups.setdefault((f"{joined(labels)}{at}", taken), []).append(NAMES.get(name, name))
    said = [
        f"{joined(names)} on {where} {'take' if len(names) > 1 else 'takes'} {taken.takes}"
        for (where, taken), names in groups.items()
    ]
    return [f"{OPENING}{'; '.join(said)}."] if said else []


def _planned(run: Run) -> Iterator[Use]:
    """The recipes that the jobs of ``run`` follow."""
    plan = Plan(replace(run, optional=[]))
    for job in plan.of(Distillation):
        yield from _followed(run, job.method, job.dataset, job.ipc)
    for labels in plan.of(Relabelling):
        made = labels.snapshot.distillation
        yield RELABEL, made.dataset, made.ipc


def _shown(exhibit: Exhibit) -> Iterator[Use]:
    """The recipes behind the cells of ``exhibit``."""
    for cell in exhibit.cells():
        yield from _behind(exhibit.run, cell)


def _behind(run: Run, cell: Cell) -> Iterator[Use]:
    yield from _followed(run, cell.method, cell.dataset, cell.ipc)
    options = [parse_protocol(name, run.protocols).options for name in cell.protocols]
    if cell.arch is not None and any(one["protocol"] == SOFT for one in options):
        yield RELABEL, cell.dataset, cell.ipc


def _followed(run: Run, method: str, dataset: str, ipc: int) -> Iterator[Use]:
    """The recipes that a distillation follows: its objective's, then its parts'."""
    parsed = run.parse(method)
    for name in (parsed.objective, *(part.name for part in parsed.parts)):
        yield name, dataset, ipc
