"""Patterns of job names: exactly these, and short."""

import itertools
import re

import pytest

from dd.config.run import load_run
from dd.plan.jobs import Evaluation
from dd.plan.plan import Plan
from dd.plan.wildcards import exactly


@pytest.mark.parametrize(
    "paths",
    [
        ["a"],
        ["a/b/c", "a/b/d", "a/e/c"],
        ["a", "a/b", "b"],  # one is the beginning of another
        ["a.b/kd@temperature=0.5", "axb", "a+b", "a/kd@temperature=0-5"],
    ],
)
def test_exactly_these(paths):
    pattern = re.compile(exactly(paths))
    parts = sorted({part for path in paths for part in path.split("/")})
    words = [
        "/".join(word) for n in (1, 2, 3) for word in itertools.product([*parts, "z"], repeat=n)
    ]
    found = [word for word in [*words, "", "a/", "/a", "a-b"] if pattern.fullmatch(word)]
    assert sorted(found) == sorted(paths)


def test_nothing_matches_where_there_is_nothing():
    assert not re.match(exactly([]), "") and not re.match(exactly([]), "a")


def test_the_papers_own_evaluations_are_matched_and_the_pattern_is_short():
    names = [str(job) for job in Plan(load_run("paper")).of(Evaluation)]
    pattern = exactly(names)
    assert len(names) > 1500 and len(pattern) < sum(map(len, names)) / 10
    assert all(re.fullmatch(pattern, name) for name in names)
    absent = names[0].replace("/seed0/", "/seed3/")
    assert absent != names[0] and not re.fullmatch(pattern, absent)
