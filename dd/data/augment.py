"""Differentiable siamese augmentation (DSA): B. Zhao, H. Bilen, ICML 2021, section 3.3.

A *strategy* names operations joined by ``_``. For each batch one of them is drawn uniformly, with
parameters for each image or, shared, for the whole batch. Drawing (:func:`draw`) is apart from
applying (:func:`apply`), so that one drawn transform can be applied to the real and to the
synthetic batch. Images are ``[N, C, H, W]`` in normalised units; what moves in from outside is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dd.errors import DDError, unknown

NATURAL = "color_crop_cutout_flip_scale_rotate"  # DSA's default
NO_FLIP = "color_crop_cutout_scale_rotate"  # for digits, whose mirror images are no digits
MNIST_EVALUATION = "crop_scale_rotate"  # the only augmentation of DC's evaluation, on MNIST

SCALE = 1.2
ROTATE = 15.0  # degrees
BRIGHTNESS, SATURATION, CONTRAST = 1.0, 2.0, 0.5
CROP, CUTOUT = 0.125, 0.5  # parts of the image's side


@dataclass(frozen=True)
class Transform:
    """A drawn augmentation: an operation and its parameters, each ``[count]`` or, shared, ``[1]``.

    Parameters that count pixels are int64, the others float32.
    """

    operation: str
    parameters: tuple[Tensor, ...] = ()


def check_strategy(strategy: str) -> tuple[str, ...]:
    """The operations of a strategy; ``"none"`` has none.

    Raises:
        DDError: if a name is not one of the operations.
    """
    if strategy == "none":
        return ()
    names = tuple(strategy.split("_"))
    for name in names:
        if name not in _OPERATIONS:
            raise DDError(f"augmentation '{strategy}': {unknown('operation', name, _OPERATIONS)}")
    return names


def draw(
    strategy: str,
    generator: torch.Generator,
    count: int,
    size: tuple[int, int],
    shared: bool = False,
) -> Transform:
    """Draw one operation of ``strategy`` uniformly, and its parameters.

    Args:
        strategy: operations joined by ``_``, or ``"none"`` for the identity.
        generator: where the draws come from; the parameters lie on its device.
        count: number of images that the parameters are for.
        size: height and width of the images.
        shared: draw the parameters once for all images (siamese augmentation); the transform then
            applies to batches of any length.

    Raises:
        DDError: if the strategy names an unknown operation.
    """
    names = check_strategy(strategy)
    if not names:
        return Transform("none")
    chosen = torch.randint(len(names), (), generator=generator, device=generator.device)
    operation = names[int(chosen)]
    parameters = _OPERATIONS[operation].draw(generator, 1 if shared else count, size)
    return Transform(operation, parameters)


def apply(transform: Transform, images: Tensor) -> Tensor:
    """Apply a drawn transform to ``images`` [N, C, H, W]; differentiable with respect to them.

    The result has the images' shape, dtype and device. A transform that was not drawn shared
    must have been drawn for N images.
    """
    if transform.operation == "none":
        return images
    parameters = (
        p.to(images.device, images.dtype if p.is_floating_point() else p.dtype)
        for p in transform.parameters
    )
    return _OPERATIONS[transform.operation].apply(images, *parameters)


def _uniform(generator: torch.Generator, count: int) -> Tensor:
    return torch.rand(count, generator=generator, device=generator.device)


def _integers(generator: torch.Generator, low: int, high: int, count: int) -> Tensor:
    """``count`` integers uniform in [low, high)."""
    return torch.randint(low, high, (count,), generator=generator, device=generator.device)


def _side(size: int, ratio: float) -> int:
    return int(size * ratio + 0.5)


def _per_image(parameter: Tensor) -> Tensor:
    return parameter.view(-1, 1, 1, 1)


def _draw_color(generator: torch.Generator, count: int, size: tuple[int, int]):
    brightness = (_uniform(generator, count) - 0.5) * BRIGHTNESS
    saturation = _uniform(generator, count) * SATURATION
    contrast = _uniform(generator, count) + CONTRAST
    return brightness, saturation, contrast


def _color(images: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    images = images + _per_image(brightness)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * _per_image(saturation)
    level = images.mean((1, 2, 3), keepdim=True)
    return level + (images - level) * _per_image(contrast)


def _draw_crop(generator: torch.Generator, count: int, size: tuple[int, int]):
    limits = [_side(side, CROP) for side in size]
    return tuple(_integers(generator, -limit, limit + 1, count) for limit in limits)


def _crop(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Pixel (i, j) comes from (i + down, j + right), or is 0 where that lies outside."""
    for axis, shift in ((2, down), (3, right)):
        source = torch.arange(images.shape[axis], device=images.device) + shift.view(-1, 1)
        inside = (source >= 0) & (source < images.shape[axis])
        shape = [-1, 1, 1, 1]
        shape[axis] = images.shape[axis]
        index = source.clamp(0, images.shape[axis] - 1).view(shape).expand_as(images)
        images = images.gather(axis, index) * inside.view(shape)
    return images


def _draw_cutout(generator: torch.Generator, count: int, size: tuple[int, int]):
    return tuple(
        _integers(generator, 0, side + 1 - _side(side, CUTOUT) % 2, count) for side in size
    )


def _cutout(images: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """A rectangle around (row, column), pressed into the image where it would leave it, is 0."""
    hits = []
    for side, centre in ((images.shape[2], row), (images.shape[3], column)):
        span = _side(side, CUTOUT)
        # clamping each index moves none of the others, so the hole is a range with clamped ends
        first = (centre - span // 2).clamp(0, side - 1).view(-1, 1)
        last = (centre - span // 2 + span - 1).clamp(0, side - 1).view(-1, 1)
        position = torch.arange(side, device=images.device)
        hits.append((position >= first) & (position <= last))
    hole = hits[0][:, None, :, None] & hits[1][:, None, None, :]
    return images.masked_fill(hole, 0.0)


def _draw_flip(generator: torch.Generator, count: int, size: tuple[int, int]):
    return (_uniform(generator, count),)


def _flip(images: Tensor, uniform: Tensor) -> Tensor:
    return torch.where(_per_image(uniform < 0.5), images.flip(3), images)


def _draw_scale(generator: torch.Generator, count: int, size: tuple[int, int]):
    span = SCALE - 1 / SCALE
    return tuple(_uniform(generator, count) * span + 1 / SCALE for _ in range(2))


def _scale(images: Tensor, across: Tensor, down: Tensor) -> Tensor:
    zero = torch.zeros_like(across)
    return _resample(images, (across, zero, zero, zero, down, zero))


def _draw_rotate(generator: torch.Generator, count: int, size: tuple[int, int]):
    return ((_uniform(generator, count) - 0.5) * 2 * math.radians(ROTATE),)


def _rotate(images: Tensor, angle: Tensor) -> Tensor:
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return _resample(images, (cos, -sin, zero, sin, cos, zero))


def _resample(images: Tensor, entries: tuple[Tensor, ...]) -> Tensor:
    """Bilinear sampling at the affine map (row by row: 2 × 3) of each pixel's position in [-1, 1],
    zeros outside."""
    matrix = torch.stack(entries, 1).view(-1, 2, 3).expand(len(images), 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, "bilinear", "zeros", align_corners=False)


@dataclass(frozen=True)
class _Operation:
    draw: Callable[[torch.Generator, int, tuple[int, int]], tuple[Tensor, ...]]
    apply: Callable[..., Tensor]


_OPERATIONS = {
    "color": _Operation(_draw_color, _color),
    "crop": _Operation(_draw_crop, _crop),
    "cutout": _Operation(_draw_cutout, _cutout),
    "flip": _Operation(_draw_flip, _flip),
    "scale": _Operation(_draw_scale, _scale),
    "rotate": _Operation(_draw_rotate, _rotate),
}
