"""Gradients through the unrolled training of a student, in constant memory.

A student takes J steps θ_{j+1} = θ_j − α ∇ℓ_j(θ_j, X_j) from θ_0, and a loss L(θ_J) is to be
differentiated with respect to the images X and the rate α. Back-propagation through all steps
keeps J graphs of second order alive. Here only θ_0, ..., θ_J are kept. The adjoint λ_J = ∂L/∂θ_J is
carried back: for j = J−1, ..., 0

    s_j = ⟨λ_{j+1}, ∇ℓ_j(θ_j, X_j)⟩
    ∂L/∂X_j = −α ∂s_j/∂X_j,  ∂L/∂α −= s_j,  λ_j = λ_{j+1} − α ∂s_j/∂θ_j

which is the same sum of products that back-propagation computes, with the graph of one step alive
at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Loss = Callable[[Sequence[Tensor], Tensor, int], Tensor]
"""(parameter tensors, what step j trains on, j) -> mean loss of that step."""


@dataclass(frozen=True)
class Gradients:
    """Derivatives of L by X (``inputs``, one tensor a step), α (``rate``) and θ_0 (``start``)."""

    inputs: list[Tensor]
    rate: Tensor
    start: Tensor


def unroll(
    loss: Loss,
    shapes: Sequence[torch.Size],
    start: Tensor,
    rate: float,
    inputs: Sequence[Tensor],
) -> list[Tensor]:
    """The student's parameters θ_0, ..., θ_J, flat.

    Args:
        loss: of one step.
        shapes: of the parameters, in the order of the flat vector.
        start: θ_0, ``[P]``.
        rate: α.
        inputs: X_0, ..., X_{J-1}.
    """
    path = [start]
    for step, batch in enumerate(inputs):
        leaves = [part.requires_grad_() for part in _split(path[-1], shapes)]
        gradients = torch.autograd.grad(loss(leaves, batch.detach(), step), leaves)
        path.append(torch.sub(path[-1], _flat(gradients), alpha=rate))
    return path


def pull_back(
    loss: Loss,
    shapes: Sequence[torch.Size],
    path: Sequence[Tensor],
    rate: float,
    inputs: Sequence[Tensor],
    cotangent: Tensor,
) -> Gradients:
    """The gradients of L through the steps that :func:`unroll` took.

    Args:
        loss, shapes, rate, inputs: as given to :func:`unroll`.
        path: what it returned.
        cotangent: ∂L/∂θ_J, ``[P]``.
    """
    adjoint = cotangent
    by_rate = cotangent.new_zeros(())
    by_input: list[Tensor] = [cotangent] * len(inputs)
    for step in reversed(range(len(inputs))):
        leaves = [part.requires_grad_() for part in _split(path[step], shapes)]
        batch = inputs[step].detach().requires_grad_()
        value = loss(leaves, batch, step)
        gradients = torch.autograd.grad(value, leaves, create_graph=True)
        products = (
            torch.dot(g.flatten(), a.flatten())
            for g, a in zip(gradients, _split(adjoint, shapes), strict=True)
        )
        product = sum(products, start=cotangent.new_zeros(()))
        *by_leaf, by_batch = torch.autograd.grad(product, [*leaves, batch], materialize_grads=True)
        by_rate = by_rate - product.detach()
        by_input[step] = by_batch.mul_(-rate)
        adjoint = torch.sub(adjoint, _flat(by_leaf), alpha=rate)
    return Gradients(by_input, by_rate, adjoint)


def _split(flat: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    parts = flat.detach().split([shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])
