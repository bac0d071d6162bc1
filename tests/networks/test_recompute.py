"""Activations that are computed twice: the same gradients and statistics, in less memory."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dd.networks.base import SpatialNetwork
from dd.networks.batchnorm import has_batch_norm
from dd.networks.memory import on_meta
from dd.networks.recompute import can_recompute, recomputing, segments
from dd.rng import generator
from dd.runtime import precision
from dd.runtime.memory import peak_bytes
from tests.support.networks import perturbed, small

BATCHED = ["resnet18_bn", "vgg11_bn", "convnet:norm=batch", "googlenet", "resnet18_tv"]
IMAGES = torch.randn(3, 3, 32, 32, generator=generator(1), dtype=torch.float64)


def step(network, forward, images=IMAGES):
    """Logits, gradients and what batch norm recorded."""
    network.train()
    logits = precision.forward(forward, images)
    logits.square().sum().backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    return [logits.detach(), *gradients, *network.buffers()]


@pytest.mark.parametrize("spec", BATCHED)
def test_the_same_bit_for_bit(spec):
    one = perturbed(spec)
    other = copy.deepcopy(one)
    assert has_batch_norm(one) and can_recompute(one)
    found = step(other, lambda images: recomputing(other, images))
    for a, b in zip(step(one, one), found, strict=True):
        assert torch.equal(a, b)


def test_the_same_in_bf16(monkeypatch):
    monkeypatch.setattr(precision, "_chosen", "bf16")
    one = small("resnet18_bn")
    other = copy.deepcopy(one)
    found = step(other, lambda images: recomputing(other, images), IMAGES.float())
    for a, b in zip(step(one, one, IMAGES.float()), found, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("spec", "share"), [("resnet18_bn", 0.6), ("googlenet", 0.5)])
def test_it_takes_less_memory(spec, share):
    network = on_meta(small(spec)).train()
    images = torch.zeros(64, 3, 32, 32, device="meta")
    plain, again = (
        peak_bytes(lambda f=forward: f(images).sum().backward())
        for forward in (network, lambda x: recomputing(network, x))
    )
    assert again < share * plain


def test_segments():
    body = nn.Sequential(
        nn.Conv2d(3, 3, 1),
        nn.ReLU(inplace=True),
        nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 1)), nn.Sequential(nn.Conv2d(3, 3, 1))),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 3, 1),
    )
    kinds = [[type(layer).__name__ for layer in part] for part in segments(body)]
    assert kinds == [
        ["Conv2d", "ReLU"], ["Conv2d"], ["Conv2d", "MaxPool2d"], ["Conv2d"],
    ]  # fmt: skip
    flat = [layer for part in segments(small("vgg11_bn").body) for layer in part]
    assert len(flat) == len(small("vgg11_bn").body)


def test_who_has_segments():
    assert not can_recompute(small("vit"))
    assert isinstance(small("lenet"), SpatialNetwork)
