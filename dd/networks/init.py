"""Initial parameters, drawn from a generator and in place, so that a module is cheap to redraw."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dd.contracts import Breach
from dd.networks.base import Network
from dd.rng import generator


@torch.no_grad()
def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw all parameters again, in place, with the distributions of torch's layers.

    Weights and biases of convolutions and linear layers are uniform in ±1/√fan_in (Kaiming's
    uniform with a = √5, torch's default). Norms start as the identity, their running statistics at
    mean 0 and variance 1. Embeddings (positions, class tokens) are normal with standard deviation
    0.02, as in ViT's code. A network may have ``deviations``, which maps types of layers to
    functions: layers of these types have normal weights, with the standard deviation that the
    function gives for a weight, and biases of 0.

    Args:
        module: on any device; values are drawn on the generator's device and copied if it differs.
        generator: source of the draws; the global random state is not used.

    Raises:
        Breach: for a layer with parameters that this function does not know.
    """
    deviations = module.deviations if isinstance(module, Network) else {}
    for layer in module.modules():
        if type(layer) in deviations:
            assert isinstance(layer, nn.modules.conv._ConvNd | nn.Linear)
            _normal(layer.weight, deviations[type(layer)](layer.weight), generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Embedding):
            _normal(layer.weight, 0.02, generator)
        elif isinstance(layer, nn.modules.conv._ConvNd | nn.Linear):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            _uniform(layer.weight, bound, generator)
            if layer.bias is not None:
                _uniform(layer.bias, bound, generator)
        elif isinstance(layer, _BatchNorm | nn.GroupNorm | nn.LayerNorm):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
            if isinstance(layer, _BatchNorm):
                layer.reset_running_stats()
        elif names := [name for name, _ in layer.named_parameters(recurse=False)]:
            raise Breach(
                f"no initialisation is known for {' and '.join(names)} of {type(layer).__name__}; "
                "parameters may be those of convolutions, linear layers, norms and embeddings"
            )


def fixed_start(seed: int, which: int) -> torch.Generator:
    """Draws the fixed initial parameters ``which`` of a distillation with ``seed``, by
    :func:`initialise`; on the CPU, so that they are the same on every machine."""
    return generator(seed, "distill", "fixed", which)


def _uniform(tensor: Tensor, bound: float, generator: torch.Generator) -> None:
    _fill(tensor, generator, lambda t: t.uniform_(-bound, bound, generator=generator))


def _normal(tensor: Tensor, deviation: float, generator: torch.Generator) -> None:
    _fill(tensor, generator, lambda t: t.normal_(0, deviation, generator=generator))


def _fill(tensor: Tensor, generator: torch.Generator, draw: Callable[[Tensor], Tensor]) -> None:
    """Draw on the generator's device, in place if the tensor is on the same device."""
    if tensor.device == generator.device:
        draw(tensor)
        return
    tensor.copy_(draw(torch.empty(tensor.shape, dtype=tensor.dtype, device=generator.device)))
