"""Augmentation of batches of images, by strategies that a setting names.

- ``crop_flip``: differentiable siamese augmentation (DSA: B. Zhao, H. Bilen, ICML 2021, section
  3.3). For each batch one of the operations is drawn, with parameters for each image or, shared,
  for the whole batch.
- ``dc:crop_rotate``: DC's own (:mod:`dd.data.dc_augment`). One of its operations for each image.
- ``all:crop_flip``: all of the operations, one after the other: DSA's, and ``resized``, a random
  resized crop of 8 % to all of the area, as networks for ImageNet are trained with.
- ``none``.

Drawing (:func:`draw`) is apart from applying (:func:`apply`), so that one drawn transform can be
applied to the real and to the synthetic batch. Images are ``[N, C, H, W]`` in normalised units;
what moves in from outside is 0, or under ``dc:`` what is said there.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dd.data import dc_augment, views
from dd.data.dc_augment import Size
from dd.data.operations import Operation, integers, shifted, uniform
from dd.errors import DDError, unknown

MEANING = (
    "operations joined by _: one drawn for a batch (DSA), after dc: one for an image (DC's own), "
    "after all: each of them; or none"
)

SCALE = 1.2
ROTATE = 15.0  # degrees
BRIGHTNESS, SATURATION, CONTRAST = 1.0, 2.0, 0.5
CROP, CUTOUT = 0.125, 0.5  # parts of the image's side
RESIZED = 0.08  # least share of the area


@dataclass(frozen=True)
class Transform:
    """A drawn operation of DSA and its parameters, each ``[count]`` or, shared, ``[1]``.

    Parameters that count pixels are int64, the others float32.
    """

    operation: str
    parameters: tuple[Tensor, ...] = ()

    def apply(self, images: Tensor) -> Tensor:
        """See :func:`apply`."""
        if self.operation == "none":
            return images
        return _OPERATIONS[self.operation].apply(images, *_for(images, self.parameters))


@dataclass(frozen=True)
class Every:
    """Operations that are applied one after the other."""

    steps: tuple[Transform, ...]

    def apply(self, images: Tensor) -> Tensor:
        """See :func:`apply`."""
        for step in self.steps:
            images = step.apply(images)
        return images


@dataclass(frozen=True)
class OneEach:
    """Operations of DC, one for each image.

    Attributes:
        chosen: int64, ``[count]`` or, shared, ``[1]``: which of the operations.
        operations: their names.
        parameters: of each operation, for every image.
    """

    chosen: Tensor
    operations: tuple[str, ...]
    parameters: tuple[tuple[Tensor, ...], ...]

    def apply(self, images: Tensor) -> Tensor:
        """See :func:`apply`."""
        fill = images.mean((0, 2, 3))  # of all images, whatever operation each of them has
        chosen, result = self.chosen.expand(len(images)), images.clone()
        for number, (name, parameters) in enumerate(
            zip(self.operations, self.parameters, strict=True)
        ):
            which = (chosen == number).nonzero()[:, 0]
            if len(which):
                own = [p[which] if len(p) > 1 else p for p in parameters]
                part = images[which.to(images.device)]
                made = dc_augment.OPERATIONS[name].apply(part, fill, *_for(images, own))
                result[which.to(images.device)] = made
        return result


Drawn = Transform | Every | OneEach


def check_strategy(strategy: str) -> tuple[str, ...]:
    """The operations of a strategy; ``"none"`` has none.

    Raises:
        DDError: if a name is not one of the operations.
    """
    return _parse(strategy)[1]


def _parse(strategy: str) -> tuple[str, tuple[str, ...]]:
    """The family of a strategy, ``""`` for DSA, and its operations."""
    if strategy == "none":
        return "", ()
    family, colon, listed = strategy.rpartition(":")
    try:
        if colon and family not in filter(None, _FAMILIES):
            raise unknown("family", family, filter(None, _FAMILIES))
        names = tuple(listed.split("_"))
        for name in names:
            if name not in _FAMILIES[family]:
                raise unknown("operation", name, _FAMILIES[family])
    except DDError as error:
        raise DDError(f"augmentation '{strategy}': {error}") from None
    return family, names


def draw(
    strategy: str,
    generator: torch.Generator,
    count: int,
    size: tuple[int, int],
    shared: bool = False,
) -> Drawn:
    """Draw operations of ``strategy``, uniformly where one is chosen, and their parameters.

    Args:
        strategy: see this module; ``"none"`` for the identity.
        generator: where the draws come from; the parameters lie on its device.
        count: number of images that the parameters are for.
        size: height and width of the images.
        shared: draw once for all images (siamese augmentation); the transform then applies to
            batches of any length.

    Raises:
        DDError: if the strategy names an unknown operation.
    """
    family, names = _parse(strategy)
    count = 1 if shared else count
    if not names:
        return Transform("none")
    if family == "dc":
        chosen = integers(generator, 0, len(names), count)
        drawn = tuple(dc_augment.OPERATIONS[n].draw(generator, count, size) for n in names)
        return OneEach(chosen, names, drawn)
    if family == "all":
        steps = (Transform(n, _OPERATIONS[n].draw(generator, count, size)) for n in names)
        return Every(tuple(steps))
    chosen = torch.randint(len(names), (), generator=generator, device=generator.device)
    operation = names[int(chosen)]
    return Transform(operation, _OPERATIONS[operation].draw(generator, count, size))


def apply(transform: Drawn, images: Tensor) -> Tensor:
    """Apply a drawn transform to ``images`` [N, C, H, W]; differentiable with respect to them.

    The result has the images' shape, dtype and device. A transform that was not drawn shared
    must have been drawn for N images.
    """
    return transform.apply(images)


def _for(images: Tensor, parameters: Iterable[Tensor]) -> list[Tensor]:
    """``parameters`` on the images' device, those that are no counts in their type."""
    return [
        p.to(images.device, images.dtype if p.is_floating_point() else p.dtype) for p in parameters
    ]


def _side(size: int, ratio: float) -> int:
    return int(size * ratio + 0.5)


def _per_image(parameter: Tensor) -> Tensor:
    return parameter.view(-1, 1, 1, 1)


def _draw_color(generator: torch.Generator, count: int, size: Size) -> tuple[Tensor, ...]:
    brightness = (uniform(generator, count) - 0.5) * BRIGHTNESS
    saturation = uniform(generator, count) * SATURATION
    contrast = uniform(generator, count) + CONTRAST
    return brightness, saturation, contrast


def _color(images: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    images = images + _per_image(brightness)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * _per_image(saturation)
    level = images.mean((1, 2, 3), keepdim=True)
    return level + (images - level) * _per_image(contrast)


def _draw_crop(generator: torch.Generator, count: int, size: Size) -> tuple[Tensor, ...]:
    limits = [_side(side, CROP) for side in size]
    return tuple(integers(generator, -limit, limit + 1, count) for limit in limits)


def _crop(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    return shifted(images, down, right, images.new_zeros(()))


def _draw_cutout(generator: torch.Generator, count: int, size: Size) -> tuple[Tensor, ...]:
    return tuple(integers(generator, 0, side + 1 - _side(side, CUTOUT) % 2, count) for side in size)


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


def _draw_flip(generator: torch.Generator, count: int, size: Size) -> tuple[Tensor, ...]:
    return (uniform(generator, count),)


def _flip(images: Tensor, uniform: Tensor) -> Tensor:
    return torch.where(_per_image(uniform < 0.5), images.flip(3), images)


def _draw_scale(generator: torch.Generator, count: int, size: Size) -> tuple[Tensor, ...]:
    span = SCALE - 1 / SCALE
    return tuple(uniform(generator, count) * span + 1 / SCALE for _ in range(2))


def _scale(images: Tensor, across: Tensor, down: Tensor) -> Tensor:
    zero = torch.zeros_like(across)
    return _resample(images, (across, zero, zero, zero, down, zero))


def _draw_rotate(generator: torch.Generator, count: int, size: Size) -> tuple[Tensor, ...]:
    return ((uniform(generator, count) - 0.5) * 2 * math.radians(ROTATE),)


def _rotate(images: Tensor, angle: Tensor) -> Tensor:
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return _resample(images, (cos, -sin, zero, sin, cos, zero))


def _resample(images: Tensor, entries: tuple[Tensor, ...]) -> Tensor:
    """Bilinear sampling at the affine map (row by row: 2 × 3) of each pixel's position in [-1, 1],
    zeros outside."""
    matrix = torch.stack(entries, 1).view(-1, 2, 3).expand(len(images), 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, "bilinear", "zeros", align_corners=False)


def _draw_resized(generator: torch.Generator, count: int, size: Size) -> tuple[Tensor, ...]:
    return (views.draw_boxes(generator, count, size, RESIZED),)


def _resized(images: Tensor, boxes: Tensor) -> Tensor:
    return views.resized_crops(images, boxes, torch.zeros(1, dtype=torch.bool))


_OPERATIONS = {
    "color": Operation(_draw_color, _color),
    "crop": Operation(_draw_crop, _crop),
    "cutout": Operation(_draw_cutout, _cutout),
    "flip": Operation(_draw_flip, _flip),
    "scale": Operation(_draw_scale, _scale),
    "rotate": Operation(_draw_rotate, _rotate),
    "resized": Operation(_draw_resized, _resized),
}

_FAMILIES: Mapping[str, Collection[str]] = {
    "": [name for name in _OPERATIONS if name != "resized"],  # DSA has no such operation
    "dc": dc_augment.OPERATIONS,
    "all": _OPERATIONS,
}
