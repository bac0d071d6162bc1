"""Initial values: their distribution, and that they come from the generator alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dd.errors import DDError
from dd.networks.build import create
from dd.networks.init import initialise
from dd.rng import generator
from tests.support.networks import small


@pytest.mark.parametrize("layer", [nn.Conv2d(8, 64, 5), nn.Linear(50, 400)], ids=["conv", "linear"])
def test_initial_values_are_uniform_with_torchs_bounds(layer):
    fan_in = layer.weight[0].numel()
    theirs = layer.weight.detach().clone()
    initialise(layer, generator(0))
    ours = layer.weight.detach()
    bound = 1 / math.sqrt(fan_in)
    for tensor, share in [(ours, 0.999), (theirs, 0.999), (layer.bias.detach(), 0.9)]:
        assert share * bound < tensor.abs().max() <= bound
    # Kolmogorov and Smirnov: the distance of two samples' distributions, at the 1e-6 level.
    points = torch.linspace(-bound, bound, 201)
    distances = [
        torch.stack([(ours <= p).float().mean() - (theirs <= p).float().mean() for p in points]),
        torch.stack([(ours <= p).float().mean() for p in points]) - torch.linspace(0, 1, 201),
    ]
    for distance, scale in zip(distances, (2, 1), strict=True):
        assert distance.abs().max() < 2.69 * math.sqrt(scale / ours.numel())
    assert not torch.equal(ours, theirs)


def test_initial_deviations_of_torchvisions_networks():
    vgg, google, vit = (
        create(spec, 3, (32, 32), 10, generator=generator(0))
        for spec in ("vgg11_tv", "googlenet", "vit")
    )
    convolution = vgg.body[-2]
    assert convolution.weight.std().item() == pytest.approx(math.sqrt(2 / (512 * 9)), rel=0.01)
    assert vgg.hidden[0].weight.std().item() == pytest.approx(math.sqrt(2 / 512), rel=0.01)
    assert convolution.bias.eq(0).all() and vgg.classifier.bias.eq(0).all()
    assert google.classifier.weight.std().item() == pytest.approx(0.01, rel=0.03)
    assert vit.positions.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert convolution.weight.abs().max() > 3.5 * convolution.weight.std()  # not uniform


def test_norms_start_as_the_identity_and_statistics_are_reset():
    network = small("convnet:norm=batch")
    norm = network.body[1]
    network(torch.randn(4, 3, 32, 32, generator=generator(3)))
    with torch.no_grad():
        norm.weight.mul_(2)
        norm.bias.add_(1)
    before = [tensor.data_ptr() for tensor in network.state_dict().values()]
    initialise(network, generator(4))
    assert [tensor.data_ptr() for tensor in network.state_dict().values()] == before
    assert norm.weight.eq(1).all() and norm.bias.eq(0).all()
    assert norm.running_mean.eq(0).all() and norm.running_var.eq(1).all()
    assert norm.num_batches_tracked == 0


@pytest.mark.parametrize("spec", ["resnet18_bn", "resnet18_tv", "googlenet", "vit_b_16"])
def test_draws_come_from_the_generator_alone(spec):
    state = torch.get_rng_state()
    networks = [small(spec, seed=seed) for seed in (0, 0, 1)]
    initialise(networks[1], generator(0))
    assert torch.equal(torch.get_rng_state(), state)
    first, again, other = ([p.detach() for p in n.parameters()] for n in networks)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    stream = generator(0)
    initialise(networks[0], stream)
    initialise(networks[1], stream)
    assert not torch.equal(first[0], again[0])


def test_without_a_generator_all_parameters_are_zero():
    network = create("vgg11_bn", 3, (32, 32), 10, generator=None, width_factor=1 / 16)
    assert all(tensor.eq(0).all() for tensor in network.state_dict().values())


def test_a_layer_without_a_known_initialisation_is_refused():
    with pytest.raises(DDError, match="no initialisation is known for weight of PReLU; "):
        initialise(nn.Sequential(nn.Linear(2, 2), nn.PReLU()), generator(0))
