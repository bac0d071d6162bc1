"""Parameters that do not change a network's output, such as a bias right before a norm."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from dd.networks.base import Network
from dd.networks.flat import flat
from dd.networks.init import initialise
from dd.rng import generator

POINTS = 4  # number of random parameter vectors to try
IMAGES = 4  # number of random images for each
NOISE = 0.1  # moves parameters away from initial values of exactly 0 or 1
SLOPE = 0.5  # slope of ReLU below 0, see _spread
ROUNDING = 1e-10  # threshold for 0, relative to the root mean square of all derivatives


def inert(network: Network, channels: int, size: tuple[int, int]) -> Tensor:
    """Which parameters do not change the logits, whatever their values.

    The bias of a convolution before instance or batch norm is one (the norm subtracts the mean);
    before group or layer norm it is not. The key biases of attention are others (the softmax
    removes them). Instead of a list of such pairs, this computes derivatives. If a derivative is 0
    at random parameters and for random images, it is 0 everywhere, with probability 1. In float64,
    rounding makes it a value that is several orders of magnitude below all others.

    Args:
        network: a copy of it is examined, in training mode, on the CPU.
        channels, size: of the images ``[N, channels, *size]``.

    Returns:
        A mask ``[P]`` on the CPU in the order of the flat vector, the same on every machine.
    """
    network = copy.deepcopy(network).to("cpu", torch.float64).train()
    _spread(network)
    parameters = list(network.parameters())
    stream = generator(0, "inert")
    mask = torch.ones(sum(p.numel() for p in parameters), dtype=torch.bool)
    for _ in range(POINTS):
        initialise(network, stream)
        with torch.no_grad():
            for p in parameters:
                p.add_(NOISE * torch.randn(p.shape, generator=stream, dtype=p.dtype))
        images = torch.randn(IMAGES, channels, *size, generator=stream, dtype=torch.float64)
        logits = network(images)
        along = torch.randn(logits.shape, generator=stream, dtype=torch.float64)
        gradients = torch.autograd.grad(logits, parameters, along)
        sizes = flat(gradients).abs()
        mask &= sizes <= ROUNDING * sizes.square().mean().sqrt()
        if not mask.any():
            break
    return mask


def _spread(network: nn.Module) -> None:
    """Replace ReLU and max pooling, which can block derivatives.

    A unit whose ReLU is 0, or that is never the largest of its window, would make the parameters
    before it look inert.
    """
    for module in list(network.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, nn.ReLU):
                setattr(module, name, nn.LeakyReLU(SLOPE))
            elif isinstance(layer, nn.MaxPool2d):
                pool = (layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode)
                setattr(module, name, nn.AvgPool2d(*pool))
