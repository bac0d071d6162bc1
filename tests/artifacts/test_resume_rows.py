"""The progress of jobs that make rows: kept, found again, set aside."""

from __future__ import annotations

import errno
import json

import pytest

from dd.artifacts.fields import BLOCK
from dd.artifacts.resume_rows import load_progress, save_progress

FACTS = {"size": (8, 8), "seed": 0, "views": {3: "a"}}  # JSON makes lists and text of them


def load(stage, path, lost=""):
    kept, earlier = load_progress(stage, path, FACTS, BLOCK, lambda at: lost)
    assert earlier == []  # no other code was at work
    return kept


def test_how_far_a_job_was_comes_back(tmp_path, capsys):
    path = tmp_path / "kept.json"
    assert load("test", path) == {}  # nothing there, nothing to say
    save_progress(path, FACTS, {"done": 3, "rows": [{"arch": "mlp"}]})
    assert load("test", path) == {"done": 3, "rows": [{"arch": "mlp"}]}
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (json.dumps({"facts": {"seed": 1}, "done": 3}), "belongs to other settings"),
        (json.dumps({"done": 3}), "belongs to other settings"),
        ("[]", "belongs to other settings"),
        ('{"facts": ', "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_what_is_not_the_jobs_own_is_said_and_set_aside(text, said, tmp_path, capsys):
    path = tmp_path / "kept.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert load("test", path) == {}
    out = capsys.readouterr().out
    assert out.startswith("test: starting anew, ") and said in out and out.count("\n") == 1
    assert not path.exists()  # the new start writes over its rows


def test_without_its_rows_it_is_worth_nothing(tmp_path, capsys):
    path = tmp_path / "kept.json"
    save_progress(path, FACTS, {"done": 3})
    assert load("test", path, lost="rows are lost") == {}
    assert capsys.readouterr().out == "test: starting anew, rows are lost\n"
    assert not path.exists()


def test_a_disk_that_fails_does_not_cost_the_checkpoint(tmp_path, monkeypatch):
    """It may work again for the next attempt; so nothing starts anew."""
    path = tmp_path / "kept.json"
    save_progress(path, FACTS, {"done": 3})

    def failing(*_):
        raise OSError(errno.EIO, "Input/output error", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("dd.artifacts.resume_rows.load_json", failing)
        with pytest.raises(OSError, match="Input/output error"):
            load("test", path)
    assert load("test", path) == {"done": 3}
