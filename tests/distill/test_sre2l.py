"""SRe2L's recovery against the loss written out in float64, its steps, and networks it refuses."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dd.config import recipes
from dd.config.settings import build
from dd.data.views import draw_boxes, resized_crops
from dd.distill.objectives import OBJECTIVES
from dd.distill.objectives.base import Streams
from dd.distill.objectives.sre2l import Recovery, statistics_distance, watched
from dd.distill.parametrisations.base import Parametrisation
from dd.distill.parametrisations.pixels import Pixels
from dd.errors import DDError
from dd.networks.build import create
from dd.networks.source import SingleSource
from dd.rng import generator

SPEC = "convnet:depth=2,norm=batch,width=8"


def trained(spec=SPEC):
    """A frozen network in float64 whose batch norms have seen something."""
    network = create(spec, 1, (8, 8), 10, generator=generator(1), width_factor=1.0).double()
    network.train()(torch.randn(64, 1, 8, 8, generator=generator(2), dtype=torch.float64) + 0.5)
    return network.eval().requires_grad_(False)


def recovery(digits, ipc=3, specs=(SPEC,), networks=None, **changes):
    settings = build(Recovery.Settings, recipes.resolve("sre2l", "digits", ipc, changes), "sre2l")
    networks = {spec: trained(spec) for spec in specs} if networks is None else networks
    source = SingleSource(specs[0], 1, (8, 8), 10, trained=networks)
    streams = Streams(0, *(generator(0, name) for name in ("host", "net", "start", "reg")))
    return OBJECTIVES["sre2l"](settings, digits, ipc, source, streams)


class Recorder(Parametrisation):
    """Images that stay where they are; keeps what they are moved by."""

    def __init__(self, images, labels):
        self.labels, self._images = labels, images

    def images(self):
        return self._images

    def update(self, gradient, factor=1.0):
        self.gradient, self.factor = gradient, factor

    def state(self):
        return {}

    load_state = None


def slow_distance(inputs, mean, variance):
    """The distance of the statistics of ``inputs [n, C, H, W]``, summed number by number."""
    squares = [0.0, 0.0]
    for channel in range(inputs.shape[1]):
        values = inputs[:, channel].flatten().tolist()
        found = sum(values) / len(values)
        spread = sum((v - found) ** 2 for v in values) / len(values)
        squares[0] += (found - float(mean[channel])) ** 2
        squares[1] += (spread - float(variance[channel])) ** 2
    return math.sqrt(squares[0]) + math.sqrt(squares[1])


def test_statistics_against_sums():
    network, seen = trained(), {}
    images = torch.randn(5, 1, 8, 8, generator=generator(3), dtype=torch.float64)
    layers = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(layers) == 2
    for layer in layers:
        layer.register_forward_hook(lambda layer, given, out: seen.update({layer: given[0]}))
    with watched(network) as distances:
        network(images)
    for layer, found in zip(layers, distances, strict=True):
        expected = slow_distance(seen[layer], layer.running_mean, layer.running_var)
        assert found.item() == pytest.approx(expected, rel=1e-12)
        assert statistics_distance(layer, seen[layer]).item() == found.item()
    with watched(network) as again:
        pass
    network(images)
    assert len(distances) == 2 and not again  # nothing watches once the context is left
    assert not any(layer._forward_pre_hooks for layer in layers)


def slow_loss(objective, images, network, stream):
    """The sum over batches of b / ipc (CE + r_bn Σ w R), from the description alone."""
    s, ipc, total = objective.settings, objective.ipc, 0.0
    order = [label * ipc + copy for copy in range(ipc) for label in range(10)]
    for first in range(0, len(order), s.batch_syn):
        part = order[first : first + s.batch_syn]
        box = draw_boxes(stream, 1, (8, 8), s.crop)
        flipped = torch.rand(1, generator=stream) < s.flip
        down, right = torch.randint(-s.jitter, s.jitter + 1, (2,), generator=stream).tolist()
        batch = resized_crops(images[part], box, flipped).roll((down, right), (2, 3))
        hidden, statistics = batch, 0.0
        for number, layer in enumerate(network.body):
            for piece in layer.modules():
                if isinstance(piece, nn.BatchNorm2d):
                    own = slow_distance(hidden, piece.running_mean, piece.running_var)
                    statistics += own * (s.first_bn if number < 3 else 1.0)
            hidden = layer(hidden)
        logits = network.classifier(network.pool(hidden).flatten(1))
        hard = sum(
            -float(F.log_softmax(row, 0)[i // ipc]) for i, row in zip(part, logits, strict=True)
        ) / len(part)
        total += len(part) / ipc * (hard + s.r_bn * statistics)
    return total


def test_gradient_by_finite_differences(digits):
    """Of one iteration with crops, flips, rolls and a last batch that is smaller."""
    network = trained()
    norms = [isinstance(layer, nn.BatchNorm2d) for layer in network.body]
    assert norms.index(True) < 3 and sum(norms) == 2  # as slow_loss takes them
    changes = {"crop": 0.3, "flip": 0.5, "jitter": 2, "batch_syn": 12, "r_bn": 0.7, "first_bn": 3.0}
    objective = recovery(digits, networks={SPEC: network}, **changes)
    images = torch.randn(30, 1, 8, 8, generator=generator(4), dtype=torch.float64)
    canvas = Recorder(images, objective.labels())
    values = objective.iteration(1, canvas)

    def loss(where):
        return slow_loss(objective, where, network, generator(0, "host"))

    assert values["loss"] == pytest.approx(loss(images) / 10, rel=1e-10)
    direction = torch.randn(images.shape, generator=generator(5), dtype=torch.float64)
    for step in (direction, direction * (torch.arange(30) == 29).view(-1, 1, 1, 1)):
        slope = (loss(images + 1e-6 * step) - loss(images - 1e-6 * step)) / 2e-6
        assert (canvas.gradient * step).sum().item() == pytest.approx(slope, rel=1e-6)


def test_steps_follow_adam_and_the_cosine(digits):
    """Two iterations of one batch by hand."""
    objective = recovery(digits, ipc=1, iterations=4, batch_syn=0, jitter=0)
    network = objective.networks.draw(0, None)[1]
    start = objective.start().double()
    canvas = Pixels(start, objective.labels(), 0.1, objective.optimizer)
    x, first, second = start.clone(), 0.0, 0.0
    layers = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for step in (1, 2):
        leaf = x.clone().requires_grad_(True)
        with watched(network) as distances:
            loss = F.cross_entropy(network(leaf), objective.labels()) * 10
        loss = loss + 10 * (10.0 * distances[0] + distances[1])
        (g,) = torch.autograd.grad(loss, leaf)
        first, second = 0.5 * first + 0.5 * g, 0.9 * second + 0.1 * g * g
        rate = 0.1 * (1 + math.cos(math.pi * (step - 1) / 4)) / 2
        x = x - rate * first / (1 - 0.5**step) / ((second / (1 - 0.9**step)).sqrt() + 1e-8)
        objective.iteration(step, canvas)
        torch.testing.assert_close(canvas.images(), x, rtol=1e-9, atol=1e-10)
    assert len(layers) == 2


def test_a_network_without_batch_norm(digits):
    plain = "convnet:depth=2,width=8"
    with pytest.raises(DDError, match=r"convnet:depth=2,width=8 has none.*resnet18_bn.*r_bn"):
        recovery(digits, specs=(plain,))
    objective = recovery(digits, ipc=1, specs=(plain,), r_bn=0.0)
    canvas = Recorder(objective.start().double(), objective.labels())
    assert objective.iteration(1, canvas)["statistics"] == 0.0
    assert canvas.gradient.abs().sum() > 0
