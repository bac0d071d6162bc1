"""Optimisers are torch's, step by step."""

from __future__ import annotations

import pytest
import torch

from dd.training import optimizers
from dd.training.lamb import Lamb

WAYS = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
    "Adam": {"lr": 0.1, "betas": (0.5, 0.9)},
    "AdamW": {"lr": 0.1, "weight_decay": 0.02},
}


@pytest.mark.parametrize("name", WAYS)
def test_steps_are_those_of_torch(name):
    def trained(kind):
        stream = torch.Generator().manual_seed(0)
        weight = torch.randn(3, 4, generator=stream).requires_grad_(True)
        bias = torch.randn(3, generator=stream).requires_grad_(True)
        groups = [{"params": [weight]}, {"params": [bias], "weight_decay": 0.0}]
        made = kind(groups, **WAYS[name])
        for _ in range(4):
            made.zero_grad()
            (weight @ torch.arange(4.0) + bias).square().sum().backward()
            made.step()
        assert weight.grad is not None and weight.requires_grad and weight.is_leaf
        return [weight.detach(), bias.detach()]

    ours, theirs = (trained(getattr(where, name)) for where in (optimizers, torch.optim))
    assert all(map(torch.equal, ours, theirs))


def test_all_are_optimisers_of_torch():
    for kind in (optimizers.SGD, optimizers.Adam, optimizers.AdamW, Lamb):
        assert issubclass(kind, torch.optim.Optimizer) and issubclass(kind, optimizers.Optimizer)
