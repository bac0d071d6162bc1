"""Confidence intervals and tests: by hand, against scipy's own tests, and by simulation."""

import math

import numpy
import pytest
from scipy import stats

from dd.report.intervals import (
    Estimate,
    combined,
    difference,
    holm,
    mean,
    of_pairs,
)


def average(parts):
    """The mean of independent estimates."""
    return combined(parts, [1 / len(parts)] * len(parts))


def test_interval_by_hand():
    # 1, 2, 3: mean 2, std 1, standard error 1/sqrt(3); t(2 df, 0.95) = 2.919986 from a table
    found = mean([1.0, 2.0, 3.0])
    assert (found.value, found.df) == (2.0, 2)
    assert found.error == pytest.approx(1 / math.sqrt(3))
    low, high = found.interval()
    assert high - 2 == pytest.approx(2.919986 / math.sqrt(3), abs=1e-6)
    assert low + high == pytest.approx(4)
    wide = found.interval(0.95)
    assert wide[1] - 2 == pytest.approx(4.302653 / math.sqrt(3), abs=1e-6)


def test_one_value_has_no_interval():
    found = mean([7.0])
    assert found == Estimate(7.0) and found.interval() is None
    assert (found.p_above(0), found.p_below(100)) == (1.0, 1.0)


def test_values_without_scatter_say_nothing_about_it():
    """Two networks whose accuracies differ by the same number of test images prove nothing."""
    assert mean([2.0, 2.0]) == Estimate(2.0, 0.0, 1)
    assert mean([2.0, 2.0]).interval() is None
    assert (mean([2.0, 2.0]).p_above(0), mean([2.0, 2.0]).p_below(9)) == (1.0, 1.0)
    assert mean([28.9693, 28.9694], scale=98.0) == Estimate(pytest.approx(28.96935), 0.0, 1)
    assert mean([0.2785, 0.2786], scale=98.0).interval() is None  # of accuracies with 4 decimals
    assert mean([0.2785, 0.2786]).interval() is not None
    assert difference([2.0, 2.0], [1.0, 1.0, 1.0]) == Estimate(1.0, 0.0, 1)
    # in a mean they add no scatter: networks that all stay at chance level under both methods
    assert average([mean([0.0, 0.0]), mean([1.0, 3.0])]) == Estimate(1.0, 0.5, 1)
    # networks that all answer the same, beside networks that scatter
    constant, scattered = [10.0, 10.0, 10.0], [12.0, 14.0]
    expected = stats.ttest_ind(constant, scattered, equal_var=False).confidence_interval(0.9)
    assert difference(constant, scattered).interval() == pytest.approx(tuple(expected))
    swapped = stats.ttest_ind(scattered, constant, equal_var=False).confidence_interval(0.9)
    assert difference(scattered, constant).interval() == pytest.approx(tuple(swapped))
    assert difference([10.0], scattered) == Estimate(-3.0)


def test_tests_are_those_of_scipy():
    draw = numpy.random.default_rng(0)
    a, b = draw.normal(1, 1, 7), draw.normal(0.5, 3, 5)
    one = mean(a.tolist())
    for bound in (0.0, 0.7, 2.0):
        expected = stats.ttest_1samp(a, bound, alternative="greater").pvalue
        assert one.p_above(bound) == pytest.approx(expected, rel=1e-9)
        expected = stats.ttest_1samp(a, bound, alternative="less").pvalue
        assert one.p_below(bound) == pytest.approx(expected, rel=1e-9)
    two = difference(a.tolist(), b.tolist())
    welch = stats.ttest_ind(a, b, equal_var=False, alternative="greater")
    assert two.p_above(0) == pytest.approx(welch.pvalue, rel=1e-9)
    low, high = welch.confidence_interval(0.95)
    assert (low, high) == (pytest.approx(two.interval()[0], rel=1e-9), math.inf)


def test_bounds_of_an_interval_are_those_of_one_sided_tests():
    found = mean([0.2, 1.1, 0.4, 0.9])
    low, high = found.interval()
    assert found.p_above(low) == pytest.approx(0.05)
    assert found.p_below(high) == pytest.approx(0.05)


def test_average_of_independent_means_by_hand():
    # errors 1/2 and 1 with 3 and 1 df: variance (1/4 + 1) / 4 = 5/16, df = (5/16)^2 over
    # ((1/16)^2 / 3 + (4/16)^2 / 1) = 25 / (1/3 + 16) = 75/49
    parts = [Estimate(1.0, 0.5, 3), Estimate(3.0, 1.0, 1)]
    found = average(parts)
    assert found.value == 2.0
    assert found.error == pytest.approx(math.sqrt(5 / 16))
    assert found.df == pytest.approx(75 / 49)
    assert average([*parts, Estimate(2.0)]) == Estimate(pytest.approx(2.0))
    assert combined([Estimate(1.0, 0.3, 4), Estimate(2.0)], [1, -1]) == Estimate(-1.0)


def test_paired_shares_are_a_mean_of_differences():
    first = [1, 1, 1, 0, 0, 1, 0, 1, 1, 0]
    second = [1, 0, 0, 0, 1, 1, 0, 0, 1, 0]
    pairs = list(zip(first, second, strict=True))
    found = of_pairs(pairs.count((1, 0)), pairs.count((0, 1)), len(pairs))
    expected = mean([100.0 * (a - b) for a, b in pairs])
    assert found.value == pytest.approx(expected.value)
    assert (found.error, found.df) == (pytest.approx(expected.error), 9)


def test_holm_by_hand():
    # 0.01 x 3, then max(0.03, 0.02 x 2), then max(0.04, 0.03)
    assert holm([0.02, 0.01, 0.03]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("sets", [3, 6, 10])
def test_intervals_cover_nested_data(sets):
    """Networks of a set share its luck. Intervals over sets cover, intervals over networks do not.

    20,000 experiments: a proportion of 0.95 has a standard error of 0.0015.
    """
    draw, networks, experiments, truth = numpy.random.default_rng(sets), 5, 20_000, 1.5
    luck = draw.normal(0, 1, (experiments, sets, 1))
    values = truth + luck + draw.normal(0, 0.7, (experiments, sets, networks))
    inside = pooled = 0
    for experiment in values:
        low, high = mean(experiment.mean(1).tolist()).interval(0.95)
        inside += low <= truth <= high
    for experiment in values[:2000]:
        low, high = mean(experiment.ravel().tolist()).interval(0.95)
        pooled += low <= truth <= high
    assert 0.93 <= inside / experiments <= 0.97
    assert pooled / 2000 < 0.85


@pytest.mark.parametrize("sets", [(3, 6), (6, 10)])
def test_averages_of_cells_with_different_sets_cover(sets):
    draw, experiments, truths = numpy.random.default_rng(1), 4000, (0.5, -1.0)
    inside = 0
    for _ in range(experiments):
        cells = [
            mean(draw.normal(truth, spread, n).tolist())
            for truth, spread, n in zip(truths, (1.0, 2.0), sets, strict=True)
        ]
        low, high = average(cells).interval(0.95)
        inside += low <= -0.25 <= high
    assert 0.93 <= inside / experiments <= 0.97
