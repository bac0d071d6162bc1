"""YAML: words that YAML 1.1 takes for something else, and keys given twice, with their lines."""

from __future__ import annotations

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dd.config.documents import parse_yaml, read_yaml
from dd.errors import DDError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "doc, line 3: key 'a' is given twice, first in line 1"),
        ("x:\n  - {a: 1, b: 2, a: 1}", "doc, line 2: key 'a' is given twice, first in line 2"),
        ("1: a\n1: b", "doc, line 2: key '1' is given twice"),
        ("a:\n  &x : 1", "doc, line 2: a key is empty; write a name or a number"),
        ("~: 1", "doc, line 1: a key is empty; write"),
        ("a: 1\ntrue: 1", "doc, line 2: a key is true or false; write"),
        ("a: 1\n? [b]\n: 1", "doc, line 2: a key is a list; write"),
        ("{{a: 1}: 2}", "doc, line 1: a key is a block; write"),
        ("a: 1\n'a': 2", "doc, line 2: key 'a' is given twice"),
        ("base: &b {x: 1}\nc:\n  <<: *b\n  y: 1\n  y: 2", "doc, line 5: key 'y' is given twice"),
        ("a: no", "line 1: no is read as false; write false, or 'no' in quotes"),
        ("a: [On]", "line 1: On is read as true; write true, or 'On' in quotes"),
        ("a:\n  yes: 1", "line 2: yes is read as true; write true, or 'yes' in quotes"),
        ("a: 010", "line 1: 010 is read as the number 8; write 8, or '010' in quotes"),
        ("a: -012", "line 1: -012 is read as the number -10; write -10, or '-012' in quotes"),
        ("a: 2026_11_25", "is read as the number 20261125; write 20261125, or '2026_11_25'"),
        ("a: 1:30", "is read as the number 90; write 90, or '1:30' in quotes"),
        ("a: 1_0.5", "is read as the number 10.5; write 10.5, or '1_0.5' in quotes"),
        ("a: 2026-11-25", "2026-11-25 is read as a date; write '2026-11-25' in quotes"),
        ("a: 2026-11-25 20:00:00", "is read as a date"),
        ("a: 1e-3", "1e-3 is read as text; write 1.0e-3, or '1e-3' in quotes"),
        ("a: 1E5", "1E5 is read as text; write 1.0e+5, or '1E5' in quotes"),
        ("a: 2.5e3", "2.5e3 is read as text; write 2.5e+3, or '2.5e3' in quotes"),
        ("a: -.5e-3", "-.5e-3 is read as text; write -0.5e-3"),
        ("a: .nan", "line 1: .nan is no finite number"),
        ("a: -.inf", "line 1: -.inf is no finite number"),
        ("a: [", "doc: is not YAML (while parsing"),
        ("a: !!python/object:os.system {}", "doc: is not YAML (could not determine a constructor"),
        ("a: 1\n---\nb: 2", "doc: is not YAML (expected a single document"),
        ("[" * 3000, "doc: is nested too deeply"),
    ],
)
def test_what_yaml_reads_otherwise_than_it_looks(text, message):
    with pytest.raises(DDError) as caught:
        parse_yaml(text, "doc")
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("a: 'no'", {"a": "no"}),
        ('a: "010"', {"a": "010"}),
        ("a: true\nb: FALSE", {"a": True, "b": False}),
        (
            "a: 0\nb: 0.5\nc: -7\nd: 1.0e-3\ne: 0x10",
            {"a": 0, "b": 0.5, "c": -7, "d": 0.001, "e": 16},
        ),
        ("a: none\nb: ~\nc: 3x\nd: e5", {"a": "none", "b": None, "c": "3x", "d": "e5"}),
        (
            "b: &b {x: 1, y: 2}\nc:\n  <<: *b\n  x: 3",
            {"b": {"x": 1, "y": 2}, "c": {"x": 3, "y": 2}},
        ),
        ("a: {x: 1}\nb: {x: 1}", {"a": {"x": 1}, "b": {"x": 1}}),
        ("a: >-\n  no\nb: |-\n  1e-3", {"a": "no", "b": "1e-3"}),
    ],
)
def test_what_is_as_it_looks(text, value):
    assert parse_yaml(text, "doc") == value


def test_aliases_of_aliases_take_no_time():
    """Each line ten times the one before: 10^9 values, of which each list is read once."""
    lines = ["a0: &a0 [x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert len(parse_yaml("\n".join(lines), "doc")) == 10


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
keys = st.text(max_size=8) | st.integers()
documents = st.recursive(
    plain | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@given(documents)
def test_what_yaml_writes_is_read_back(document):
    """PyYAML quotes what would be read as something else, so that nothing is refused."""
    assert parse_yaml(yaml.safe_dump(document), "doc") == document


@given(st.text(alphabet="0123456789_:.eE+-onyfsalrtu~ []{}',\"&*<#|>\n", max_size=30))
def test_a_document_is_read_or_refused_in_one_line(text):
    try:
        value = parse_yaml(text, "doc")
    except DDError as error:
        assert "\n" not in str(error)
    else:
        assert not isinstance(value, float) or math.isfinite(value)


def test_a_file_is_named(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("seeds: [0]\nseeds: [1]\n")
    with pytest.raises(DDError, match=r"run\.yaml, line 2: key 'seeds' is given twice"):
        read_yaml(path)


def test_a_document_is_its_readers_own(tmp_path):
    """What a reader does to a document, the next one does not see; what the file says, it does."""
    path = tmp_path / "x.yaml"
    path.write_text("a: [1, 2]\n")
    read_yaml(path)["a"].append(3)
    assert read_yaml(path) == {"a": [1, 2]}
    path.write_text("a: [1, 4]\n")
    assert read_yaml(path) == {"a": [1, 4]}
