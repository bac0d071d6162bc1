"""Parameter by parameter: what trajectory matching keeps in its synthetic sets, for figures."""

from __future__ import annotations

from pathlib import Path

import numpy

from dd.artifacts.headers import describe_tensors, load_arrays
from dd.errors import DDError
from dd.plan.exhibits import Cell, Exhibit
from dd.plan.jobs import Snapshot, distillations


def sets(exhibit: Exhibit, cell: Cell) -> list[str]:
    """The files of a cell's synthetic sets, one a seed."""
    run = exhibit.run
    return [Snapshot(job, cell.iterations).file(run) for job in distillations(cell, run)]


def load_extras(path: str | Path, prefix: str) -> dict[str, numpy.ndarray]:
    """The tensors ``<prefix>.<name>`` of the set at ``path``, by ``<name>``; empty without any.

    Raises:
        DDError: if the file is missing, broken or no synthetic set.
    """
    names = [name for name in describe_tensors(path) if name.startswith(f"{prefix}.")]
    arrays, _ = load_arrays(path, "synthetic", only=names)
    return {name.removeprefix(f"{prefix}."): values for name, values in arrays.items()}


def vectors(path: str, prefix: str, needed: str = "") -> dict[str, numpy.ndarray]:
    """The values ``<prefix>.<network>`` [P] of the set at ``path`` by network.

    Args:
        needed: which methods keep them; with it, their absence is an error.

    Raises:
        DDError: naming the file, if they are missing, no vectors, or not finite.
    """
    found = load_extras(path, prefix)
    if needed and not found:
        raise DDError(f"{path}: has no '{prefix}.<network>', which sets of {needed} have")
    for name, values in found.items():
        if values.ndim != 1 or not len(values) or not numpy.isfinite(values).all():
            raise DDError(f"{path}: '{prefix}.{name}' must be finite numbers [P]")
    return found
