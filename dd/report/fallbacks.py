"""The sentence in tables and figures about settings that a recipe does not have.

If a recipe has no settings for a dataset or IPC, others are used; the sentence says which.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from dd.config.methods import SOFT, parse_protocol, planned_as
from dd.config.recipes import Fallback, evaluation_fallback, fallback, joined
from dd.config.run import Run
from dd.plan.exhibits import Cell, Exhibit
from dd.plan.jobs import Distillation, Import, Relabelling
from dd.plan.plan import Plan
from dd.report.labels import METHODS

RELABEL = "relabel"
NAMES = METHODS | {RELABEL: "relabelling"}
OPENING = "Fallback, if neither the recipe nor the run has settings for a dataset or IPC: "

Use = tuple[str, str, int]  # a block of the recipes, a dataset, an IPC


def of_exhibit(exhibit: Exhibit) -> list[str]:
    """The sentence about the recipes behind a table or figure; empty if there is no fallback."""
    kind = exhibit.definition["kind"]
    if kind in ("settings", "evaluations"):  # of the whole run
        return of_run(exhibit.run)
    if kind == "hyperparameters":
        shown = exhibit.definition["objectives"]
        return sentence(exhibit.run, (use for use in _planned(exhibit.run) if use[0] in shown))
    return sentence(exhibit.run, _shown(exhibit))


def of_run(run: Run) -> list[str]:
    """The sentence about everything that the run makes, without its optional tables and figures."""
    return sentence(run, _planned(run))


def of_cell(run: Run, cell: Cell) -> str:
    """The fallbacks of one cell, in a few words for the CSV."""
    taken = {NAMES.get(use[0], use[0]): fallback(*use) for use in _behind(run, cell)}
    return "; ".join(f"{name}: {other.takes}" for name, other in taken.items() if other)


def sentence(run: Run, uses: Iterable[Use]) -> list[str]:
    """The sentence about the fallbacks among ``uses``.

    Methods with the same fallback for the same datasets and IPCs are named together.

    Returns:
        One sentence; empty if every recipe has its own settings.
    """
    ipcs: dict[tuple[str, Fallback, str], set[int]] = {}
    for name, dataset, ipc in uses:
        taken = fallback(name, dataset, ipc)
        if taken:
            key = (name, taken, run.datasets[dataset]["label"])
            ipcs.setdefault(key, set()).update({ipc} if taken.of_ipc else ())
    places: dict[tuple[str, Fallback, tuple[int, ...]], list[str]] = {}
    for (name, taken, label), without in ipcs.items():
        places.setdefault((name, taken, tuple(sorted(without))), []).append(label)
    groups: dict[tuple[str, Fallback], list[str]] = {}
    for (name, taken, listed), labels in places.items():
        at = f" at IPC {joined([str(ipc) for ipc in listed])}" if listed else ""
        groups.setdefault((f"{joined(labels)}{at}", taken), []).append(NAMES.get(name, name))
    clauses = [
        f"{joined(names)} on {where} {'take' if len(names) > 1 else 'takes'} {taken.takes}"
        for (where, taken), names in groups.items()
    ]
    return [f"{OPENING}{'; '.join(clauses)}."] if clauses else []


def _planned(run: Run) -> Iterator[Use]:
    """The recipes that the jobs of ``run`` follow."""
    plan = Plan(replace(run, optional=[]))
    for job in plan.of(Distillation):
        yield from _followed(run, job.method, job.dataset, job.ipc)
    for labels in plan.of(Relabelling):
        made = labels.snapshot.distillation
        yield RELABEL, made.dataset, made.ipc
    for imported in plan.of(Import):
        made = imported.distillation
        yield from _followed(run, made.method, made.dataset, made.ipc)


def _shown(exhibit: Exhibit) -> Iterator[Use]:
    """The recipes behind the cells of ``exhibit``."""
    for cell in exhibit.cells():
        yield from _behind(exhibit.run, cell)


def _behind(run: Run, cell: Cell) -> Iterator[Use]:
    """The recipes behind one cell."""
    yield from _followed(run, cell.method, cell.dataset, cell.ipc)
    options = [parse_protocol(name, run.protocols).options for name in cell.protocols]
    if cell.arch is not None and any(planned_as(chosen["protocol"]) == SOFT for chosen in options):
        yield RELABEL, cell.dataset, cell.ipc


def _followed(run: Run, method: str, dataset: str, ipc: int) -> Iterator[Use]:
    """The recipes that a distillation follows: that of its objective, then those of its parts.

    Of an imported set, only the evaluation follows one.
    """
    parsed = run.parse(method)
    if run.is_imported(dataset, method):
        if evaluation_fallback(parsed.objective, dataset, ipc):
            yield parsed.objective, dataset, ipc
        return
    for name in (parsed.objective, *(part.name for part in parsed.parts)):
        yield name, dataset, ipc
