"""Differences between methods, and what they say about a claim.

The unit is the synthetic set: the networks of one set share its luck. Sets of two methods with the
same seed form a pair. With one set each, the unit is the network, and whatever follows is about
these sets alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from dd.report import intervals
from dd.report.intervals import ALPHA, Estimate, holm
from dd.report.read.accuracies import BySet, flat

SETS = "sets"
HOLDS, REFUTED, UNDECIDED, NOT_TESTED = "holds", "refuted", "undecided", "not tested"
FOR, AGAINST, NEITHER = "for", "against", "neither"  # what one cell of a claim says alone


@dataclass(frozen=True)
class Difference:
    """The difference between two cells, or its mean over several pairs of cells.

    Attributes:
        estimate: the first minus the second.
        unit: what was counted: :data:`SETS`, or what each set has several of (networks, images).
        sets: the number of synthetic sets behind it, of each side; 0 where there are none.
        inner: the least and the largest number of networks or images of a set.
        each: what ``inner`` numbers, in the plural.
        parts: the difference of each pair of units, by seed of the set or place in it; empty if the
            units form no pairs.
        scale: the size of the numbers from which it was computed.
        exact: whether these numbers are known without error.
    """

    estimate: Estimate
    unit: str
    sets: int
    inner: tuple[int, int]
    each: str
    parts: Mapping[int, float] = field(default_factory=dict)
    scale: float = 0.0
    exact: bool = False


def compare(
    first: BySet, second: BySet, inner: str = "networks", exact: bool = False
) -> Difference:
    """The mean of ``first`` minus the mean of ``second``.

    If some sets of both sides have the same seeds, only those are compared.

    Args:
        first, second: the values of two cells. Values at the same place of sets with the same seed
            belong together: networks that start from the same weights, images that start equal.
        inner: what the values of a set are, in the plural.
        exact: whether a value is known without error, so that one, or equal ones, are enough.
    """
    scale = max(map(abs, [*flat(first), *flat(second)]))
    common = [seed for seed in first if seed in second]
    if common:
        first, second = ({seed: side[seed] for seed in common} for side in (first, second))
    sets = min(len(first), len(second))
    counts = [len(values) for by_set in (first, second) for values in by_set.values()]
    parts = _pairs(first, second)
    estimate = (
        intervals.mean(list(parts.values()), scale)
        if parts
        else intervals.difference(units(first), units(second))
    )
    if exact and not estimate.error:
        estimate = intervals.exact(estimate.value)
    unit = SETS if sets > 1 else inner
    count = min(counts), max(counts)
    return Difference(estimate, unit, sets, count, inner, parts, scale, exact)


def _pairs(first: BySet, second: BySet) -> dict[int, float]:
    """The differences of units that belong together, by seed or place; empty if there are none."""
    if first.keys() != second.keys():
        return {}
    if len(first) > 1:
        return {seed: fmean(values) - fmean(second[seed]) for seed, values in first.items()}
    one, other = flat(first), flat(second)
    same = len(one) == len(other)
    return dict(enumerate(a - b for a, b in zip(one, other, strict=True))) if same else {}


def units(by_set: BySet) -> list[float]:
    """The values that count: the means of several sets, or the values of the only one."""
    if len(by_set) > 1:
        return [fmean(values) for values in by_set.values()]
    return flat(by_set)


def ratio(first: BySet, second: BySet) -> Estimate:
    """The mean of ``first`` divided by the mean of ``second``, which must not be 0.

    With several pairs of sets, it is the mean of their ratios. Otherwise it is the ratio of the
    means, and its error follows from theirs by linearisation (the delta method).
    """
    seeds = [seed for seed in first if seed in second]
    if len(seeds) > 1:
        return intervals.mean([fmean(first[seed]) / fmean(second[seed]) for seed in seeds])
    one, other = intervals.mean(units(first)), intervals.mean(units(second))
    weights = [1 / other.value, -one.value / other.value**2]
    linear = intervals.combined([one, other], weights)
    return Estimate(one.value / other.value, linear.error, linear.df)


def average(parts: Sequence[Difference]) -> Difference:
    """The mean of differences.

    Cells share the luck of a set, and networks at the same place of a set start from the same
    random numbers. So where the pairs of several differences have the same seeds (or places), the
    mean of each pair is taken first. What is left counts as independent.
    """
    scale = max(p.scale for p in parts)
    groups: dict[tuple[object, ...], list[Difference]] = {}
    for number, part in enumerate(parts):
        alike = (part.unit, *part.parts) if part.parts else (number,)
        groups.setdefault(alike, []).append(part)
    joined = [_joined(group, scale) for group in groups.values()]
    weights = [len(group) / len(parts) for group in groups.values()]
    estimate = joined[0].estimate
    if len(joined) > 1:
        estimate = intervals.combined([one.estimate for one in joined], weights)
    return Difference(
        estimate,
        unit=" and ".join(dict.fromkeys(one.unit for one in joined)),
        sets=min(part.sets for part in parts),
        inner=(min(part.inner[0] for part in parts), max(part.inner[1] for part in parts)),
        each=parts[0].each,
        parts=joined[0].parts if len(joined) == 1 else {},
        scale=scale,
        exact=all(part.exact for part in parts),
    )


def _joined(group: Sequence[Difference], scale: float) -> Difference:
    """The mean of differences whose pairs belong together."""
    if len(group) == 1:
        return group[0]
    first = group[0]
    parts = {place: fmean(one.parts[place] for one in group) for place in first.parts}
    estimate = intervals.mean(list(parts.values()), scale)
    if first.exact and not estimate.error:
        estimate = intervals.exact(estimate.value)
    return replace(first, estimate=estimate, parts=parts)


def support(estimate: Estimate, expect: str, margin: float) -> float:
    """The p value of the opposite of a claim: a small one speaks for the claim.

    Args:
        estimate: a difference.
        expect: ``higher``, ``lower``, ``not lower``, ``not higher`` or ``equal``.
        margin: see :class:`dd.plan.claims.Claim`.
    """
    return {
        "higher": lambda: estimate.p_above(margin),
        "lower": lambda: estimate.p_below(-margin),
        "not lower": lambda: estimate.p_above(-margin),
        "not higher": lambda: estimate.p_below(margin),
        "equal": lambda: max(estimate.p_above(-margin), estimate.p_below(margin)),
    }[expect]()


def contradiction(estimate: Estimate, expect: str, margin: float) -> float:
    """The p value of a claim itself: a small one speaks against the claim."""
    return {
        "higher": lambda: estimate.p_below(margin),
        "lower": lambda: estimate.p_above(-margin),
        "not lower": lambda: estimate.p_below(-margin),
        "not higher": lambda: estimate.p_above(margin),
        "equal": lambda: min(1.0, 2 * min(estimate.p_above(margin), estimate.p_below(-margin))),
    }[expect]()


def claimed_side(expect: str, margin: float) -> tuple[float, float]:
    """The differences that a claim allows, from … to …"""
    infinite = float("inf")
    return {
        "higher": (margin, infinite),
        "lower": (-infinite, -margin),
        "not lower": (-margin, infinite),
        "not higher": (-infinite, margin),
        "equal": (-margin, margin),
    }[expect]


def verdict(estimates: Sequence[Estimate], expect: str, margin: float) -> str:
    """Whether a claim about each of several differences holds.

    It holds if each one-sided test supports it (an intersection-union test, which needs no
    correction). It is refuted if a test contradicts it, after Holm's correction.
    """
    if not estimates:
        return NOT_TESTED
    if all(support(estimate, expect, margin) < ALPHA for estimate in estimates):
        return HOLDS
    if min(holm([contradiction(estimate, expect, margin) for estimate in estimates])) < ALPHA:
        return REFUTED
    return UNDECIDED


def worded(verdict: str, limit: str, gaps: str) -> str:
    """A verdict and what limits it.

    Args:
        verdict: one of the four.
        limit: the sets or networks that it is about, if it is about no others.
        gaps: what the claim compares and the run does not have. Another verdict than ``holds``
            needs no word about it: what is there suffices to refute a claim or to leave it open.
    """
    part = "as far as tested" if verdict == HOLDS and gaps else ""
    return f"{verdict} {', '.join(filter(None, (limit, part)))}".strip()


def weakest(estimates: Sequence[Estimate], expect: str, margin: float) -> int:
    """The position of the difference that supports a claim the least.

    One that says nothing about its scatter stands between those for and those against the claim.
    """
    leaning = [contradiction(e, expect, margin) - support(e, expect, margin) for e in estimates]
    return min(range(len(leaning)), key=leaning.__getitem__)
