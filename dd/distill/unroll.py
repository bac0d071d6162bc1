"""Gradients through the unrolled training of a student, in constant memory.

A student takes J steps θ_{j+1} = θ_j − α_j ∇ℓ_j(θ_j, X_j) from θ_0. We need the derivatives of a
loss L(θ_J) with respect to the images X and the rates α. Back-propagation through all steps keeps J
graphs of second order in memory. Here only θ_0, ..., θ_J are kept, and the adjoint λ_J = ∂L/∂θ_J is
carried back: for j = J−1, ..., 0

    s_j = ⟨λ_{j+1}, ∇ℓ_j(θ_j, X_j)⟩
    ∂L/∂X_j = −α_j ∂s_j/∂X_j,  ∂L/∂α_j = −s_j,  λ_j = λ_{j+1} − α_j ∂s_j/∂θ_j

If all steps share one rate, its derivative is the sum of those by the α_j. X_j may be several
tensors, such as images and soft labels; then each has a derivative.

This is the same sum of products that back-propagation computes, but with the graph of only one step
in memory at a time.

The way back builds the graph of ∇ℓ_j again, which costs a forward and a backward pass per step.
:func:`unroll` can keep the graphs of the last steps instead. It computes the same operations in the
same order, so the result does not depend on how many steps it keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dd.networks.flat import flat, split
from dd.runtime.memory import kept_bytes

Batch = Tensor | tuple[Tensor, ...]
"""What a step sees and L is differentiated by: images, or images and further tensors."""

Rate = float | Tensor | Sequence[float]
"""A learning rate for all steps, or one for each step."""

Loss = Callable[[Sequence[Tensor], Any, int], Tensor]
"""Maps (parameter tensors, batch X_j of step j, j) to the mean loss of that step."""


@dataclass(frozen=True)
class Gradients:
    """Derivatives of L.

    Attributes:
        inputs: by X, one batch per step, of the same form as X_j.
        rates: by α_0, ..., α_{J-1}, ``[J]``.
        start: by θ_0, ``[P]``.
    """

    inputs: list[Any]
    rates: Tensor
    start: Tensor

    @property
    def rate(self) -> Tensor:
        """The derivative by a rate that all steps share; added up from the last step on."""
        total = self.rates.new_zeros(())
        for by_rate in reversed(self.rates.unbind()):
            total = total + by_rate
        return total


@dataclass
class Graph:
    """∇ℓ of one step, as a function of the step's parameters and batch."""

    leaves: list[Tensor]
    batch: Batch
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
    rate: Rate,
    inputs: Sequence[Batch],
    keep: int = 0,
) -> Walk:
    """Train the student.

    Args:
        loss: the loss of one step.
        shapes: shapes of the parameters, in the order of the flat vector.
        start: θ_0, ``[P]``.
        rate: α, or one for each step. As a tensor without dimensions it may have another value when
            a CUDA graph of this repeats the steps; as numbers the steps round once less.
        inputs: X_0, ..., X_{J-1}.
        keep: the number of last steps whose graphs are kept.
    """
    walk = Walk([start], {})
    rates = _of_steps(rate, len(inputs))
    for step, batch in enumerate(inputs):
        # A gradient without a graph has other roundings: some norms then use other kernels.
        graph = _graph(loss, shapes, walk.end, batch, step)
        gradient = flat([part.detach() for part in graph.gradients])
        walk.path.append(_less(walk.end, gradient, rates[step]))
        if step >= len(inputs) - keep:
            walk.graphs[step] = graph
        del graph  # before the next one is built
    return walk


def pull_back(
    loss: Loss,
    shapes: Sequence[torch.Size],
    walk: Walk,
    rate: Rate,
    inputs: Sequence[Batch],
    cotangent: Tensor,
) -> Gradients:
    """The gradients of L through the steps that :func:`unroll` took.

    Args:
        loss, shapes, rate, inputs: as given to :func:`unroll`.
        walk: the result of :func:`unroll`; its graphs are used up.
        cotangent: ∂L/∂θ_J, ``[P]``.
    """
    adjoint = cotangent
    rates = _of_steps(rate, len(inputs))
    by_rate: list[Tensor] = [cotangent] * len(inputs)
    by_input: list[Batch] = [cotangent] * len(inputs)
    for step in reversed(range(len(inputs))):
        graph = walk.graphs.pop(step, None)
        if graph is None:
            graph = _graph(loss, shapes, walk.path[step], inputs[step], step)
        products = (
            torch.dot(g.flatten(), a.flatten())
            for g, a in zip(graph.gradients, split(adjoint, shapes), strict=True)
        )
        product = sum(products, start=cotangent.new_zeros(()))
        several = isinstance(graph.batch, tuple)
        seen = graph.batch if isinstance(graph.batch, tuple) else (graph.batch,)
        found = torch.autograd.grad(product, [*graph.leaves, *seen], materialize_grads=True)
        by_leaf, by_batch = found[: len(graph.leaves)], found[len(graph.leaves) :]
        del graph, products, seen, found  # before the graph of another step is built
        by_rate[step] = -product.detach()
        parts = tuple(part.mul_(-rates[step]) for part in by_batch)
        by_input[step] = parts if several else parts[0]
        adjoint = _less(adjoint, flat(by_leaf), rates[step])
    return Gradients(by_input, torch.stack(by_rate) if by_rate else cotangent.new_zeros(0), adjoint)


def graph_bytes(loss: Loss, shapes: Sequence[torch.Size], start: Tensor, batch: Batch) -> int:
    """The bytes that the graph of the first step keeps, its parameters and batch included.

    Args:
        loss, shapes, start: as given to :func:`unroll`.
        batch: X_0.
    """
    return kept_bytes(lambda: _graph(loss, shapes, start, batch, 0))


def _graph(
    loss: Loss, shapes: Sequence[torch.Size], parameters: Tensor, batch: Batch, step: int
) -> Graph:
    leaves = [part.requires_grad_() for part in split(parameters, shapes)]
    if isinstance(batch, tuple):
        batch = tuple(part.detach().requires_grad_() for part in batch)
    else:
        batch = batch.detach().requires_grad_()
    value = loss(leaves, batch, step)
    return Graph(leaves, batch, torch.autograd.grad(value, leaves, create_graph=True))


def _less(values: Tensor, step: Tensor, rate: float | Tensor) -> Tensor:
    """``values − rate × step``."""
    if isinstance(rate, Tensor):
        return values - rate * step
    return torch.sub(values, step, alpha=rate)


def _of_steps(rate: Rate, steps: int) -> Sequence[float | Tensor]:
    """The rate of each of ``steps`` steps."""
    if isinstance(rate, int | float | Tensor):
        return [rate] * steps
    if len(rate) != steps:
        raise ValueError(f"{len(rate)} rates for {steps} steps")
    return list(rate)
