"""Differences of cells and verdicts on made data, against values worked out by hand or by scipy."""

import numpy
import pytest
from scipy import stats

from dd.report.compare import (
    HOLDS,
    NOT_TESTED,
    REFUTED,
    UNDECIDED,
    average,
    claimed_side,
    compare,
    contradiction,
    ratio,
    support,
    verdict,
    weakest,
)
from dd.report.intervals import Estimate

EXPECT = ("higher", "lower", "not lower", "not higher", "equal")


def test_sets_of_the_same_seed_are_pairs():
    # means of sets: 10, 20, 30 and 9, 18, 28: differences 1, 2, 2
    first = {0: [9.0, 11.0], 1: [20.0, 20.0], 5: [29.0, 31.0]}
    second = {5: [28.0, 28.0], 1: [17.0, 19.0], 0: [9.0, 9.0]}
    found = compare(first, second)
    assert found.parts == {0: 1.0, 1: 2.0, 5: 2.0}
    assert (found.unit, found.sets, found.inner) == ("sets", 3, (2, 2))
    expected = stats.ttest_1samp([1, 2, 2], 0).confidence_interval(0.9)
    assert found.estimate.interval() == pytest.approx(tuple(expected))


def test_sets_of_other_seeds_are_not_pairs():
    first, second = {0: [1.0], 1: [3.0]}, {7: [0.0], 8: [1.0], 9: [5.0]}
    found = compare(first, second)
    expected = stats.ttest_ind([1, 3], [0, 1, 5], equal_var=False).confidence_interval(0.9)
    assert found.estimate.interval() == pytest.approx(tuple(expected))
    assert (found.unit, found.sets, found.parts) == ("sets", 2, {})


def test_one_set_is_judged_over_networks():
    one, other = [20.0, 22.0, 24.0], [19.0, 20.0, 24.5]
    paired = compare({0: one}, {0: other})
    expected = stats.ttest_rel(one, other).confidence_interval(0.9)
    assert paired.estimate.interval() == pytest.approx(tuple(expected))
    assert (paired.unit, paired.sets, paired.inner) == ("networks", 1, (3, 3))
    welch = stats.ttest_ind(one, other[:2], equal_var=False).confidence_interval(0.9)
    assert compare({0: one}, {0: other[:2]}).estimate.interval() == pytest.approx(tuple(welch))
    welch = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.9)
    assert compare({0: one}, {3: other}, "images").estimate.interval() == pytest.approx(
        tuple(welch)
    )
    assert compare({0: one}, {3: other}, "images").unit == "images"
    assert compare({0: one[:1]}, {0: other[:1]}).estimate == Estimate(1.0)


def test_rounding_of_accuracies_is_no_scatter():
    """One test image of 359 more, by both networks; the files round to four decimals."""
    found = compare({0: [97.7716, 97.4930]}, {0: [97.4930, 97.2145]})
    assert found.estimate == Estimate(pytest.approx(0.27855), 0.0, 1)
    by_sets = compare({0: [97.7716], 1: [97.4930]}, {0: [97.4930], 1: [97.2145]})
    assert by_sets.estimate.interval() is None


def test_ratios_by_hand():
    sets = ratio({0: [30.0], 1: [44.0]}, {0: [60.0], 1: [80.0]})  # 0.5 and 0.55
    expected = stats.ttest_1samp([0.5, 0.55], 0).confidence_interval(0.9)
    assert sets.interval() == pytest.approx(tuple(expected))
    # one set: variances 8 and 32 of two networks each; d(a/b) = da/60 - db/2/60
    one = ratio({0: [28.0, 32.0]}, {0: [56.0, 64.0]})
    assert one.value == pytest.approx(0.5)
    assert one.error == pytest.approx((8 / 2 / 60**2 + 0.25 * 32 / 2 / 60**2) ** 0.5)
    assert ratio({0: [30.0]}, {0: [60.0]}) == Estimate(0.5)
    # one set of three networks against three sets, which count by their means: 60, 61, 62
    unlike = ratio({9: [30.0, 31.0, 32.0]}, {n: [59.0 + n, 61.0 + n] for n in range(3)})
    assert unlike.value == pytest.approx(31 / 61)
    error = (1 / 3 / 61**2 + 31**2 / 61**4 / 3) ** 0.5
    assert unlike.error == pytest.approx(error)


def test_only_common_seeds_count():
    found = compare({0: [1.0], 1: [2.0], 2: [9.0]}, {0: [0.0], 1: [0.0]})
    assert found.parts == {0: 1.0, 1: 2.0}
    assert found.sets == 2
    one = compare({0: [1.0, 3.0], 1: [8.0, 8.0]}, {1: [1.0, 2.0]})
    assert (one.unit, one.estimate.value) == ("networks", 6.5)


def test_cells_of_one_set_share_its_networks():
    """The same difference three times is no better known than once."""
    cell = compare({0: [21.0, 24.0, 22.5]}, {0: [20.0, 21.0, 22.0]})  # 1, 3, 0.5
    again = average([cell, cell, cell])
    assert again.estimate == cell.estimate and again.unit == "networks"
    # by place: (1 + 3) / 2, (3 - 1) / 2, (0.5 + 2.5) / 2
    other = compare({0: [5.0, 1.0, 4.5]}, {0: [2.0, 2.0, 2.0]})
    expected = stats.ttest_1samp([2.0, 1.0, 1.5], 0).confidence_interval(0.9)
    assert average([cell, other]).estimate.interval() == pytest.approx(tuple(expected))
    # other networks are independent: two thirds of the first mean, one third of the other
    fewer = compare({0: [3.0, 5.0]}, {0: [1.0, 2.0]})
    mixed = average([cell, other, fewer]).estimate
    assert mixed.value == pytest.approx((1.5 + 1.5 + 2.5) / 3)
    first, second = average([cell, other]).estimate.error, fewer.estimate.error
    assert mixed.error == pytest.approx(((2 * first / 3) ** 2 + (second / 3) ** 2) ** 0.5)


def test_averages_know_rounding_too():
    """Accuracies with four decimals whose differences are a test image of 359."""
    first, second = {0: [88.0223], 1: [88.3008]}, {0: [87.7437], 1: [88.0223]}
    assert compare(first, second).estimate.interval() is None
    assert average([compare(first, second)] * 2).estimate.interval() is None


def test_what_is_known_exactly_needs_no_scatter():
    """Peak memory: the same job takes the same, whatever its seed."""
    first, second = {0: [500.0], 1: [500.0]}, {0: [1500.0], 1: [1500.0]}
    assert verdict([compare(first, second).estimate], "lower", 0.0) == UNDECIDED
    found = compare(first, second, exact=True)
    assert verdict([found.estimate], "lower", 0.0) == HOLDS
    assert verdict([average([found, found]).estimate], "lower", 0.0) == HOLDS
    assert verdict([found.estimate], "higher", 0.0) == REFUTED
    assert verdict([found.estimate], "lower", 1200.0) == REFUTED
    alone = compare({0: [500.0]}, {0: [1500.0]}, exact=True)
    assert verdict([alone.estimate], "lower", 0.0) == HOLDS
    equal = compare({0: [500.0]}, {0: [500.0]}, exact=True)
    assert verdict([equal.estimate], "lower", 0.0) == UNDECIDED
    scattered = compare({0: [500.0], 1: [1400.0]}, {0: [1500.0], 1: [1500.0]}, exact=True)
    assert verdict([scattered.estimate], "lower", 0.0) == UNDECIDED


def test_average_takes_the_mean_of_each_seed_first():
    cells = [
        compare({0: [2.0], 1: [4.0], 2: [3.0]}, {0: [1.0], 1: [0.0], 2: [0.0]}),
        compare({0: [7.0], 1: [1.0], 2: [2.0]}, {0: [0.0], 1: [1.0], 2: [1.0]}),
    ]
    found = average(cells)
    assert found.parts == {0: 4.0, 1: 2.0, 2: 2.0}
    expected = stats.ttest_1samp([4, 2, 2], 0).confidence_interval(0.9)
    assert found.estimate.interval() == pytest.approx(tuple(expected))
    apart = average([cells[0], compare({0: [1.0], 1: [0.0]}, {0: [0.0], 1: [3.0]})])
    assert (apart.parts, apart.sets) == ({}, 2)
    assert apart.estimate.value == pytest.approx((8 / 3 - 1) / 2)


@pytest.mark.parametrize("expect", EXPECT)
def test_verdicts_of_one_cell_follow_from_its_interval(expect):
    """A claim holds where the 90 % interval lies inside the claimed side, is refuted where it lies
    outside (for two sides by the 95 % interval), and is undecided otherwise."""
    draw, margin = numpy.random.default_rng(0), 1.0
    seen = set()
    for _ in range(300):
        values = draw.normal(draw.uniform(-4, 4), draw.uniform(0.2, 3), 4)
        estimate = Estimate(values.mean(), values.std(ddof=1) / 2, 3)
        low, high = estimate.interval()
        least, most = claimed_side(expect, margin)
        wide = estimate.interval(0.95) if expect == "equal" else (low, high)
        expected = UNDECIDED
        if least < low and high < most:
            expected = HOLDS
        elif wide[1] < least or wide[0] > most:
            expected = REFUTED
        if expect == "equal":
            assert (expected == HOLDS) == (verdict([estimate], expect, margin) == HOLDS)
        assert verdict([estimate], expect, margin) == expected
        seen.add(expected)
    assert seen == {HOLDS, REFUTED, UNDECIDED}


def test_every_cell_must_hold():
    clear, weak, against = Estimate(2.0, 0.1, 5), Estimate(0.1, 0.2, 5), Estimate(-2.0, 0.1, 5)
    assert verdict([clear, clear], "higher", 0.0) == HOLDS
    assert verdict([clear, weak], "higher", 0.0) == UNDECIDED
    assert verdict([clear, weak, against], "higher", 0.0) == REFUTED
    assert verdict([clear, clear], "lower", 0.0) == REFUTED
    assert verdict([against], "lower", 0.0) == HOLDS
    assert verdict([], "higher", 0.0) == NOT_TESTED
    assert verdict([Estimate(5.0)], "higher", 0.0) == UNDECIDED
    assert weakest([clear, against, weak], "higher", 0.0) == 1
    assert weakest([clear, weak], "higher", 0.0) == 1
    # equal observations decide nothing, so they stand between what is against and what is for
    constant = Estimate(0.3, 0.0, 5)
    assert weakest([against, constant], "higher", 0.0) == 0
    assert weakest([clear, constant], "higher", 0.0) == 1
    assert verdict([against, constant], "higher", 0.0) == REFUTED
    assert verdict([clear], "higher", 3.0) == REFUTED  # less than the difference that matters


def test_a_contradiction_is_corrected_for_the_number_of_cells():
    # p = 0.02 alone; with three cells Holm makes it 0.06
    df, p = 5, 0.02
    against = Estimate(-float(stats.t.ppf(1 - p, df)), 1.0, df)
    assert contradiction(against, "higher", 0.0) == pytest.approx(p)
    others = [Estimate(0.5, 1.0, df)] * 2
    assert verdict([against], "higher", 0.0) == REFUTED
    assert verdict([against, *others], "higher", 0.0) == UNDECIDED


def test_errors_of_verdicts_are_bounded():
    """Of claims that are just false, at most 5 % hold; of claims that are just true in every cell,
    at most 5 % are refuted."""
    draw, holds, refuted, runs = numpy.random.default_rng(2), 0, 0, 2000
    for _ in range(runs):
        cells = draw.normal(0, 1, (4, 6))
        estimates = [Estimate(c.mean(), c.std(ddof=1) / 6**0.5, 5) for c in cells]
        shifted = [Estimate(e.value + (5 if i else 0), e.error, 5) for i, e in enumerate(estimates)]
        holds += verdict(shifted, "higher", 0.0) == HOLDS  # one cell at 0, the others clear
        refuted += verdict(estimates, "higher", 0.0) == REFUTED
    assert 0.03 < holds / runs < 0.07  # 5 % with a standard error of 0.5
    assert 0.03 < refuted / runs < 0.07


@pytest.mark.parametrize("expect", [name for name in EXPECT if name != "equal"])
def test_support_and_contradiction_are_opposite(expect):
    estimate = Estimate(0.4, 0.3, 4)
    for margin in (0.5, 1.0):
        for_, against = (f(estimate, expect, margin) for f in (support, contradiction))
        assert for_ + against == pytest.approx(1.0)


def test_equal_is_two_tests():
    """By hand: t = (0.4 - 0.5) / 0.3 and (0.4 + 0.5) / 0.3 with 4 degrees of freedom."""
    estimate = Estimate(0.4, 0.3, 4)
    below, above = stats.t.cdf(-1 / 3, 4), stats.t.sf(3, 4)
    assert support(estimate, "equal", 0.5) == pytest.approx(max(below, above))
    assert contradiction(estimate, "equal", 0.5) == pytest.approx(min(1, 2 * stats.t.sf(-1 / 3, 4)))
