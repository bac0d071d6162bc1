"""Evaluations killed and started again: the same rows as of one left alone (CPU)."""

from __future__ import annotations

import json

import pytest

from dd.artifacts.text import load_rows
from dd.command import main
from tests.support.resuming import Killed, evaluate, kill_when, stop_at
from tests.support.timeless import timeless


@pytest.mark.slow
def test_evaluation_killed_in_the_middle(data, alone, tmp_path):
    out, partial = tmp_path / "e.csv", tmp_path / ".e.csv.partial.json"
    kill_when(partial.exists, evaluate(data, alone, out))
    assert not out.exists()
    kept = json.loads(partial.read_text())["rows"]
    assert 0 < len(kept) < 8
    assert main(evaluate(data, alone, out)) == 0
    assert main(evaluate(data, alone, tmp_path / "alone.csv")) == 0
    assert timeless(out) == timeless(tmp_path / "alone.csv")
    assert len(timeless(out)) == 8
    # finished networks were not trained again: their wall time is the one measured then
    times = [float(row["seconds"]) for row in load_rows(out)]
    assert times[: len(kept)] == [row["seconds"] for row in kept]
    assert len({row["created"] for row in load_rows(out)}) == 1  # that of the file
    assert not partial.exists()


@pytest.mark.slow
@pytest.mark.parametrize("call", [3, 6])
def test_distillation_at_evaluation_goes_on(call, data, alone, tmp_path, monkeypatch):
    """Teachers of networks that were finished before the death are the same again."""
    out, kd = tmp_path / "e.csv", ("--protocol", "kd", "--teacher", "lenet", "--temperature", "2")
    words = evaluate(data, alone, out, *kd)  # distils the set, which must not be stopped
    with monkeypatch.context() as patch:
        stop_at(patch, call)
        with pytest.raises(Killed):
            main(words)
    assert main(words) == 0
    assert main(evaluate(data, alone, tmp_path / "alone.csv", *kd)) == 0
    assert timeless(out) == timeless(tmp_path / "alone.csv")
    assert len({row["teacher_accuracy"] for row in timeless(out)}) > 1


def test_evaluation_of_something_else(data, alone, tmp_path, monkeypatch, capsys):
    """Rows of other settings, and a broken file of rows, are set aside."""
    out, partial = tmp_path / "e.csv", tmp_path / ".e.csv.partial.json"
    words = evaluate(data, alone, out)  # distils the set, which must not be stopped
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(Killed):
            main(words)
    rows = partial.read_text()
    assert main(evaluate(data, alone, tmp_path / "alone.csv", "--lr", "0.02")) == 0
    for text in (rows, rows[: len(rows) // 2], "[]"):
        partial.write_text(text)
        assert main(evaluate(data, alone, out, "--lr", "0.02")) == 0
        assert "starting anew" in capsys.readouterr().out
        assert timeless(out) == timeless(tmp_path / "alone.csv")
