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
from dd.training.ensemble import Single
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


def test_a_layer_in_two_places_is_in_two_segments():
    relu = nn.ReLU()
    body = nn.Sequential(nn.Conv2d(3, 3, 1), relu, nn.Conv2d(3, 3, 1), relu)
    assert [[*part] for part in segments(body)] == [[body[0], relu], [body[2], relu]]


def test_who_has_segments():
    assert not can_recompute(small("vit"))
    assert isinstance(small("lenet"), SpatialNetwork)


class Own(SpatialNetwork):
    """A network as the author of a plug-in writes it."""

    def __init__(self, layer: nn.Module | None = None, neck: nn.Module | None = None) -> None:
        super().__init__((32, 32), grain=8)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 8, stride=8), nn.BatchNorm2d(8), layer or nn.ReLU()
        )
        self.pool = neck or nn.Identity()
        self.classifier = nn.Linear(8 * 4 * 4, 10)


class OwnFeatures(Own):
    def features(self, x):
        return 2 * super().features(x)


class OwnEmbedding(Own):
    def embed(self, x):
        return 2 * super().embed(x)


class OwnForward(Own):
    def forward(self, x):
        return 2 * super().forward(x)


class OwnHead(Own):
    """Only :meth:`forward` counts, which does without it."""

    def head(self, maps):
        return 2 * super().head(maps)


class Doubling(nn.Sequential):
    def forward(self, x):
        return 2 * super().forward(x)


class OwnBody(Own):
    def __init__(self) -> None:
        super().__init__()
        self.body = Doubling(*self.body)


class OwnFitting(Own):
    def fitted(self, x):
        return 2 * super().fitted(x)


class OwnNeck(Own):
    def neck(self, maps):
        return 2 * super().neck(maps)


def drawn(network):
    torch.manual_seed(0)
    return network.double()


@pytest.mark.parametrize("kind", [OwnFeatures, OwnEmbedding, OwnForward, OwnHead, OwnBody])
def test_a_network_that_goes_its_own_way_is_not_recomputed(kind):
    network = drawn(kind())
    found, expected = recomputing(network, IMAGES), network(IMAGES)
    assert not torch.allclose(found, expected)  # it would be another function
    assert not can_recompute(network)


@pytest.mark.parametrize("kind", [Own, OwnFitting, OwnNeck])
def test_what_both_ways_call_may_be_its_own(kind):
    one = drawn(kind())
    other = copy.deepcopy(one)
    assert can_recompute(one)
    found = step(other, lambda images: recomputing(other, images))
    for a, b in zip(step(one, one), found, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout(), nn.Sequential(nn.Dropout()), nn.RReLU(),
        nn.FractionalMaxPool2d(1, output_size=4),
    ],
)  # fmt: skip
def test_layers_that_draw_numbers_are_not_recomputed(layer):
    assert has_batch_norm(Own(layer)) and not can_recompute(Own(layer))


def test_a_neck_is_computed_once_and_may_draw_numbers():
    one = drawn(Own(neck=nn.Dropout()))
    other = copy.deepcopy(one)
    assert can_recompute(one)
    torch.manual_seed(1)
    expected = step(one, one)
    torch.manual_seed(1)
    found = step(other, lambda images: recomputing(other, images))
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a, b)


def test_one_that_does_not_fit_ends_with_one_error():
    """As other networks that cannot be recomputed: the shortage is not hidden."""
    students, tried = Single([Own(nn.Dropout())]), []

    def work(size):
        tried.append(size)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with pytest.raises(torch.OutOfMemoryError):
        students.fitting(work, 8)
    assert tried == [8] and not students.recomputes
