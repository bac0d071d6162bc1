"""Many small tensors by one copy: the same values, shapes and types."""

from __future__ import annotations

import pytest
import torch

from dd.data import augment, transfer
from dd.rng import generator
from tests.support.pretended_gpu import pretended_gpu

GPU, CPU = torch.device("cuda"), torch.device("cpu")
MANY = [
    torch.tensor([True, False, True]),
    torch.tensor([[1.5, -0.0], [torch.inf, torch.nan]]),
    torch.tensor(-3),
    torch.arange(6).view(2, 3).T,  # not contiguous
    torch.tensor([], dtype=torch.float64),
    torch.tensor([2.0**-1074], dtype=torch.float64),
    torch.tensor([-7], dtype=torch.int16),
    torch.tensor([0.1], dtype=torch.bfloat16),
]


def same(one, other):
    """Bit for bit, a NaN too."""
    assert (one.dtype, one.shape) == (other.dtype, other.shape)
    one, other = (x.contiguous().flatten().view(torch.uint8) for x in (one, other))
    return torch.equal(one, other)


@pytest.mark.parametrize("order", [MANY, MANY[::-1], MANY[:1], MANY[4:5], []])
def test_by_one_copy(order):
    with pretended_gpu() as traffic:
        found = transfer.moved(order, GPU)
        assert traffic.copies == min(1, len(order)) and traffic.reads == 0
        assert all(tensor.is_cuda for tensor in found)
        assert all(same(a.cpu(), b) for a, b in zip(found, order, strict=True))


def test_on_the_cpu_nothing_is_copied():
    assert all(a is b for a, b in zip(transfer.moved(MANY, CPU), MANY, strict=True))


STRATEGIES = [
    "none",
    "color_crop_cutout_flip_scale_rotate",
    "dc:crop_scale_rotate_noise",
    "dc:noise",
    "all:resized_color_crop_cutout_flip_scale_rotate",
]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_moved_transforms_do_the_same(strategy, shared):
    stream = generator(0, "images")
    batches = [torch.randn(5, 3, 8, 8, generator=stream) for _ in range(4)]
    drawn = [augment.draw(strategy, generator(n), 5, (8, 8), shared) for n in range(4)]
    expected = [augment.apply(t, x) for t, x in zip(drawn, batches, strict=True)]
    numbers = torch.arange(3)
    with pretended_gpu() as traffic:
        transforms, (other,) = augment.moved(drawn, GPU, numbers)
        assert (traffic.reads, traffic.copies) == (0, 1)
        there = [batch.to(GPU) for batch in batches]
        sent = traffic.copies
        found = [augment.apply(t, x) for t, x in zip(transforms, there, strict=True)]
        assert traffic.reads == 0
        # values of noise are drawn on the CPU when their number is known
        assert traffic.copies - sent <= (len(drawn) if "noise" in strategy else 0)
        assert torch.equal(other.cpu(), numbers)
        assert all(torch.equal(a.cpu(), b) for a, b in zip(found, expected, strict=True))
