"""Values for each network parameter that trajectory matching stores in its synthetic sets."""

from __future__ import annotations

from pathlib import Path

import numpy

from dd.artifacts.headers import describe_tensors, load_arrays
from dd.errors import DDError
from dd.plan.exhibits import Cell, Exhibit
from dd.plan.jobs import Snapshot, distillations


def sets(exhibit: Exhibit, cell: Cell) -> list[str]:
    """The files of a cell's synthetic sets, one per seed."""
    run = exhibit.run
    return [Snapshot(job, cell.iterations).file(run) for job in distillations(cell, run)]


def load_extras(path: str | Path, prefix: str) -> dict[str, numpy.ndarray]:
    """The tensors ``<prefix>.<name>`` of the set at ``path``, by ``<name>``; empty if it has none.

    Raises:
        DDError: if the file is missing, broken or no synthetic set.
    """
    names = [name for name in describe_tensors(path) if name.startswith(f"{prefix}.")]
    arrays, _ = load_arrays(path, "synthetic", only=names)
    return {name.removeprefix(f"{prefix}."): values for name, values in arrays.items()}


def vectors(path: str, prefix: str, needed: str = "") -> dict[str, numpy.ndarray]:
    """The values ``<prefix>.<network>`` [P] of the set at ``path``, by network.

    Args:
        path: the file of the set.
        prefix: the first part of their names.
        needed: the methods that store them, for the error if the set has none; "": no such error.

    Raises:
        DDError: if they are missing, no vectors, or not finite; the message names the file.
    """
    by_network = load_extras(path, prefix)
    if needed and not by_network:
        raise DDError(f"{path}: has no '{prefix}.<network>', which sets of {needed} have")
    for name, values in by_network.items():
        if values.ndim != 1 or not len(values) or not numpy.isfinite(values).all():
            raise DDError(f"{path}: '{prefix}.{name}' must be finite numbers [P]")
    return by_network
