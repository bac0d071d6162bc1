"""Numbers as text."""

from dd.report.numbers import counted, interval, number


def test_numbers_have_a_true_minus():
    assert number(-0.746, 2) == "−0.75" and number(1.2, 1, "+") == "+1.2" and number(3, 0) == "3"
    assert interval((-0.746, 1.018), 2, "+") == "−0.75 to +1.02"
    assert interval(None, 2) == "–"


def test_on_what_numbers_rest():
    assert counted([3, 3], [5, 5], "networks") == "3 × 5 networks"
    assert counted([1, 3], [2, 10], "networks") == "1 to 3 × 2 to 10 networks"
    assert counted([0], [359], "images") == "359 images"
    assert counted([6], [1], "jobs") == "6 jobs"
