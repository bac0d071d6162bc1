"""The parameters of a network as one vector, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors joined to a vector ``[P]``."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def split(vector: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """The parameter tensors in a flat vector ``[P]``, without its graph."""
    parts = vector.detach().split([shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def parameters_of(network: nn.Module) -> Tensor:
    """The parameters of ``network`` as a flat vector ``[P]``."""
    return flat([parameter.detach() for parameter in network.parameters()])
