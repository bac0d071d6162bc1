"""Batch norm, the only layer whose output for an image depends on the others in its batch."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def has_batch_norm(module: nn.Module) -> bool:
    """Whether a batch given to ``module`` in training mode must not be split into chunks."""
    return bool(batch_norms(module))


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """The batch norms in ``module``."""
    return [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]


@torch.no_grad()
def freeze_batch_statistics(module: nn.Module, images: Tensor) -> None:
    """Fix the statistics of batch norm for gradient matching, as DC's code does.

    One forward pass in training mode blends the statistics of ``images`` into the running ones
    with the layers' momentum of 0.1. So they mostly remain 0 and 1, not the statistics of the
    images. Then the batch norms go to evaluation mode. Their weights and biases are still trained.

    Args:
        module: put into training mode, except its batch norms; unchanged if it has none.
        images: ``[N, C, H, W]``, real images of all classes (16 per class in DC's code).
    """
    if not has_batch_norm(module):
        return
    module.train()
    module(images)
    for layer in batch_norms(module):
        layer.eval()


def vectorisable(module: nn.Module) -> nn.Module:
    """``module`` for ``torch.func.vmap``, in any precision.

    Under vmap, torch's batch norm takes no bfloat16 maps with float32 parameters. If there is a
    batch norm, the result is a copy whose batch norms convert their input to float32.
    """
    if not has_batch_norm(module):
        return module
    module = copy.deepcopy(module)
    for layer in batch_norms(module):
        layer.register_forward_pre_hook(_widened)
    return module


def _widened(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.float() if x.dtype == torch.bfloat16 else x for x in inputs)
