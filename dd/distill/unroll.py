"""Gradients through the unrolled training of a student, in constant memory.

A student takes J steps θ_{j+1} = θ_j − α ∇ℓ_j(θ_j, X_j) from θ_0. We need the derivatives of a loss
L(θ_J) with respect to the images X and the rate α. Back-propagation through all steps keeps J
graphs of second order in memory. Here only θ_0, ..., θ_J are kept, and the adjoint λ_J = ∂L/∂θ_J is
carried back: for j = J−1, ..., 0

    s_j = ⟨λ_{j+1}, ∇ℓ_j(θ_j, X_j)⟩
    ∂L/∂X_j = −α ∂s_j/∂X_j,  ∂L/∂α −= s_j,  λ_j = λ_{j+1} − α ∂s_j/∂θ_j

This is the same sum of products that back-propagation computes, but with the graph of only one step
in memory at a time.

The way back builds the graph of ∇ℓ_j again, which costs a forward and a backward pass per step.
:func:`unroll` can keep the graphs of the last steps instead. It computes the same operations in the
same order, so the result does not depend on how many steps it keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dd.runtime.memory import kept_bytes

Loss = Callable[[Sequence[Tensor], Tensor, int], Tensor]
"""Maps (parameter tensors, images of step j, j) to the mean loss of that step."""


@dataclass(frozen=True)
class Gradients:
    """Derivatives of L by X (``inputs``, one tensor per step), α (``rate``) and θ_0 (``start``)."""

    inputs: list[Tensor]
    rate: Tensor
    start: Tensor


@dataclass
class Graph:
    """∇ℓ of one step, as a function of the step's parameters and images."""

    leaves: list[Tensor]
    batch: Tensor
    gradients: tuple[Tensor, ...]


@dataclass
class Walk:
    """A student's training.

    Attributes:
        path: its parameters θ_0, ..., θ_J, each as a flat vector ``[P]``.
        graphs: those that were kept, by step. :func:`pull_back` uses each once and drops it.
    """

    path: list[Tensor]
    graphs: dict[int, Graph]

    @property
    def end(self) -> Tensor:
        """θ_J, ``[P]``."""
        return self.path[-1]


def unroll(
    loss: Loss,
    shapes: Sequence[torch.Size],
    start: Tensor,
    rate: float,
    inputs: Sequence[Tensor],
    keep: int = 0,
) -> Walk:
    """Train the student.

    Args:
        loss: the loss of one step.
        shapes: shapes of the parameters, in the order of the flat vector.
        start: θ_0, ``[P]``.
        rate: α.
        inputs: X_0, ..., X_{J-1}.
        keep: the number of last steps whose graphs are kept.
    """
    walk = Walk([start], {})
    for step, batch in enumerate(inputs):
        # A gradient without a graph has other roundings: some norms then use other kernels.
        graph = _graph(loss, shapes, walk.end, batch, step)
        gradient = _flat([part.detach() for part in graph.gradients])
        walk.path.append(torch.sub(walk.end, gradient, alpha=rate))
        if step >= len(inputs) - keep:
            walk.graphs[step] = graph
        del graph  # before the next one is built
    return walk


def pull_back(
    loss: Loss,
    shapes: Sequence[torch.Size],
    walk: Walk,
    rate: float,
    inputs: Sequence[Tensor],
    cotangent: Tensor,
) -> Gradients:
    """The gradients of L through the steps that :func:`unroll` took.

    Args:
        loss, shapes, rate, inputs: as given to :func:`unroll`.
        walk: the result of :func:`unroll`; its graphs are used up.
        cotangent: ∂L/∂θ_J, ``[P]``.
    """
    adjoint = cotangent
    by_rate = cotangent.new_zeros(())
    by_input: list[Tensor] = [cotangent] * len(inputs)
    for step in reversed(range(len(inputs))):
        graph = walk.graphs.pop(step, None)
        if graph is None:
            graph = _graph(loss, shapes, walk.path[step], inputs[step], step)
        products = (
            torch.dot(g.flatten(), a.flatten())
            for g, a in zip(graph.gradients, _split(adjoint, shapes), strict=True)
        )
        product = sum(products, start=cotangent.new_zeros(()))
        *by_leaf, by_batch = torch.autograd.grad(
            product, [*graph.leaves, graph.batch], materialize_grads=True
        )
        del graph, products  # before the graph of another step is built
        by_rate = by_rate - product.detach()
        by_input[step] = by_batch.mul_(-rate)
        adjoint = torch.sub(adjoint, _flat(by_leaf), alpha=rate)
    return Gradients(by_input, by_rate, adjoint)


def graph_bytes(loss: Loss, shapes: Sequence[torch.Size], start: Tensor, batch: Tensor) -> int:
    """The bytes that the graph of the first step keeps, its parameters and images included.

    Args:
        loss, shapes, start: as given to :func:`unroll`.
        batch: X_0.
    """
    return kept_bytes(lambda: _graph(loss, shapes, start, batch, 0))


def _graph(
    loss: Loss, shapes: Sequence[torch.Size], parameters: Tensor, batch: Tensor, step: int
) -> Graph:
    leaves = [part.requires_grad_() for part in _split(parameters, shapes)]
    batch = batch.detach().requires_grad_()
    value = loss(leaves, batch, step)
    return Graph(leaves, batch, torch.autograd.grad(value, leaves, create_graph=True))


def _split(flat: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    parts = flat.detach().split([shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])
