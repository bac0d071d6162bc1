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


def can_recompute(network: nn.Module) -> TypeGuard[SpatialNetwork]:
    """Whether :func:`recomputing` knows the segments of ``network``."""
    return isinstance(network, SpatialNetwork) and isinstance(network.body, nn.Sequential)


def recomputing(network: SpatialNetwork, images: Tensor) -> Tensor:
    """``network(images)``, ``[N, C, H, W]`` to logits, keeping only what is between segments.

    Running statistics of batch norm change once, as without it.
    """
    maps = network.fitted(images)
    for segment in segments(network.body):
        maps = checkpoint(
            segment,
            maps,
            use_reentrant=False,
            preserve_rng_state=False,  # no layer draws numbers
            context_fn=partial(_contexts, segment),
        )
    return network.head(maps)


def segments(body: nn.Module) -> list[nn.Sequential]:
    """The parts of a chain of layers: each block and each convolution, with the layers after it.

    None of them begins with an operation in place, which would spoil what is kept.
    """
    found: list[list[nn.Module]] = []
    for layer in body.children():
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
