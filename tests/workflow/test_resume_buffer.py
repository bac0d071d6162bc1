"""Buffers killed and started again: the same bytes as one left alone (CPU)."""

from __future__ import annotations

import os

import pytest

from dd.artifacts.headers import read_header
from dd.artifacts.tensors import load_tensors
from dd.command import main
from tests.support.resuming import Killed, buffer, kill_when, stop_at


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


@pytest.mark.slow
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


@pytest.mark.slow
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
    # each) after the first one, the header at both ends, and the shard put in place
    assert deaths == 2 * 3 * 2 + (1 if together == "yes" else 2) + 2 + 1


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
