"""Estimates with an uncertainty: differences of means, their confidence intervals and tests.

The unit of evidence is the synthetic set, because the networks of one set share its luck. All tests
are t tests. An interval of 90 % has the bounds of two one-sided tests at 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from scipy.special import stdtr, stdtrit

LEVEL = 0.90  # of the intervals that are shown
ALPHA = 0.05  # of a one-sided test
ROUNDING = 1e-5  # of numbers in files: accuracies have four decimals
CERTAIN = 1e6  # degrees of freedom of what needs no estimate of its scatter


@dataclass(frozen=True)
class Estimate:
    """A quantity that was estimated.

    Attributes:
        value: the estimate.
        error: its standard error; None if there is only one observation. It is 0 if all
            observations are equal. Alone these say nothing about scatter (accuracies are multiples
            of one test image), so there is no interval; in a sum they add none.
        df: degrees of freedom of ``error``; 0 if that is None.
    """

    value: float
    error: float | None = None
    df: float = 0.0

    def interval(self, level: float = LEVEL) -> tuple[float, float] | None:
        """The two-sided confidence interval; None if nothing is known about scatter."""
        if not self.error:
            return None
        half = float(stdtrit(self.df, 0.5 + level / 2)) * self.error
        return self.value - half, self.value + half

    def p_above(self, bound: float) -> float:
        """The p value of "the quantity is at most ``bound``", which a small one speaks against.

        It is 1 if nothing is known about scatter.
        """
        if not self.error:
            return 1.0
        return float(stdtr(self.df, (bound - self.value) / self.error))

    def p_below(self, bound: float) -> float:
        """The p value of "the quantity is at least ``bound``"."""
        return Estimate(-self.value, self.error, self.df).p_above(-bound)


def mean(values: Sequence[float], scale: float = 0.0) -> Estimate:
    """The mean of independent ``values`` (at least one); its interval is a t interval.

    Args:
        values: the values.
        scale: the size of the numbers from which they were computed. Values that differ by no more
            than :data:`ROUNDING` times this size (or their own) are equal but for rounding.
    """
    n = len(values)
    if n < 2:
        return Estimate(fmean(values))
    scale = max(scale, *map(abs, values))
    scattered = max(values) - min(values) > ROUNDING * scale
    return Estimate(fmean(values), math.sqrt(variance(values) / n) if scattered else 0.0, n - 1)


def combined(parts: Sequence[Estimate], weights: Sequence[float]) -> Estimate:
    """The weighted sum of independent estimates.

    The degrees of freedom are those of Welch and Satterthwaite (Biometrics Bulletin 2, 1946). The
    error is not known if that of a part is not.
    """
    value = math.fsum(w * part.value for w, part in zip(weights, parts, strict=True))
    square, slack = 0.0, 0.0
    for weight, part in zip(weights, parts, strict=True):
        if part.error is None:
            return Estimate(value)
        own = (weight * part.error) ** 2
        square, slack = square + own, slack + own**2 / part.df
    if not square:
        return Estimate(value, 0.0, min(part.df for part in parts))
    return Estimate(value, math.sqrt(square), square**2 / slack)


def difference(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """The difference of the means of two independent samples, with unequal variances (Welch)."""
    return combined([mean(first), mean(second)], [1, -1])


def exact(value: float) -> Estimate:
    """What is known without an error worth the name, such as the memory that a job took.

    Its interval is the value, and tests see on which side of a bound it lies.
    """
    return Estimate(value, ROUNDING**2 * max(1.0, abs(value)), CERTAIN)


def of_pairs(first_only: int, second_only: int, n: int) -> Estimate:
    """The difference in percent of two shares of the same ``n`` things (at least 2).

    Args:
        first_only: how many are in the first share and not in the second.
        second_only: how many are in the second share and not in the first.
        n: the number of things.
    """
    value = (first_only - second_only) / n
    spread = (first_only + second_only) / n - value**2
    return Estimate(100 * value, 100 * math.sqrt(max(spread, 0.0) / (n - 1)), n - 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values, adjusted for their number by Holm's step-down method (Scand. J. Stat. 6)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
