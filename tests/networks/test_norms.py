"""Batch norm, recognised and frozen; layer norm."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dd.networks.architectures import NETWORKS
from dd.networks.batchnorm import freeze_batch_statistics, has_batch_norm
from dd.networks.layers import LayerNorm
from dd.rng import generator
from tests.support.networks import VARIANTS, small


def test_batch_norm_is_recognised():
    with_it = {spec for spec in [*NETWORKS, *VARIANTS] if has_batch_norm(small(spec))}
    torchvisions = {"resnet18_tv", "googlenet"}
    assert with_it == {"vgg11_bn", "resnet18_bn", "convnet:norm=batch"} | torchvisions


def test_frozen_statistics_are_a_blend_with_the_images():
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(2, 1))
    images = torch.tensor([[[[1.0, 2.0]]], [[[3.0, 6.0]]]])  # mean 3, unbiased variance 14 / 3
    freeze_batch_statistics(network.eval(), images)
    norm = network[0]
    assert norm.running_mean.item() == pytest.approx(0.1 * 3)
    assert norm.running_var.item() == pytest.approx(0.9 + 0.1 * 14 / 3)
    assert network.training and not norm.training
    other = torch.tensor([[[[10.0, 20.0]]]])
    expected = (other - 0.3) / math.sqrt(0.9 + 1.4 / 3 + 1e-5)
    torch.testing.assert_close(norm(other), expected)
    assert norm.running_mean.item() == pytest.approx(0.3)
    norm(other).sum().backward()
    assert norm.weight.grad is not None and norm.bias.grad is not None


def test_freezing_leaves_networks_without_batch_norm_alone():
    network = small("convnet").eval()
    freeze_batch_statistics(network, torch.zeros(2, 3, 32, 32))
    assert not network.training


def test_layer_norm_is_torchs():
    ours, theirs = LayerNorm([3, 4, 5]), torch.nn.LayerNorm([3, 4, 5])
    stream = generator(0)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, generator=stream)
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 4, 5, generator=stream)
    torch.testing.assert_close(ours(images), theirs(images))
