"""Numbers as text: with a sign, as an interval, and on how many sets and networks they rest."""

from __future__ import annotations

from collections.abc import Sequence


def number(value: float, digits: int, sign: str = "") -> str:
    """A number with a true minus sign; ``sign`` "+": also with the sign of a positive one."""
    return f"{value:{sign}.{digits}f}".replace("-", "−")


def interval(bounds: tuple[float, float] | None, digits: int, sign: str = "") -> str:
    """``−0.74 to +1.02``; a dash without bounds."""
    if bounds is None:
        return "–"
    low, high = (number(bound, digits, sign) for bound in bounds)
    return f"{low} to {high}"


def counted(sets: Sequence[int], inner: Sequence[int], each: str) -> str:
    """``3 × 5 networks``; without synthetic sets ``359 images``; of jobs ``3 jobs``.

    Args:
        sets: the numbers of synthetic sets, 0 where there are none.
        inner: the numbers of networks or images of each.
        each: what ``inner`` numbers, in the plural.
    """
    if each == "jobs":  # one for each set
        return f"{_span(sets)} {each}"
    several = f"{_span(inner)} {each}"
    return f"{_span(sets)} × {several}" if any(sets) else several


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"
