"""Stages on a pretended GPU with little memory: the results are those of one that has enough."""

from __future__ import annotations

import pytest
import torch

from benchmarks.every_stage import COMMANDS, differences, results, target, words
from dd.command import main
from dd.networks import memory as passes
from dd.training import memory as trainings
from tests.support.pretended_gpu import MEMORY, pretended_gpu
from tests.support.resuming import Killed, stop_at

GPU = torch.device("cuda")


@pytest.fixture
def run(stage_files, tmp_path, monkeypatch):
    """``run(name, memory)``: the path of the results and the most memory that they took."""
    monkeypatch.setattr("dd.runtime.process.take_gpu", lambda: None)
    count = 0

    def running(name, memory=MEMORY, out=None, more="", ends=0):
        nonlocal count
        count += 1
        command = f"{COMMANDS[name]} {more}"
        out = out or target(command, tmp_path / str(count))
        with pretended_gpu(memory=memory):
            assert main(words(command, stage_files, out, "cuda")) == ends
            return out, torch.cuda.max_memory_allocated(GPU)

    return running


def assert_alike(one, other):
    """Up to rounding, since networks in a stack add up in another order."""
    for what in differences(one, other):
        if isinstance(one[what], torch.Tensor) and not what.startswith("crc32"):
            torch.testing.assert_close(one[what], other[what], rtol=1e-4, atol=1e-5)
        else:
            assert what.startswith("crc32"), what  # checksums of what differs by rounding


@pytest.mark.parametrize(
    ("name", "share"),
    [
        *((n, 0.7) for n in ("evaluate, stacked", "buffer, stacked", "dm", "relabel, mixed")),
        *(pytest.param(n, 0.8, marks=pytest.mark.slow) for n in ("evaluate, kd", "pretrain")),
        pytest.param("evaluate, soft, mixed", 0.8, marks=pytest.mark.slow),
    ],
)
def test_less_memory_gives_the_same(name, share, run, capsys):
    """Counting makes smaller groups and pieces, or errors do."""
    reference, most = run(name)
    capsys.readouterr()
    found, _ = run(name, share * most)
    assert_alike(results(found), results(reference))


@pytest.mark.parametrize("name", ["evaluate, stacked", "buffer, stacked"])
@pytest.mark.parametrize("counted", [True, False])
def test_groups_get_smaller(name, counted, run, monkeypatch, capsys):
    """By counting, or, if counting were wrong, by the error; in one line in both cases."""
    alone, least = run(name, more="--together no")
    _, most = run(name)
    assert most > least
    if not counted:
        monkeypatch.setattr(trainings, "available", lambda device: float("inf"))
    capsys.readouterr()
    found, _ = run(name, (least + most) / 2)
    assert_alike(results(found), results(alone))
    said = [line for line in capsys.readouterr().out.splitlines() if "memory of the GPU" in line]
    what = "networks of" if name.startswith("evaluate") else "experts"
    assert said and all(what in line for line in said) and len(set(said)) == len(said)
    assert all(("going on with 1" in line) != counted for line in said)


@pytest.mark.parametrize("more_memory", [False, True])
def test_a_buffer_that_goes_on_with_other_memory(more_memory, run, tmp_path, monkeypatch, capsys):
    """With less: two experts were begun together, and begin anew one by one. With more: the expert
    that was begun alone ends alone."""
    more = "--checkpoint-every 0"
    alone, least = run("buffer, stacked", more=f"{more} --together no")
    _, most = run("buffer, stacked", more=more)
    memories = [MEMORY, (least + most) / 2]
    first, second = reversed(memories) if more_memory else memories
    out = tmp_path / "again.safetensors"
    with pytest.raises(Killed), monkeypatch.context() as patch:
        stop_at(patch, 2)
        run("buffer, stacked", first, out=out, more=more)
    capsys.readouterr()
    run("buffer, stacked", second, out=out, more=more)
    said = capsys.readouterr().out
    assert ("going on after 1 expert-epochs" if more_memory else "going on after") in said
    assert ("2 experts at a time are too many" in said) != more_memory
    assert_alike(results(out), results(alone))


@pytest.mark.parametrize("name", ["relabel, mixed", "erase", "evaluate, apart", "generator"])
@pytest.mark.parametrize("memory", [MEMORY, MEMORY / 4])
def test_pieces_go_by_bytes(name, memory, run, monkeypatch):
    """As many images as 4 GB have room for, or nine tenths of what is left where that is less."""
    sizes = []
    piece_of = passes.piece_of

    def spied(each, device):
        sizes.append((each, piece_of(each, device)))
        return 5

    for module in ("dd.networks.memory", "dd.pretrain.generator"):
        monkeypatch.setattr(f"{module}.piece_of", spied)
    small, _ = run(name, memory)
    left = 0.9 * memory
    assert sizes and all(size <= min(4e9, left) // each for each, size in sizes)
    bound = 4e9 if left > 4e9 else 0.99 * left  # a little is taken before
    assert all(size >= int(bound // each) for each, size in sizes)
    monkeypatch.undo()
    monkeypatch.setattr("dd.runtime.process.take_gpu", lambda: None)
    assert_alike(results(small), results(run(name)[0]))


def test_a_gpu_without_any_memory_is_one_line(run, capsys):
    run("evaluate, stacked", 20_000, ends=1)
    said = capsys.readouterr().err
    assert said.count("error: out of memory (CUDA out of memory") == 1 and "GPU" in said
