"""Whose settings ran where a recipe has none for a dataset or IPC: what tables and figures say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from dd.grid import Cell, Grid
from dd.plan import SOFT, Plan
from dd.recipes import Fallback, fallback, joined
from dd.report.labels import METHODS
from dd.run import Run
from dd.spec import parse_protocol

RELABEL = "relabel"
NAMES = METHODS | {RELABEL: "relabelling"}
OPENING = "Fallback, where a recipe has no settings for a dataset or IPC and the run gives none: "

Use = tuple[str, str, int]  # a block of the recipes, a dataset, an IPC


def of_grid(grid: Grid) -> list[str]:
    """What has to be said of the recipes behind a table or figure: one sentence, or none."""
    kind = grid.definition["kind"]
    if kind == "settings":
        return of_run(grid.run)
    if kind == "hyperparameters":
        shown = grid.definition["objectives"]
        return sentence(grid.run, (use for use in _planned(grid.run) if use[0] in shown))
    return sentence(grid.run, _shown(grid))


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
    for (name, taken, label), found in ipcs.items():
        places.setdefault((name, taken, tuple(sorted(found))), []).append(label)
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
    for job in plan.distillations:
        yield from _followed(run, job.spec, job.dataset, job.ipc)
    for labels in plan.relabellings:
        made = labels.snapshot.distillation
        yield RELABEL, made.dataset, made.ipc


def _shown(grid: Grid) -> Iterator[Use]:
    """The recipes behind the cells of ``grid``."""
    for cell in grid.cells():
        yield from _behind(grid.run, cell)


def _behind(run: Run, cell: Cell) -> Iterator[Use]:
    yield from _followed(run, cell.spec, cell.dataset, cell.ipc)
    options = [parse_protocol(name, run.protocols).options for name in cell.protocols]
    if cell.arch is not None and any(one["protocol"] == SOFT for one in options):
        yield RELABEL, cell.dataset, cell.ipc


def _followed(run: Run, spec: str, dataset: str, ipc: int) -> Iterator[Use]:
    """The recipes that a distillation follows: its objective's, then its parts'."""
    method = run.parse(spec)
    for name in (method.objective, *(part.name for part in method.parts)):
        yield name, dataset, ipc
