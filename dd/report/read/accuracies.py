"""The numbers of a table or figure: one row per cell, from evaluations and published values."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeAlias

from dd.artifacts.text import load_rows
from dd.errors import DDError
from dd.networks.options import canonical
from dd.plan.exhibits import Cell, Exhibit
from dd.plan.jobs import evaluations
from dd.plan.needs import seen
from dd.report import fallbacks
from dd.report.read.places import labels
from dd.report.read.published import Published, percentage

BySet: TypeAlias = Mapping[int, list[float]]
"""By seed of the synthetic set, the values of its networks (or images)."""


NO_SET = "no set was released"  # by those whose sets are imported


def collect(exhibit: Exhibit) -> list[dict[str, Any]]:
    """One row for each cell of ``exhibit``, in the order of its axes.

    A row holds the axes (``dataset`` by its label), ``accuracies`` on the test set in percent (by
    seed of the synthetic set, one per network), their ``mean``, ``std`` (sample standard deviation
    over all networks; None for one network) and number ``n``, their spread (:func:`spread`), the
    published values (:meth:`Published.of`), ``diverged`` (the number of networks that diverged),
    ``note`` and ``fallback`` (the settings that were used if a recipe has none of its own;
    otherwise empty). A cell whose set others did not publish has ``n`` 0 and no mean; its note says
    so.

    Raises:
        DDError: if an evaluation file is missing, incomplete or malformed; the message names it.
    """
    published = Published(exhibit)
    rows = []
    for cell in exhibit.cells():
        accuracies, diverged, note = _accuracies(cell, exhibit)
        everything = flat(accuracies)
        rows.append(
            {
                **labels(exhibit, cell),
                "accuracies": accuracies,
                "mean": statistics.fmean(everything) if everything else None,
                "std": statistics.stdev(everything) if len(everything) > 1 else None,
                "n": len(everything),
                **spread(accuracies),
                **published.of(cell),
                "diverged": diverged,
                "note": note,
                "fallback": fallbacks.of_cell(exhibit.run, cell),
            }
        )
    return rows


def flat(by_set: BySet) -> list[float]:
    """The values of all sets."""
    return [value for values in by_set.values() for value in values]


def spread(by_set: BySet) -> dict[str, Any]:
    """Sets and networks told apart.

    Returns:
        ``n_sets``; ``n_networks`` of a set; ``std_sets``, the standard deviation of the means of
        the sets (None for one set); ``std_within``, that of the networks of a set, over all sets
        (None for one network).
    """
    means = [statistics.fmean(values) for values in by_set.values()]
    counts = {0, *(len(values) for values in by_set.values())}
    within = [statistics.variance(values) for values in by_set.values() if len(values) > 1]
    return {
        "n_sets": len(by_set),
        "n_networks": max(counts),
        "std_sets": statistics.stdev(means) if len(means) > 1 else None,
        "std_within": math.sqrt(statistics.fmean(within)) if within else None,
    }


def mark_seen(exhibit: Exhibit, rows: list[dict[str, Any]]) -> None:
    """Add ``seen`` to each row of :func:`collect`: whether its network was used in distillation.

    ``yes`` if the network is the method's own or an auxiliary network, otherwise ``no``.
    """
    for cell, row in zip(exhibit.cells(), rows, strict=True):
        used = seen(exhibit.run, cell.method, cell.dataset, cell.ipc)
        row["seen"] = "yes" if canonical(str(cell.arch)) in used else "no"


def _accuracies(cell: Cell, exhibit: Exhibit) -> tuple[BySet, int, str]:
    """The accuracies of a cell, the number of networks that diverged, and a note about them."""
    run = exhibit.run
    by_protocol: dict[str, dict[int, list[tuple[float, bool]]]] = {}
    for job in evaluations(cell, run):
        arch = canonical(str(cell.arch))
        tested = _read(job.file(run), arch, job.count(run, arch))
        by_protocol.setdefault(job.protocol, {})[job.distillation.seed] = tested
    if not by_protocol:
        return {}, 0, NO_SET
    accuracies = [
        {seed: [accuracy for accuracy, _ in tested] for seed, tested in by_seed.items()}
        for by_seed in by_protocol.values()
    ]
    best = max(range(len(accuracies)), key=lambda i: statistics.fmean(flat(accuracies[i])))
    failed = [f for tested in list(by_protocol.values())[best].values() for _, f in tested]
    notes = []
    if cell.selected:
        notes.append(f"maximum over {len(by_protocol)} {cell.selected}s, selected on test data")
    diverged = sum(failed)
    if diverged:
        notes.append(f"{diverged} of {len(failed)} networks diverged (their loss became NaN)")
    return accuracies[best], diverged, "; ".join(notes)


def _read(path: str, arch: str, networks: int) -> list[tuple[float, bool]]:
    """Each network of ``arch`` in an evaluation file: its accuracy, and whether it diverged."""
    tested = [
        (percentage(path, row["accuracy"]), row.get("diverged") == "1")
        for row in rows_of_networks(path)
        if row["arch"] == arch
    ]
    if len(tested) != networks:
        raise DDError(
            f"{path}: has {len(tested)} networks of {arch}, the run needs {networks}; "
            "evaluate again"
        )
    return tested


@cache
def rows_of_networks(path: str) -> list[dict[str, str]]:
    """The rows of an evaluation file: one for each network.

    Raises:
        DDError: if the file is missing, or has no rows, or no columns of architectures and
            accuracies.
    """
    rows = load_rows(path)
    if not rows:
        raise DDError(f"{path}: has no rows, one for each network; evaluate again")
    for column in ("arch", "accuracy"):
        if column not in rows[0]:
            raise DDError(f"{path}: has no column '{column}'; evaluate again")
    return rows
