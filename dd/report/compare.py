"""Differences between methods, and what they say about a claim.

The unit is the synthetic set: the networks of one set share its luck. Sets of two methods with the
same seed form a pair. With one set each, the unit is the network, and whatever follows is about
these sets alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from dd.report import intervals
from dd.report.intervals import ALPHA, Estimate, holm
from dd.report.read.accuracies import BySet, flat

SETS = "sets"
HOLDS, REFUTED, UNDECIDED, NOT_TESTED = "holds", "refuted", "undecided", "not tested"


@dataclass(frozen=True)
class Difference:
    """The difference between two cells, or its mean over several pairs of cells.

    Attributes:
        estimate: the first minus the second.
        unit: what was counted: :data:`SETS`, or what each set has several of (networks, images).
        sets: the number of synthetic sets behind it, of each side.
        inner: the number of networks or images of a set.
        by_set: the difference of each pair of sets, by seed; empty unless ``unit`` is sets.
    """

    estimate: Estimate
    unit: str
    sets: int
    inner: int
    by_set: Mapping[int, float] = field(default_factory=dict)


def compare(first: BySet, second: BySet, inner: str = "networks") -> Difference:
    """The mean of ``first`` minus the mean of ``second``.

    Args:
        first, second: the values of two cells. Values at the same place of sets with the same seed
            belong together: networks that start from the same weights, images that start equal.
        inner: what the values of a set are, in the plural.
    """
    count = max(len(values) for by_set in (first, second) for values in by_set.values())
    scale = max(map(abs, [*flat(first), *flat(second)]))
    seeds = [seed for seed in first if seed in second]
    if len(seeds) > 1:
        by_set = {seed: fmean(first[seed]) - fmean(second[seed]) for seed in seeds}
        estimate = intervals.mean(list(by_set.values()), scale)
        return Difference(estimate, SETS, len(seeds), count, by_set)
    if min(len(first), len(second)) > 1:  # sets that do not form pairs
        means = [[fmean(values) for values in side.values()] for side in (first, second)]
        return Difference(intervals.difference(*means), SETS, min(map(len, means)), count)
    seed = seeds[0] if seeds else None
    one = first[next(iter(first)) if seed is None else seed]
    other = second[next(iter(second)) if seed is None else seed]
    if seed is not None and len(one) == len(other):
        estimate = intervals.mean([a - b for a, b in zip(one, other, strict=True)], scale)
    else:
        estimate = intervals.difference(one, other)
    return Difference(estimate, inner, 1, count)


def ratio(first: BySet, second: BySet, inner: str = "networks") -> Difference:
    """The mean of ``first`` divided by the mean of ``second``, which must not be 0.

    With several pairs of sets, the estimate is the mean of their ratios. Otherwise it is the ratio
    of the means, and its error follows from theirs by linearisation (the delta method).
    """
    count = max(len(values) for by_set in (first, second) for values in by_set.values())
    seeds = [seed for seed in first if seed in second]
    if len(seeds) > 1:
        by_set = {seed: fmean(first[seed]) / fmean(second[seed]) for seed in seeds}
        return Difference(intervals.mean(list(by_set.values())), SETS, len(seeds), count, by_set)
    one, other = (intervals.mean(flat(side)) for side in (first, second))
    weights = [1 / other.value, -one.value / other.value**2]
    linear = intervals.combined([one, other], weights)
    estimate = Estimate(one.value / other.value, linear.error, linear.df)
    return Difference(estimate, inner, 1, count)


def average(parts: Sequence[Difference]) -> Difference:
    """The mean of differences.

    If all come from sets with the same seeds, their means for each seed are taken first: cells of
    one set share its luck. Otherwise, they count as independent.
    """
    if len(parts) == 1:
        return parts[0]
    sets, inner = min(p.sets for p in parts), max(p.inner for p in parts)
    seeds = parts[0].by_set.keys()
    if seeds and all(part.by_set.keys() == seeds for part in parts):
        by_set = {seed: fmean(part.by_set[seed] for part in parts) for seed in seeds}
        return Difference(intervals.mean(list(by_set.values())), SETS, sets, inner, by_set)
    units = dict.fromkeys(part.unit for part in parts)
    estimate = intervals.average([part.estimate for part in parts])
    return Difference(estimate, " and ".join(units), sets, inner)


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


def weakest(estimates: Sequence[Estimate], expect: str, margin: float) -> int:
    """The position of the difference that supports a claim the least."""
    order = [(support(e, expect, margin), -contradiction(e, expect, margin)) for e in estimates]
    return max(range(len(order)), key=order.__getitem__)
