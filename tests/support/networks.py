"""Networks small enough to test."""

from __future__ import annotations

import pytest
import torch

from dd.networks.architectures import from_torchvision
from dd.networks.build import create
from dd.rng import generator

VARIANTS = [
    "convnet:norm=batch",
    "convnet:norm=layer,pooling=max",
    "convnet:norm=group,activation=swish",
    "convnet:norm=none,activation=leakyrelu",
    "convnet:activation=sigmoid",
    "convnet:depth=2,pooling=none",
    "vit:depth=2,heads=2,patch=3,width=128",
]
TORCHVISION = ["alexnet_tv", "googlenet", "resnet18_tv", "vgg11_tv", "vit_b_16"]


def small(spec: str, channels: int = 3, size: tuple[int, int] = (32, 32), seed: int = 0):
    """A narrow network; of torchvision's, which are of fixed width, the hidden layers at least."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(from_torchvision, "HIDDEN", 32)
        return create(spec, channels, size, 10, generator=generator(seed), width_factor=1 / 16)


def perturbed(spec, size=(32, 32), channels=3):
    """A small network in float64 whose norms are not the identity."""
    network = small(spec, channels, size).double()
    rng = generator(5)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
            parameter.add_(0.3 * noise)
    return network
