"""Building blocks of augmentations, shared by all families of :mod:`dd.data.augment`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Operation:
    """An augmentation: how its parameters are drawn and how it is applied.

    Attributes:
        draw: maps ``(generator, count, size)`` to parameters, each ``[count, ...]``; size is
            (H, W).
        apply: maps ``(images, *parameters)`` to images ``[n, C, H, W]``. Parameters are
            ``[n, ...]``, or ``[1, ...]`` if they are the same for all images.
        on_host: whether ``apply`` needs them on the CPU; otherwise on the images' device.
    """

    draw: Callable[[torch.Generator, int, tuple[int, int]], tuple[Tensor, ...]]
    apply: Callable[..., Tensor]
    on_host: bool = False

    def fit(self, parameters: Iterable[Tensor], images: Tensor) -> list[Tensor]:
        """``parameters`` where ``apply`` needs them; those that are floating point also in the
        images' dtype."""
        device = torch.device("cpu") if self.on_host else images.device
        return [
            p.to(device, images.dtype if p.is_floating_point() else p.dtype) for p in parameters
        ]


def uniform(generator: torch.Generator, count: int) -> Tensor:
    """``count`` numbers uniform in [0, 1)."""
    return torch.rand(count, generator=generator, device=generator.device)


def integers(generator: torch.Generator, low: int, high: int, count: int) -> Tensor:
    """``count`` integers uniform in [low, high)."""
    return torch.randint(low, high, (count,), generator=generator, device=generator.device)


def shifted(images: Tensor, down: Tensor, right: Tensor, outside: Tensor) -> Tensor:
    """Shift images: pixel (i, j) comes from (i + down, j + right), or is ``outside`` if that is not
    in the image.

    Args:
        images: ``[n, C, H, W]``.
        down, right: int64 ``[n]`` or ``[1]``.
        outside: can be broadcast to the images' shape.
    """
    for axis, shift in ((2, down), (3, right)):
        position = torch.arange(images.shape[axis], device=images.device) + shift.view(-1, 1)
        images = lines(images, axis, position, outside)
    return images


def lines(images: Tensor, axis: int, position: Tensor, outside: Tensor) -> Tensor:
    """The rows or columns (``axis`` 2 or 3) of ``images [n, C, H, W]`` at ``position``, int64
    ``[n, k]`` or ``[1, k]``; ``outside`` for positions that are not in the image."""
    last = images.shape[axis] - 1
    shape = [-1, 1, 1, 1]
    shape[axis] = position.shape[1]
    inside = ((position >= 0) & (position <= last)).view(shape)
    size = list(images.shape)
    size[axis] = position.shape[1]
    index = position.clamp(0, last).view(shape).expand(size)
    return torch.where(inside, images.gather(axis, index), outside)
