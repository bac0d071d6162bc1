"""Killed and started again: the same bytes as one left alone (CPU)."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from dd.__main__ import main
from dd.artifacts.headers import read_header
from dd.artifacts.tensors import load_tensors
from dd.artifacts.text import load_rows

SNAPSHOTS = [0, 3, 25]
POOL = """\
title: small pool
main: convnet:depth=1,width=8
probability: 0.5
others: {variants_of: "convnet:depth=1,width=8", norm: [batch, group], activation: [swish]}
warmup: 2
"""
NETWORK = ["--network", "convnet:depth=1,width=8"]
TRAINED = "convnet:depth=1,norm=batch,width=8"
TRANSFORMER = "vit:depth=1,heads=1,width=8"
LATENTS = ["--parametrisation", "glad@piece=7", "--generator", "GENERATOR"]
INVARIANT = [  # the images seen in a step are drawn, so the regulariser's stream moves
    "--regulariser", f"metadd@auxiliary={TRAINED}.{TRANSFORMER},images=7",
    "--pretrained", "TRAINED", "TRANSFORMER",
]  # fmt: skip
GRADIENTS = ["--ipc", "2", "--batch-real", "16", "--outer", "2", "--inner", "1"]
SEGMENTS = [
    "--experts", "2", "--student-steps", "4", "--expert-epochs", "1", "--max-start-epoch", "2",
    "--batch-syn", "6", "--lr-img", "0.5", "--lr-lr", "0.0001", "--lr-weights", "0.1",
]  # fmt: skip
FILES = {
    "POOL": "pool.yaml",
    "SHARD": "shard.safetensors",
    "TRAINED": "trained.safetensors",
    "TRANSFORMER": "transformer.safetensors",
    "GENERATOR": "generator.safetensors",
}
METHODS = {
    "dc": ["--objective", "dc", *GRADIENTS, *NETWORK],
    "dsa": ["--objective", "dsa", *GRADIENTS, *NETWORK],
    "dm": ["--objective", "dm", "--ipc", "2", "--batch-real", "16", *NETWORK],
    "pool": ["--objective", "dc", *GRADIENTS, "--pool", "POOL"],
    "iadd": ["--objective", "iadd", "--ipc", "2", *SEGMENTS, *NETWORK, "--buffers", "SHARD"],
    "sre2l": [
        "--objective", "sre2l", "--ipc", "2", "--network", TRAINED, "--pretrained", "TRAINED",
    ],
    "glad+metadd": [
        "--objective", "dm", "--ipc", "2", "--batch-real", "16", *NETWORK, *LATENTS, *INVARIANT,
    ],
}  # fmt: skip


class Killed(BaseException):
    """Stands for SIGKILL where a real one could not be timed: nothing in dd/ may catch it."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The digits, prepared, and beside them a pool, a buffer, frozen networks and a generator."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "pool.yaml").write_text(POOL)
    path = folder / "digits.safetensors"
    assert main(["prepare", "--source", "digits", "--out", str(path), "--threads", "1"]) == 0
    assert main(buffer(path, path.with_name("shard.safetensors"))) == 0
    machine = ["--data", str(path), "--threads", "1", "--device", "cpu", "--epochs", "1"]
    for name, words in (
        ("TRAINED", ["pretrain", "--network", TRAINED]),
        ("TRANSFORMER", ["pretrain", "--network", TRANSFORMER]),
        ("GENERATOR", ["generator", "--width", "8"]),
    ):
        assert main([*words, *machine, "--out", str(path.with_name(FILES[name]))]) == 0
    return path


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """``alone(method)``: the folder of an undisturbed run, made once."""
    made = {}

    def run(method):
        if method not in made:
            made[method] = tmp_path_factory.mktemp(f"alone-{method}")
            assert main(distill(data, method, made[method])) == 0
        return made[method]

    return run


def distill(data, method, out, snapshots=SNAPSHOTS, seed=0):
    """The command of a small distillation that checkpoints at every iteration."""
    method = [
        str(data.with_name(FILES[word])) if word in FILES else word for word in METHODS[method]
    ]
    where = ["--data", str(data), "--out", str(out), "--seed", str(seed), "--threads", "1"]
    numbers = ["--snapshots", *map(str, snapshots), "--checkpoint-every", "0"]
    return ["distill", *method, *where, *numbers, "--device", "cpu"]


def buffer(data, out, together="no", epochs=2, **changes):
    """The command of a small buffer that checkpoints after every epoch."""
    settings = {"lr": 0.05, "momentum": 0.9, "batch": 256} | changes
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    where = ["--data", str(data), "--out", str(out), "--threads", "1", "--device", "cpu", *NETWORK]
    how = ["--experts", "2", "--epochs", str(epochs), "--together", together]
    return ["buffer", *where, *how, *words, "--checkpoint-every", "0"]


def images(out, snapshots=SNAPSHOTS):
    """The bytes of the images of every snapshot."""
    found = {}
    for n in snapshots:
        tensors, header = load_tensors(out / f"it{n}.safetensors", "synthetic")
        assert header["iteration"] == n
        found[n] = tensors["images"].numpy().tobytes()
    return found


def everything(out, snapshots):
    """The bytes of all tensors of every snapshot, what an objective keeps beside the images too."""
    found = {}
    for n in snapshots:
        tensors, _ = load_tensors(out / f"it{n}.safetensors", "synthetic")
        found |= {(n, name): values.numpy().tobytes() for name, values in tensors.items()}
    return found


def metrics(out):
    """The lines of metrics.jsonl without the wall time."""
    lines = (out / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def assert_same(out, reference, snapshots=SNAPSHOTS):
    """The two folders hold the same files with the same results, and nothing else."""
    assert images(out, snapshots) == images(reference, snapshots)
    assert everything(out, snapshots) == everything(reference, snapshots)
    assert metrics(out) == metrics(reference)
    assert [row["iteration"] for row in metrics(out)] == list(range(1, snapshots[-1] + 1))
    names = {f"it{n}.safetensors" for n in snapshots} | {"metrics.jsonl"}
    assert {path.name for path in out.iterdir()} == names


def kill_when(condition, argv):
    """Start ``python -m dd argv``, SIGKILL it as soon as ``condition()`` holds."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dd", *argv], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def stop_at(monkeypatch, call, *names):
    """Die at the ``call``-th (from 1) file that would be put in place, or, with ``names``, at the
    ``call``-th call of these functions of ``os``."""
    calls = 0

    def counted(function):
        def dying(*arguments):
            nonlocal calls
            calls += 1
            if calls == call:
                raise Killed
            return function(*arguments)

        return dying

    for name in names or ("replace",):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))


@pytest.mark.parametrize("method", METHODS)
def test_killed_in_the_middle(method, data, alone, tmp_path, capsys):
    out = tmp_path / "out"
    state = out / ".checkpoint" / "state.safetensors"
    # past the snapshot in the middle, so that it must survive too
    kept = out / ".checkpoint" / "it3.safetensors"
    kill_when(lambda: kept.exists() and state.exists(), distill(data, method, out))
    assert not list(out.glob("*.safetensors"))  # not delivered yet
    reached = read_header(state)["at"]["iteration"]
    assert 0 < reached < SNAPSHOTS[-1]
    capsys.readouterr()
    assert main(distill(data, method, out)) == 0
    assert f"going on from iteration {reached}" in capsys.readouterr().out
    assert_same(out, alone(method))


def test_methods_differ(alone):
    """The bytes compared here are those of the method."""
    assert len({images(alone(method))[25] for method in METHODS}) == len(METHODS)
    drawn = {row["network"] for row in metrics(alone("pool"))}
    assert len(drawn) == 3  # all of the pool, main model included


def test_images_move(alone):
    """Every snapshot is another one."""
    for method in METHODS:
        assert len(set(images(alone(method)).values())) == len(SNAPSHOTS)


def test_killed_at_any_write(data, tmp_path, monkeypatch):
    """Death before each single file is put in place, delivery included."""
    snapshots = [0, 1, 3]
    reference = tmp_path / "alone"
    assert main(distill(data, "dm", reference, snapshots)) == 0
    deaths = 0
    while True:
        out = tmp_path / f"out{deaths}"
        try:
            with monkeypatch.context() as patch:
                stop_at(patch, deaths + 1)
                main(distill(data, "dm", out, snapshots))
            break
        except Killed:
            deaths += 1
        assert main(distill(data, "dm", out, snapshots)) == 0
        assert_same(out, reference, snapshots)
    # three snapshots, metrics and state of three iterations, three deliveries and the metrics
    assert deaths == 3 + 2 * 3 + 3 + 1


def test_killed_while_tidying_up(data, alone, tmp_path, monkeypatch):
    """Delivered, but the checkpoint folder is still there: done again, with the same result."""
    out, rmtree = tmp_path / "out", shutil.rmtree

    def killed(folder, **options):
        if folder.name == ".checkpoint":
            raise Killed
        rmtree(folder, **options)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(Killed):
            main(distill(data, "dm", out))
    assert main(distill(data, "dm", out)) == 0
    assert_same(out, alone("dm"))


def test_interrupted_by_hand(data, tmp_path, monkeypatch, capsys):
    """Ctrl-C: one line that says how to resume."""

    def interrupt(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    assert main(distill(data, "dm", tmp_path / "out")) == 130
    assert capsys.readouterr().err == "interrupted; run the same command to resume\n"


def test_disk_full_for_a_while(data, alone, tmp_path, monkeypatch, capsys):
    """One line, nothing half written; with space again it goes on."""
    out, calls, fsync = tmp_path / "out", 0, os.fsync

    def full(descriptor):
        nonlocal calls
        calls += 1
        if calls == 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert main(distill(data, "dm", out)) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {out}/.checkpoint/") and said.count("\n") == 1
    assert said.endswith(": the disk is full; free space and run again\n")
    assert not list(out.rglob("*.part"))
    assert main(distill(data, "dm", out)) == 0
    assert "going on from iteration" in capsys.readouterr().out
    assert_same(out, alone("dm"))


@pytest.mark.parametrize("method", METHODS)
def test_seeds(method, data, alone, tmp_path):
    """The same seed gives the same bytes, another seed others."""
    # which other snapshots are kept is all one, unless the rates fall until the last one
    snapshots = SNAPSHOTS if method == "sre2l" else SNAPSHOTS[:-1]
    for seed in (0, 1):
        assert main(distill(data, method, tmp_path / str(seed), snapshots, seed)) == 0
    reference = images(alone(method), snapshots)
    assert images(tmp_path / "0", snapshots) == reference
    other = images(tmp_path / "1", snapshots)
    assert all(other[n] != reference[n] for n in other)


@pytest.fixture
def stopped(data, tmp_path, monkeypatch):
    """The folder of a dm run that died at iteration 7."""
    out = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        stop_at(patch, 2 + 2 * 7 + 1)
        with pytest.raises(Killed):
            main(distill(data, "dm", out))
    assert read_header(out / ".checkpoint/state.safetensors")["at"]["iteration"] == 7
    return out


def test_checkpoint_of_other_settings(data, stopped, tmp_path, capsys):
    """Another seed in the same folder starts anew, as in an empty one."""
    assert main(distill(data, "dm", stopped, seed=5)) == 0
    assert "starting anew" in capsys.readouterr().out
    assert main(distill(data, "dm", tmp_path / "fresh", seed=5)) == 0
    assert_same(stopped, tmp_path / "fresh")


def lose_snapshot(folder):
    (folder / "it3.safetensors").unlink()


def lose_metrics(folder):
    (folder / "metrics.jsonl").unlink()


def shorten_metrics(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:-1]))


def truncate(folder):
    path = folder / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def scribble(folder):
    (folder / "state.safetensors").write_bytes(b"\x00\xff" * 500)


def empty(folder):
    (folder / "state.safetensors").write_bytes(b"")


DAMAGES = (lose_snapshot, lose_metrics, shorten_metrics, truncate, scribble, empty)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_checkpoint(damage, data, stopped, alone, capsys):
    """Said, not trusted: the run starts anew and ends with the same result."""
    damage(stopped / ".checkpoint")
    assert main(distill(data, "dm", stopped)) == 0
    assert "starting anew" in capsys.readouterr().out
    assert_same(stopped, alone("dm"))


def rows(shard):
    """The bytes of the trajectories of a finished shard, and the accuracies of its experts."""
    tensors, header = load_tensors(shard, "trajectories")
    assert [path.name for path in shard.parent.iterdir()] == [shard.name]
    return tensors["trajectories"].numpy().tobytes(), header["experts"]


@pytest.fixture(scope="module")
def shards(data, tmp_path_factory):
    """``shards(together)``: what :func:`rows` finds in an undisturbed buffer, made once."""
    made = {}

    def run(together):
        if together not in made:
            out = tmp_path_factory.mktemp("buffer") / "shard.safetensors"
            assert main(buffer(data, out, together)) == 0
            made[together] = rows(out)
        return made[together]

    return run


def test_buffer_killed_in_the_middle(data, tmp_path, tmp_path_factory, capsys):
    out, state = tmp_path / "shard.safetensors", tmp_path / ".shard.safetensors.state"
    kill_when(state.exists, buffer(data, out, epochs=30))
    assert not out.exists()
    done = read_header(state)["at"]["done"]
    assert 0 < done < 60
    assert main(buffer(data, out, epochs=30)) == 0
    assert f"going on after {done} expert-epochs" in capsys.readouterr().out
    reference = tmp_path_factory.mktemp("alone") / out.name
    assert main(buffer(data, reference, epochs=30)) == 0
    assert rows(out) == rows(reference)


@pytest.mark.parametrize("together", ["yes", "no"])
def test_buffer_killed_at_any_write(together, data, shards, tmp_path, monkeypatch):
    """Death before each row, checkpoint and the last header."""
    deaths = 0
    while True:
        out = tmp_path / str(deaths) / "shard.safetensors"
        try:
            with monkeypatch.context() as patch:
                stop_at(patch, deaths + 1, "pwrite", "replace")
                main(buffer(data, out, together))
            break
        except Killed:
            deaths += 1
        assert not out.exists()
        assert main(buffer(data, out, together)) == 0
        assert rows(out) == shards(together)
    # rows of both experts after 0 to 2 epochs, each with its checksum, checkpoints (of both or
    # each) after the first one, the header, and the shard put in place
    assert deaths == 2 * 3 * 2 + (1 if together == "yes" else 2) + 1 + 1


def test_rows_are_on_the_disk_before_the_checkpoint_that_counts_on_them(
    data, tmp_path, monkeypatch
):
    """A machine that stops must not leave a checkpoint of rows that were never written."""
    done, fsync, replace = [], os.fsync, os.replace

    def syncing(descriptor):
        done.append(os.readlink(f"/proc/self/fd/{descriptor}").rpartition("/")[2])
        fsync(descriptor)

    def replacing(source, target):
        done.append(f"-> {target.name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(os, "replace", replacing)
    assert main(buffer(data, tmp_path / "shard.safetensors")) == 0
    kept, rows = "-> .shard.safetensors.state", ".shard.safetensors.partial"
    assert done.count(kept) == 2 and done[-2:] == [rows, "-> shard.safetensors"]
    for at in (index for index, what in enumerate(done) if what == kept):
        assert done[at - 2] == rows  # then the checkpoint's own bytes, then its name


def test_buffer_of_other_settings(data, shards, tmp_path, monkeypatch, capsys):
    """What was kept of other settings, or without its rows, is set aside."""
    for lost in (False, True):
        out = tmp_path / str(lost) / "shard.safetensors"
        with monkeypatch.context() as patch:
            stop_at(patch, 11, "pwrite")
            with pytest.raises(Killed):
                main(buffer(data, out, lr=0.05 if lost else 0.04))
        if lost:
            out.with_name(f".{out.name}.partial").unlink()
        capsys.readouterr()
        assert main(buffer(data, out)) == 0
        assert "starting anew" in capsys.readouterr().out
        assert rows(out) == shards("no")


def test_buffer_with_a_damaged_checkpoint(data, shards, tmp_path, monkeypatch, capsys):
    for number, damage in enumerate((b"", b"\x00\xff" * 500)):
        out = tmp_path / str(number) / "shard.safetensors"
        with monkeypatch.context() as patch:
            stop_at(patch, 11, "pwrite")
            with pytest.raises(Killed):
                main(buffer(data, out))
        out.with_name(f".{out.name}.state").write_bytes(damage)
        capsys.readouterr()
        assert main(buffer(data, out)) == 0
        assert "starting anew" in capsys.readouterr().out
        assert rows(out) == shards("no")


def evaluate(data, alone, out, *more):
    """The command of a small evaluation, its networks trained in turn."""
    made = alone("dm") / "it25.safetensors"
    what = ["--synthetic", str(made), "--data", str(data), "--out", str(out), "--threads", "1"]
    how = ["--together", "no", "--networks", "4", "--epochs", "40", "--width-factor", "0.1"]
    return ["evaluate", *what, *how, "--arch", "convnet", "mlp", "--device", "cpu", *more]


def results(path):
    """The rows of an evaluation without the wall time."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in load_rows(path)]


def test_evaluation_killed_in_the_middle(data, alone, tmp_path):
    out, partial = tmp_path / "e.csv", tmp_path / ".e.csv.partial.json"
    kill_when(partial.exists, evaluate(data, alone, out))
    assert not out.exists()
    kept = json.loads(partial.read_text())["rows"]
    assert 0 < len(kept) < 8
    assert main(evaluate(data, alone, out)) == 0
    assert main(evaluate(data, alone, tmp_path / "alone.csv")) == 0
    assert results(out) == results(tmp_path / "alone.csv")
    assert len(results(out)) == 8
    # finished networks were not trained again: their wall time is the one measured then
    times = [float(row["seconds"]) for row in load_rows(out)]
    assert times[: len(kept)] == [row["seconds"] for row in kept]
    assert not partial.exists()


@pytest.mark.parametrize("call", [3, 6])
def test_distillation_at_evaluation_goes_on(call, data, alone, tmp_path, monkeypatch):
    """Teachers of networks that were finished before the death are the same again."""
    out, kd = tmp_path / "e.csv", ("--protocol", "kd", "--teacher", "lenet", "--temperature", "2")
    with monkeypatch.context() as patch:
        stop_at(patch, call)
        with pytest.raises(Killed):
            main(evaluate(data, alone, out, *kd))
    assert main(evaluate(data, alone, out, *kd)) == 0
    assert main(evaluate(data, alone, tmp_path / "alone.csv", *kd)) == 0
    assert results(out) == results(tmp_path / "alone.csv")
    assert len({row["teacher_accuracy"] for row in results(out)}) > 1


def test_evaluation_of_something_else(data, alone, tmp_path, monkeypatch, capsys):
    """Rows of other settings, and a broken file of rows, are set aside."""
    out, partial = tmp_path / "e.csv", tmp_path / ".e.csv.partial.json"
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(Killed):
            main(evaluate(data, alone, out))
    rows = partial.read_text()
    assert main(evaluate(data, alone, tmp_path / "alone.csv", "--lr", "0.02")) == 0
    for text in (rows, rows[: len(rows) // 2], "[]"):
        partial.write_text(text)
        assert main(evaluate(data, alone, out, "--lr", "0.02")) == 0
        assert "starting anew" in capsys.readouterr().out
        assert results(out) == results(tmp_path / "alone.csv")


def test_global_randomness_is_left_alone(data, alone, tmp_path):
    """A run neither reads nor moves torch's global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        assert main(distill(data, "pool", tmp_path / "pool", [3])) == 0
        csv = tmp_path / "e.csv"
        assert main(evaluate(data, alone, csv, "--networks", "1", "--epochs", "2")) == 0
        assert torch.equal(torch.get_rng_state(), before)
    assert images(tmp_path / "pool", [3])[3] == images(alone("pool"))[3]
