"""How much memory passes of a network take, counted on tensors without data; pieces that fit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dd.runtime.memory import available, peak_bytes

CPU_PIECE = 256
"""Images in one pass without gradients on the CPU, for any network."""

PIECE_BYTES = 4e9
"""Bytes that a pass in pieces takes, or less where less is left.

It is about what 3,800 test images of CIFAR-10 take in a ConvNet.
"""

Made = TypeVar("Made", bound=nn.Module)
Shape = tuple[int, int, int]
"""Channels, height and width of an image."""

_COUNTED = 4  # images for which a pass is counted: batch norm needs more than one
_known: dict[tuple[str, bool, str, Shape], float] = {}


def on_meta(network: Made) -> Made:
    """A copy of ``network`` without data, made without copying the data."""
    memo: dict[int, Tensor] = {}
    for tensor in (*network.parameters(), *network.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
    return copy.deepcopy(network, memo)


def each_bytes(work: Callable[[Tensor], object], shape: Shape) -> float:
    """Bytes that one image more takes in ``work``, the image included.

    Args:
        work: computes with images ``[n, *shape]`` on the device ``meta``.
        shape: of an image.
    """

    def counted(number: int) -> int:
        return peak_bytes(lambda: work(torch.zeros(number, *shape, device="meta")))

    return max(1.0, (counted(2 * _COUNTED) - counted(_COUNTED)) / _COUNTED)


def forward_bytes(network: nn.Module, shape: Shape) -> float:
    """:func:`each_bytes` of ``network(images)`` without gradients."""
    return _remembered("forward", network, shape, _forward)


def embedding_bytes(network: nn.Module, shape: Shape) -> float:
    """:func:`each_bytes` of ``network.embed(images)`` and of a gradient by the images through it;
    parameters get none."""
    return _remembered("embed", network, shape, _embedding_gradient)


@torch.no_grad()
def _forward(network: nn.Module, images: Tensor) -> None:
    network(images)


def _embedding_gradient(network: Any, images: Tensor) -> None:
    leaf = images.requires_grad_()
    torch.autograd.grad(network.embed(leaf).sum(), leaf)


def _remembered(
    way: str, network: nn.Module, shape: Shape, work: Callable[[nn.Module, Tensor], None]
) -> float:
    key = (way, network.training, repr(network), shape)
    if key not in _known:
        skeleton = on_meta(network)
        _known[key] = each_bytes(lambda images: work(skeleton, images), shape)
    return _known[key]


def piece_of(each: float, device: torch.device) -> int:
    """How many images go through in one piece if one takes ``each`` bytes; at least 1."""
    return max(1, int(min(PIECE_BYTES, available(device)) // each))


def test_piece(
    device: torch.device, shape: Shape, *networks: nn.Module, beside: float = 0.0
) -> int:
    """Images in one pass without gradients: :data:`CPU_PIECE` on the CPU, by bytes on a GPU.

    Args:
        device: of the images.
        shape: of an image.
        networks: they see the images one after the other.
        beside: bytes that an image takes besides.
    """
    if device.type == "cpu":
        return CPU_PIECE
    most = max((forward_bytes(network, shape) for network in networks), default=0.0)
    return piece_of(most + beside, device)
