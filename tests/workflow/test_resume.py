"""Distillations killed and started again: the same bytes as one left alone (CPU)."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil

import pytest
import torch

from dd.artifacts.headers import read_header
from dd.command import main
from dd.distill.objectives.dm import DistributionMatching
from tests.support.resuming import (
    METHODS,
    SNAPSHOTS,
    Killed,
    assert_same,
    distill,
    evaluate,
    images,
    kill_when,
    metrics,
    stop_at,
)


@pytest.mark.slow
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


@pytest.mark.slow
def test_methods_differ(alone):
    """The bytes compared here are those of the method."""
    assert len({images(alone(method))[25] for method in METHODS}) == len(METHODS)
    drawn = {row["network"] for row in metrics(alone("pool"))}
    assert len(drawn) == 3  # all of the pool, main model included


@pytest.mark.slow
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


@pytest.mark.parametrize("stream", ["host", "network", "start", "regulariser"])
def test_an_objective_may_draw_from_any_stream(stream, data, tmp_path, monkeypatch):
    """As docs/own.md says of one of a plug-in."""
    moved = DistributionMatching.iteration

    def drawing(self, number, synthetic):
        drawn = torch.rand((), generator=getattr(self.streams, stream)).item()
        return moved(self, number, synthetic) | {"drawn": drawn}

    monkeypatch.setattr(DistributionMatching, "iteration", drawing)
    for name, dies in (("alone", 0), ("killed", 2 + 2 * 2)):
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            stop_at(patch, dies)
            main(distill(data, "dm", tmp_path / name, [0, 4]))
    assert main(distill(data, "dm", tmp_path / "killed", [0, 4])) == 0
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "alone")


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


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_seeds(method, data, alone, tmp_path):
    """The same seed gives the same bytes, another seed others."""
    # which other snapshots are kept is all one, unless the rates fall until the last one
    snapshots = SNAPSHOTS if method in ("sre2l", "frepo") else SNAPSHOTS[:-1]
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
