"""A network that computes twice what it does not keep: exact with batch norm, for less memory.

Batch norm needs the statistics of the whole batch, so a batch that does not fit cannot go through
in parts. Instead, only what goes from one segment of the network to the next is kept. On the way
back each segment computes its inside again (Chen et al. 2016, arXiv:1604.06174). These are the same
operations on the same values, so the gradients are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TypeGuard

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dd.networks.base import SpatialNetwork
from dd.networks.batchnorm import batch_norms

_BYPASSED = ("forward", "embed", "features", "head")
"""Methods of a network that have to be those of :class:`SpatialNetwork`: :func:`recomputing` goes
past them, or calls one that ``forward`` does not."""

_DRAWING = (
    nn.modules.dropout._DropoutNd,  # all kinds of dropout
    nn.RReLU,
    nn.FractionalMaxPool2d,
    nn.FractionalMaxPool3d,
)
"""Layers that draw numbers, which would be others on the way back."""


def can_recompute(network: nn.Module) -> TypeGuard[SpatialNetwork]:
    """Whether :func:`recomputing` computes what ``network`` does.

    It does not if the network, which may be a plug-in's, has another way from images to logits, or
    if a layer of its body draws numbers.
    """
    return (
        isinstance(network, SpatialNetwork)
        and all(getattr(type(network), m) is getattr(SpatialNetwork, m) for m in _BYPASSED)
        and type(network.body) is nn.Sequential
        and not any(isinstance(layer, _DRAWING) for layer in network.body.modules())
    )


def recomputing(network: SpatialNetwork, images: Tensor) -> Tensor:
    """``network(images)``, ``[N, C, H, W]`` to logits, keeping only what is between segments.

    For networks that :func:`can_recompute` accepts.
    Running statistics of batch norm change once, as without it.
    """
    maps = network.fitted(images)
    assert isinstance(network.body, nn.Sequential)  # see can_recompute
    for segment in segments(network.body):
        maps = checkpoint(
            segment,
            maps,
            use_reentrant=False,
            preserve_rng_state=False,  # no layer of the body draws numbers
            context_fn=partial(_contexts, segment),
        )
    return network.head(maps)


def segments(body: nn.Sequential) -> list[nn.Sequential]:
    """The parts of a chain of layers: each block and each convolution, with the layers after it.

    None of them begins with an operation in place, which would spoil what is kept.
    """
    found: list[list[nn.Module]] = []
    for layer in body:  # not children(), which gives a layer that is in two places only once
        block = any(True for _ in layer.children())
        if type(layer) is nn.Sequential and block:
            found += [list(part) for part in segments(layer)]
        elif block or isinstance(layer, nn.Conv2d) or not found:
            found.append([layer])
        else:
            found[-1].append(layer)
    return [nn.Sequential(*layers) for layers in found]


def _contexts(
    segment: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For the first time that ``segment`` computes, and for the second."""
    return nullcontext(), _unrecorded(batch_norms(segment))


@contextmanager
def _unrecorded(layers: Sequence[nn.Module]) -> Iterator[None]:
    """What ``layers`` record meanwhile is thrown away."""
    kept = [dict(layer._buffers) for layer in layers]
    for layer in layers:
        for name, value in layer._buffers.items():
            layer._buffers[name] = None if value is None else value.clone()
    try:
        yield
    finally:
        for layer, buffers in zip(layers, kept, strict=True):
            layer._buffers.update(buffers)
