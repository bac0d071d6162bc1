"""``export-metrics``: TensorBoard reads what metrics and evaluations say; nothing else changes."""

import json
import math
import struct
import sys
from pathlib import Path

import pytest

from dd.artifacts.text import save_rows
from dd.command import main
from dd.report.export_metrics import EVENTS

LINES = (
    {"iteration": 1, "loss": 4.5, "network": "mlp", "seconds": 0.5, "lr_student": 0.01},
    {"iteration": 2, "loss": 0.1, "network": "lenet", "seconds": 1.25},
    {"iteration": 10, "loss": 1e300, "network": "mlp", "seconds": 9, "seen": True},
)


def metrics(path: Path, lines=LINES) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def evaluation(path: Path, **accuracies) -> None:
    save_rows(
        path,
        [
            {"arch": arch, "network": n, "accuracy": value, "seconds": 3.0}
            for arch, values in accuracies.items()
            for n, value in enumerate(values)
        ],
    )


@pytest.fixture
def run(tmp_path) -> Path:
    """A run's folder: a distillation with evaluations, a selection, one under way."""
    root = tmp_path / "results/mine"
    metrics(root / "distilled/digits/dc+pool/ipc1/seed0/metrics.jsonl")
    metrics(root / "distilled/digits/random/ipc1/seed0/metrics.jsonl", ())
    metrics(root / "distilled/digits/dm/ipc1/seed0/.checkpoint/metrics.jsonl", LINES[:1])
    for path, accuracies in {
        "dc+pool/ipc1/seed0/it2/hard": {"mlp": [50, 60], "lenet": [20]},
        "dc+pool/ipc1/seed0/it10/kd@alpha=0.5": {"mlp": [70]},
        "random/ipc1/seed0/it0/hard": {"mlp": [30]},
    }.items():
        evaluation(root / f"evaluations/digits/{path}.csv", **accuracies)
    return root


def export(*words) -> int:
    return main(["export-metrics", *map(str, words)])


def scalars(folder: Path) -> dict[str, list[tuple[int, float, float]]]:
    """What TensorBoard's own reader finds: step, wall time and value by name."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(one.step, one.wall_time, one.value) for one in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def single(value: float) -> float:
    """The nearest number in single precision, by another way."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_tensorboard_reads_back_what_was_written(run, tmp_path, capsys):
    out = tmp_path / "events"
    before = files(run)
    assert export(run, "--out", out) == 0
    assert files(run) == before
    assert capsys.readouterr().out == (
        f"{out}: 3 distillations for tensorboard --logdir; left out, as no numbers: network, seen\n"
    )
    assert files(out).keys() == {
        f"mine/digits/{method}/ipc1/seed0/{EVENTS}" for method in ("dc+pool", "random", "dm")
    }
    assert scalars(out / "mine/digits/dc+pool/ipc1/seed0") == {
        "loss": [(1, 0.5, 4.5), (2, 1.25, single(0.1)), (10, 9.0, math.inf)],
        "lr_student": [(1, 0.5, single(0.01))],
        "accuracy/hard/mlp": [(2, 1.25, 55.0)],
        "accuracy/hard/lenet": [(2, 1.25, 20.0)],
        "accuracy/kd@alpha=0.5/mlp": [(10, 9.0, 70.0)],
    }
    assert scalars(out / "mine/digits/random/ipc1/seed0") == {"accuracy/hard/mlp": [(0, 0.0, 30.0)]}
    assert scalars(out / "mine/digits/dm/ipc1/seed0")["loss"] == [(1, 0.5, 4.5)]


def test_again_replaces_its_own_files_and_no_others(run, tmp_path):
    out = tmp_path / "events"
    other = out / "mine/digits/dc+pool/ipc1/seed0/events.out.tfevents.1.host"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"another's")
    assert export(run, "--out", out) == 0
    first = files(out)
    assert export(run, "--out", out) == 0
    assert files(out) == first and other.read_bytes() == b"another's"
    grown = {"iteration": 11, "loss": 2.0, "seconds": 10.0}
    metrics(run / "distilled/digits/dc+pool/ipc1/seed0/metrics.jsonl", [*LINES, grown])
    assert export(run, "--out", out) == 0
    changed = {name for name, content in files(out).items() if content != first[name]}
    assert changed == {f"mine/digits/dc+pool/ipc1/seed0/{EVENTS}"}
    other.unlink()
    assert scalars(other.parent)["loss"][-1] == (11, 10.0, 2.0)


def test_a_finished_distillation_comes_before_one_that_begins_again(tmp_path):
    folder = tmp_path / "set"
    metrics(folder / "metrics.jsonl")
    metrics(folder / ".checkpoint/metrics.jsonl", LINES[:1])
    assert export(folder, "--out", tmp_path / "out") == 0
    assert len(scalars(tmp_path / "out/set")["loss"]) == 3


def test_files_of_several_folders(run, tmp_path, monkeypatch, capsys):
    metrics(tmp_path / "a/metrics.jsonl")
    metrics(tmp_path / "b/metrics.jsonl", LINES[:1])
    metrics(tmp_path / "c/.checkpoint/metrics.jsonl", LINES[:1])
    monkeypatch.chdir(tmp_path / "a")
    given = ("metrics.jsonl", "../b", "../c/.checkpoint/metrics.jsonl", "../a/metrics.jsonl")
    assert export(*given, "--out", "../out") == 0
    assert files(tmp_path / "out").keys() == {f"{name}/{EVENTS}" for name in "abc"}
    metrics(tmp_path / "x/a/metrics.jsonl")
    assert export("metrics.jsonl", "../x/a", "--out", "../other") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "has the same name as metrics.jsonl, a;" in said
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2 is not JSON"),
        ("[]", "line 2 is no iteration with its seconds"),
        ('{"iteration": 5}', "line 2 is no iteration with its seconds"),
        ('{"iteration": 1, "seconds": 2}', "line 2 has iteration 1 after 1"),
        ('{"iteration": "2", "seconds": 2}', "'iteration' in line 2 is '2'"),
        ('{"iteration": 2, "seconds": NaN}', "'seconds' in line 2 is nan"),
        ('{"iteration": 9223372036854775808, "seconds": 2}', "'iteration' in line 2 is 92"),
        ("\udcff", "is not JSON lines"),
    ],
)
def test_broken_metrics_are_one_line(line, said, tmp_path, capsys):
    path = metrics(tmp_path / "set/metrics.jsonl", LINES[:1])
    path.write_bytes(path.read_bytes() + line.encode(errors="surrogateescape") + b"\n")
    assert export(path, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: ") and said in error and error.count("\n") == 1
    assert not (tmp_path / "out/set" / EVENTS).exists()


def test_odd_values_are_left_out_or_shown(tmp_path, capsys):
    line = (
        f'{{"iteration": 1, "seconds": 0, "loss": NaN, "long": {"9" * 400}, "\\ud800": 1, '
        '"none": null, "a\\n": 2}'
    )
    path = tmp_path / "set/metrics.jsonl"
    path.parent.mkdir()
    path.write_text(line)
    assert export(path, "--out", tmp_path / "out") == 0
    read = scalars(tmp_path / "out/set")
    assert read.keys() == {"loss", "a\n"} and math.isnan(read["loss"][0][2])
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "long, none, \\ud800" in said


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("network,accuracy\nmlp,5\n", "has no column 'arch'"),
        ("arch,accuracy\nmlp,101\n", "accuracy '101' is no percentage"),
    ],
)
def test_a_broken_evaluation_is_one_line(rows, said, run, tmp_path, capsys):
    (run / "evaluations/digits/random/ipc1/seed0/it0/hard.csv").write_text(rows)
    assert export(run, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "it0/hard.csv: " in error and said in error and error.count("\n") == 1


def test_what_has_no_metrics_is_one_line(tmp_path, capsys):
    for given, said in (
        (tmp_path, "no metrics.jsonl is in this folder"),
        (tmp_path / "absent", "no such file or folder"),
    ):
        assert export(given, "--out", tmp_path / "out") == 2
        assert capsys.readouterr().err.startswith(f"error: {given}: {said}")
    (tmp_path / "file").touch()
    path = metrics(tmp_path / "set/metrics.jsonl")
    assert export(path, "--out", tmp_path / "file") == 2
    assert "a file is in the way" in capsys.readouterr().err


def test_without_the_library_one_line_says_what_to_install(tmp_path, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    path = metrics(tmp_path / "set/metrics.jsonl")
    assert export(path, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "pip install -e '.[tensorboard]'" in error
    assert not (tmp_path / "out").exists()
