"""What work takes of the memory of a GPU. Planning uses it, too, so this needs no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Demand(NamedTuple):
    """Bytes that work takes.

    Attributes:
        least: on a GPU that is hardly large enough: networks one by one, a batch in the smallest
            pieces that give the same result.
        whole: on a GPU of any size, where all is done at once.
    """

    least: float
    whole: float


def most(demands: Iterable[Demand]) -> Demand | None:
    """The largest values, which need not be of the same work; None without any."""
    values = list(zip(*demands, strict=True))
    return Demand(*map(max, values)) if values else None
