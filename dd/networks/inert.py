"""Parameters that a network's answer does not depend on, such as a bias right before a norm."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from dd.networks.base import Network
from dd.networks.init import initialise
from dd.rng import generator

POINTS = 4  # random parameters that are tried
IMAGES = 4  # random images at each
NOISE = 0.1  # takes parameters away from the zeros and ones that some start at
SLOPE = 0.5  # of ReLU below 0, see _spread
ROUNDING = 1e-10  # times the root mean square of all derivatives; in between lie no others


def inert(network: Network, channels: int, size: tuple[int, int]) -> Tensor:
    """Which parameters leave the logits as they are, whatever their values.

    The bias of a convolution before instance or batch norm is one (the norm takes the mean away),
    before group or layer norm it is none; the key biases of attention are others (the softmax
    takes them away). No list of such pairs is kept: a derivative that is 0 at random parameters
    and for random images is 0 everywhere, with probability 1, and in float64 what rounding makes
    of it is several orders of magnitude below all others.

    Args:
        network: a copy of it is looked at, in training mode, on the CPU.
        channels, size: of the images ``[N, channels, *size]``.

    Returns:
        A mask ``[P]`` on the CPU in the order of the flat vector, the same on every machine.
    """
    network = copy.deepcopy(network).to("cpu", torch.float64).train()
    _spread(network)
    parameters = list(network.parameters())
    stream = generator(0, "inert")
    found = torch.ones(sum(p.numel() for p in parameters), dtype=torch.bool)
    for _ in range(POINTS):
        initialise(network, stream)
        with torch.no_grad():
            for p in parameters:
                p.add_(NOISE * torch.randn(p.shape, generator=stream, dtype=p.dtype))
        images = torch.randn(IMAGES, channels, *size, generator=stream, dtype=torch.float64)
        logits = network(images)
        along = torch.randn(logits.shape, generator=stream, dtype=torch.float64)
        gradients = torch.autograd.grad(logits, parameters, along)
        sizes = torch.cat([gradient.flatten() for gradient in gradients]).abs()
        found &= sizes <= ROUNDING * sizes.square().mean().sqrt()
        if not found.any():
            break
    return found


def _spread(network: nn.Module) -> None:
    """Let derivatives through wherever a layer of ``network`` picks: a unit that happens to be
    silent, or never the largest of its window, would hide the parameters that lead to it."""
    for module in list(network.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, nn.ReLU):
                setattr(module, name, nn.LeakyReLU(SLOPE))
            elif isinstance(layer, nn.MaxPool2d):
                pool = (layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode)
                setattr(module, name, nn.AvgPool2d(*pool))
