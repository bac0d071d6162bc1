"""Parameter by parameter: what trajectory matching keeps in its synthetic sets, for figures."""

from __future__ import annotations

import numpy

from dd.data.synthetic import load_extras
from dd.errors import DDError
from dd.plan.exhibits import Cell, Exhibit
from dd.plan.jobs import distillations, synthetic_file


def sets(exhibit: Exhibit, cell: Cell) -> list[str]:
    """The files of a cell's synthetic sets, one a seed."""
    run = exhibit.run
    return [synthetic_file(run, job, cell.iterations) for job in distillations(cell, run)]


def vectors(path: str, prefix: str, needed: str = "") -> dict[str, numpy.ndarray]:
    """The values ``<prefix>.<network>`` [P] of the set at ``path`` by network.

    Args:
        needed: which methods keep them; with it, their absence is an error.

    Raises:
        DDError: naming the file, if they are missing, no vectors, or not finite.
    """
    found = {name: values.numpy() for name, values in load_extras(path, prefix).items()}
    if needed and not found:
        raise DDError(f"{path}: has no '{prefix}.<network>', which sets of {needed} have")
    for name, values in found.items():
        if values.ndim != 1 or not len(values) or not numpy.isfinite(values).all():
            raise DDError(f"{path}: '{prefix}.{name}' must be finite numbers [P]")
    return found
