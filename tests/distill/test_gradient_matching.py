"""The DC distance and gradient matching against plain loops and finite differences."""

import math

import pytest
import torch
import torch.nn.functional as F

from dd.distill.gradients import distance, match_apart, match_together, mean_gradient
from dd.networks.batchnorm import freeze_batch_statistics
from dd.networks.build import create
from dd.rng import generator


def slow_distance(real, synthetic, eps=1e-6):
    """Row by row with Python floats, as the paper's eq. 10 reads with the code's eps."""
    total = 0.0
    for a, b in zip(real, synthetic, strict=True):
        if a.ndim < 2:
            continue
        for row_a, row_b in zip(a.flatten(1).tolist(), b.flatten(1).tolist(), strict=True):
            product = sum(x * y for x, y in zip(row_a, row_b, strict=True))
            norms = math.hypot(*row_a) * math.hypot(*row_b)
            total += 1 - product / (norms + eps)
    return total


def random_gradients(seed, scale=1.0):
    stream = generator(seed, "gradients")
    shapes = [(4, 3, 3, 3), (4,), (4, 2, 2), (5, 16), (5,)]
    return [scale * torch.randn(shape, generator=stream, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize("scale", [1.0, 1e-3, 0.0])
def test_distance_against_a_plain_loop(scale):
    real, synthetic = random_gradients(0), random_gradients(1, scale)
    assert distance(real, synthetic).item() == pytest.approx(slow_distance(real, synthetic), 1e-12)


def test_distance_by_hand():
    # rows (3, 4) and (4, 3): cosine 24 / 25; rows (1, 0) and (0, 2): cosine 0; the bias counts 0
    real = [torch.tensor([[3.0, 4.0], [1.0, 0.0]]).double(), torch.tensor([9.0]).double()]
    synthetic = [torch.tensor([[4.0, 3.0], [0.0, 2.0]]).double(), torch.tensor([-9.0]).double()]
    expected = (1 - 24 / (25 + 1e-6)) + 1
    assert distance(real, synthetic).item() == pytest.approx(expected, 1e-12)


def test_distance_ignores_scale_but_for_eps():
    real = random_gradients(0)
    assert distance(real, [1000 * g for g in real]).item() == pytest.approx(0, abs=1e-4)
    rows = sum(len(g) for g in real if g.ndim > 1)
    assert distance(real, [-g for g in real]).item() == pytest.approx(2 * rows, 1e-6)


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_mean_gradient_in_pieces(chunk):
    network = create("convnet:width=4", 1, (8, 8), 3, generator=generator(0)).double()
    images = torch.randn(7, 1, 8, 8, generator=generator(1), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 2])
    whole = torch.autograd.grad(
        F.cross_entropy(network(images), labels), list(network.parameters())
    )
    for ours, theirs in zip(mean_gradient(network, images, labels, chunk), whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def matching_problem(spec, ipc=2):
    network = create(spec, 1, (8, 8), 3, generator=generator(0), width_factor=1.0).double()
    real = torch.randn(3, 5, 1, 8, 8, generator=generator(1), dtype=torch.float64)
    synthetic = torch.randn(3, ipc, 1, 8, 8, generator=generator(2), dtype=torch.float64)
    freeze_batch_statistics(network, real.flatten(0, 1))
    return network, real, synthetic


SPECS = [
    "convnet:width=4",
    "convnet:width=4,norm=batch,activation=swish,pooling=max",
    "convnet:width=4,norm=layer,activation=sigmoid",
    "convnet:width=4,norm=group,activation=leakyrelu",
    "mlp:width=6",
]


@pytest.mark.parametrize("spec", SPECS)
def test_matching_against_a_plain_loop_and_finite_differences(spec):
    network, real, synthetic = matching_problem(spec)

    def slow(images):
        total = 0.0
        for label in range(3):
            gradients = []
            for batch in (real[label], images[label]):
                labels = torch.full((len(batch),), label)
                loss = F.cross_entropy(network(batch), labels)
                gradients.append(torch.autograd.grad(loss, list(network.parameters())))
            total += slow_distance(*gradients)
        return total

    loss, gradients = match_apart(network, real, list(synthetic))
    gradient = torch.stack(gradients)
    assert loss.item() == pytest.approx(slow(synthetic), 1e-10)
    step = 1e-5
    for seed in range(4):
        direction = torch.randn(
            synthetic.shape, generator=generator(seed, "direction"), dtype=torch.float64
        )
        numeric = (slow(synthetic + step * direction) - slow(synthetic - step * direction)) / (
            2 * step
        )
        assert (gradient * direction).sum().item() == pytest.approx(numeric, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("ipc", [1, 3])
def test_together_is_apart(spec, ipc):
    network, real, synthetic = matching_problem(spec, ipc)
    loss, gradients = match_apart(network, real, list(synthetic))
    together_loss, together = match_together(network, real, synthetic)
    torch.testing.assert_close(together_loss, loss, rtol=1e-11, atol=0)
    torch.testing.assert_close(together, torch.stack(gradients), rtol=1e-8, atol=1e-10)


def test_matching_leaves_the_network_alone():
    network, real, synthetic = matching_problem(SPECS[1])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    match_apart(network, real, list(synthetic))
    match_together(network, real, synthetic)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in network.parameters())
