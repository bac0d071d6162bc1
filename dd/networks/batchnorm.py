"""Batch norm: the one layer whose output for an image depends on the others in its batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def has_batch_norm(module: nn.Module) -> bool:
    """Whether a batch given to ``module`` in training mode must not be split into chunks."""
    return any(isinstance(layer, _BatchNorm) for layer in module.modules())


@torch.no_grad()
def freeze_batch_statistics(module: nn.Module, images: Tensor) -> None:
    """Fix the statistics of batch norm for gradient matching, as DC's code does.

    One forward pass in training mode blends the statistics of ``images`` into the running ones
    with the layers' momentum (0.1; so they are mostly still 0 and 1, not those of the images);
    then the batch norms go to evaluation mode. Their weights and biases are still trained.

    Args:
        module: put into training mode but for its batch norms; without one it is left alone.
        images: ``[N, C, H, W]``, real images of all classes (16 a class in DC's code).
    """
    if not has_batch_norm(module):
        return
    module.train()
    module(images)
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            layer.eval()
