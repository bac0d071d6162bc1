"""Optimisers are torch's, step by step, to rounding."""

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


def _trained(kind, way, dtype, **more):
    """A weight and a bias after four steps."""
    stream = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 4, generator=stream).to(dtype).requires_grad_(True)
    bias = torch.randn(3, generator=stream).to(dtype).requires_grad_(True)
    groups = [{"params": [weight]}, {"params": [bias], "weight_decay": 0.0}]
    made = kind(groups, **way, **more)
    for _ in range(4):
        made.zero_grad()
        (weight @ torch.arange(4.0, dtype=dtype) + bias).square().sum().backward()
        made.step()
    assert weight.grad is not None and weight.requires_grad and weight.is_leaf
    return [weight.detach(), bias.detach()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", WAYS)
def test_steps_are_those_of_torch(name, dtype):
    ours = _trained(getattr(optimizers, name), WAYS[name], dtype)
    theirs = _trained(getattr(torch.optim, name), WAYS[name], torch.float64, foreach=False)
    precision = {torch.float32: 1e-6, torch.float64: 1e-14}[dtype]
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own.double(), other, rtol=precision, atol=precision)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_a_step_on_a_cpu_is_one_pass(name):
    for device, fused in (("cpu", True), ("meta", None)):
        made = getattr(optimizers, name)([torch.zeros(2, device=device)], **WAYS[name])
        made.add_param_group({"params": [torch.zeros(3, device=device)]})
        assert [group["fused"] for group in made.param_groups] == [fused, fused]


def test_all_are_optimisers_of_torch():
    for kind in (optimizers.SGD, optimizers.Adam, optimizers.AdamW, Lamb):
        assert issubclass(kind, torch.optim.Optimizer) and issubclass(kind, optimizers.Optimizer)
