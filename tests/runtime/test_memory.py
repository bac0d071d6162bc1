"""Bytes that are alive at a time, by hand; sizes that are halved where a GPU's memory runs out."""

from __future__ import annotations

import math

import pytest
import torch

from dd.runtime.memory import Fitting, available, halved, in_pieces, peak_bytes
from tests.support.pretended_gpu import pretended_gpu

MIB = 2**20


def floats(mebibytes, device="meta"):
    return torch.zeros(mebibytes, MIB // 4, device=device)


def one_after_the_other():
    floats(3)
    floats(2)


def side_by_side():
    kept = floats(3)
    view = kept[1:].flatten()  # of the same memory
    return floats(2), view


def in_place():
    floats(3).add_(1).relu_()


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize(
    ("work", "mebibytes"), [(one_after_the_other, 3), (side_by_side, 5), (in_place, 3)]
)
def test_what_is_alive_at_a_time(work, mebibytes, device, monkeypatch):
    monkeypatch.setattr(f"{__name__}.floats", lambda n: torch.zeros(n, MIB // 4, device=device))
    assert peak_bytes(work) == mebibytes * MIB


def test_what_autograd_keeps_counts():
    def forth_and_back():
        x = floats(4).requires_grad_()
        y = x.exp().exp()  # keeps both results
        y.sum().backward()

    # on the way back there are x, both results, and the gradients by the first result and by x
    assert peak_bytes(forth_and_back) // MIB == 5 * 4


def test_small_tensors_take_a_block():
    assert peak_bytes(lambda: [torch.zeros(1, device="meta") for _ in range(3)]) == 3 * 512


def test_the_cpu_has_no_limit():
    assert available(torch.device("cpu")) == math.inf


def test_a_gpu_has_what_is_free():
    with pretended_gpu(memory=10 * MIB):
        device = torch.device("cuda")
        assert available(device) == pytest.approx(0.9 * 10 * MIB)
        kept = floats(4, "cuda")
        assert available(device) == pytest.approx(0.9 * 6 * MIB)
        del kept
        assert available(device) == pytest.approx(0.9 * 10 * MIB)


def test_what_this_process_keeps_for_itself_is_free_too(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 300)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 200)
    assert available(torch.device("cuda")) == pytest.approx(0.9 * 200)


def small(most, error=torch.OutOfMemoryError):
    """A computation for which more than ``most`` are too many."""
    tried = []

    def work(size):
        tried.append(size)
        if size > most:
            raise error(f"CUDA out of memory: {size}")
        return f"{size} done"

    return work, tried


@pytest.mark.parametrize(
    ("size", "most", "sizes"),
    [(8, 8, [8]), (8, 3, [8, 4, 2]), (5, 2, [5, 3, 2]), (3, 1, [3, 2, 1])],
)
@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_halves_until_it_fits(size, most, sizes, error, capsys):
    work, tried = small(most, error)
    assert halved(work, size, "things") == (f"{sizes[-1]} done", sizes[-1])
    assert tried == sizes
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == (len(sizes) > 1)  # one line for all halvings
    for line in lines:
        assert f"{size} things" in line and str(sizes[-1]) in line


def test_one_that_does_not_fit_is_an_error():
    work, tried = small(0)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory: 1"):
        halved(work, 4)
    assert tried == [4, 2, 1]


@pytest.mark.parametrize("error", [ValueError("CUDA out of memory"), RuntimeError("shapes differ")])
def test_other_errors_are_not_tried_again(error):
    tried = []

    def work(size):
        tried.append(size)
        raise error

    with pytest.raises(type(error)):
        halved(work, 4)
    assert tried == [4]


def test_what_failed_holds_no_memory():
    """The tensors of the failed attempt are gone before the next one."""
    with pretended_gpu(memory=10 * MIB):

        def work(size):
            kept = [floats(1, "cuda") for _ in range(size)]
            return len(kept)

        assert halved(work, 16) == (8, 8)
        assert available(torch.device("cuda")) == pytest.approx(0.9 * 10 * MIB)


@pytest.mark.parametrize("items", [list(range(10)), torch.arange(10)])
def test_pieces_stay_small_once_they_had_to_be(items):
    tried = []

    def work(piece):
        tried.append(len(piece))
        if len(piece) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [10 * int(item) for item in piece]

    made = list(in_pieces(items, 8, work))
    assert tried == [8, 4, 2, 2, 2, 2, 2]
    assert [list(map(int, piece)) for piece, _ in made] == [[n, n + 1] for n in range(0, 10, 2)]
    assert [value for _, result in made for value in result] == [10 * n for n in range(10)]


def test_a_size_that_fitted_is_kept():
    """From one pass over the things to the next, too; a small pass does not make it smaller."""
    tried, fitting = [], Fitting(8)

    def work(piece):
        tried.append(len(piece))
        if len(piece) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    for items in (range(4), range(1), range(4)):
        assert len(list(fitting.pieces(items, work))) == -(-len(items) // 2)
    assert tried == [4, 2, 2, 1, 2, 2]


def test_a_small_last_piece_makes_no_later_one_smaller():
    assert [len(piece) for piece, _ in in_pieces(range(10), 4, len)] == [4, 4, 2]
    assert list(in_pieces([], 4, len)) == []
