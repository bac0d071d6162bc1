"""Augmentation of batches of images, by strategies that a setting names.

- ``crop_flip``: differentiable siamese augmentation (DSA: B. Zhao, H. Bilen, ICML 2021, section
  3.3). One of the operations is drawn for each batch. Its parameters are drawn for each image or,
  if shared, once for the whole batch.
- ``dc:crop_rotate``: DC's own augmentation (:mod:`dd.data.dc_augment`). One of the operations is
  drawn for each image.
- ``all:crop_flip``: all of the operations, one after the other. They are those of DSA, and
  ``resized``, a random resized crop of 8 to 100 % of the area, as in training for ImageNet.
- ``none``.

:func:`draw` draws a transform and :func:`apply` applies it, so that the same transform can be
applied to the real and to the synthetic batch. In between, :func:`moved` takes the parameters of
many transforms to the device by one copy. Images are ``[N, C, H, W]`` in normalised units. Pixels
from outside the image are 0; for ``dc:`` see there.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from dd.data import dc_augment, transfer, views
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
CROP, CUTOUT = 0.125, 0.5  # shares of the image's side
RESIZED = 0.08  # least share of the area


@dataclass(frozen=True)
class Transform:
    """A drawn operation of DSA and its parameters, each ``[count]`` or, if shared, ``[1]``.

    Parameters that count pixels are int64, the others float32.
    """

    operation: str
    parameters: tuple[Tensor, ...] = ()

    def apply(self, images: Tensor) -> Tensor:
        """See :func:`apply`."""
        if self.operation == "none":
            return images
        operation = _OPERATIONS[self.operation]
        return operation.apply(images, *operation.fit(self.parameters, images))

    def tensors(self) -> list[Tensor]:
        """What is needed on the device."""
        return list(self.parameters)

    def with_tensors(self, tensors: Iterator[Tensor]) -> Transform:
        """The same with the next ones of ``tensors`` in place of :meth:`tensors`."""
        return replace(self, parameters=tuple(next(tensors) for _ in self.parameters))


@dataclass(frozen=True)
class Every:
    """Drawn operations that are all applied, one after the other."""

    steps: tuple[Transform, ...]

    def apply(self, images: Tensor) -> Tensor:
        """See :func:`apply`."""
        for step in self.steps:
            images = step.apply(images)
        return images

    def tensors(self) -> list[Tensor]:
        """See :meth:`Transform.tensors`."""
        return [tensor for step in self.steps for tensor in step.tensors()]

    def with_tensors(self, tensors: Iterator[Tensor]) -> Every:
        """See :meth:`Transform.with_tensors`."""
        return Every(tuple(step.with_tensors(tensors) for step in self.steps))


@dataclass(frozen=True)
class OneEach:
    """Drawn operations of DC, one for each image, on the CPU.

    Attributes:
        chosen: int64, ``[count]`` or, if shared, ``[1]``: the number of the chosen operation.
        operations: their names.
        parameters: of each operation, for every image.
    """

    chosen: Tensor
    operations: tuple[str, ...]
    parameters: tuple[tuple[Tensor, ...], ...]

    def apply(self, images: Tensor) -> Tensor:
        """See :func:`apply`."""
        return self.by_operation().apply(images)

    def by_operation(self) -> ByOperation:
        """The same, grouped by operation: this asks for values, so it is done on the CPU."""
        parts: list[tuple[str, Tensor | None, tuple[Tensor, ...]]] = []
        for number, (name, parameters) in enumerate(
            zip(self.operations, self.parameters, strict=True)
        ):
            which = (self.chosen == number).nonzero()[:, 0]
            if len(which):
                own = tuple(p[which] if len(p) > 1 else p for p in parameters)
                parts.append((name, which if len(self.chosen) > 1 else None, own))
        return ByOperation(tuple(parts))


@dataclass(frozen=True)
class ByOperation:
    """:class:`OneEach`, grouped by operation.

    Attributes:
        parts: of each operation that was drawn its name, the positions of its images (None: all
            images, however many) and its parameters for them.
    """

    parts: tuple[tuple[str, Tensor | None, tuple[Tensor, ...]], ...]

    def apply(self, images: Tensor) -> Tensor:
        """See :func:`apply`."""
        fill = images.mean((0, 2, 3))  # mean of all images, whatever operation each one gets
        result = images.clone()
        for name, which, parameters in self.parts:
            if which is None:
                which = torch.arange(len(images), device=images.device)
            which = which.to(images.device)
            operation = dc_augment.OPERATIONS[name]
            own = operation.fit(parameters, images)
            result[which] = operation.apply(images[which], fill, *own)
        return result

    def tensors(self) -> list[Tensor]:
        """See :meth:`Transform.tensors`."""
        found = []
        for name, which, parameters in self.parts:
            found += [] if which is None else [which]
            found += [] if dc_augment.OPERATIONS[name].on_host else parameters
        return found

    def with_tensors(self, tensors: Iterator[Tensor]) -> ByOperation:
        """See :meth:`Transform.with_tensors`."""
        parts: list[tuple[str, Tensor | None, tuple[Tensor, ...]]] = []
        for name, which, parameters in self.parts:
            where = None if which is None else next(tensors)
            if not dc_augment.OPERATIONS[name].on_host:
                parameters = tuple(next(tensors) for _ in parameters)
            parts.append((name, where, parameters))
        return ByOperation(tuple(parts))


Drawn = Transform | Every | OneEach | ByOperation


def check_strategy(strategy: str) -> tuple[str, ...]:
    """The operations of a strategy; empty for ``"none"``.

    Raises:
        DDError: if a name is not an operation.
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
    """Draw operations of ``strategy`` (if one is chosen, uniformly) and their parameters.

    Args:
        strategy: see this module; ``"none"`` is the identity.
        generator: source of the draws; the parameters are on its device.
        count: number of images that the parameters are for.
        size: height and width of the images.
        shared: draw once for all images (siamese augmentation); the transform then fits batches of
            any size.

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

    The result has the images' shape, dtype and device. A transform drawn without ``shared`` must
    have been drawn for N images.
    """
    return transform.apply(images)


def moved(
    transforms: Sequence[Drawn], device: torch.device, *others: Tensor
) -> tuple[list[Drawn], list[Tensor]]:
    """``transforms`` that were drawn on the CPU, ready for images on ``device``, by one copy.

    Args:
        transforms: what :func:`draw` returned.
        device: that of the images that they will be applied to.
        others: further tensors of the CPU that are needed on the device, to share the copy.

    Returns:
        The transforms, and ``others``, on the device.
    """
    if device.type == "cpu":
        return list(transforms), list(others)
    ready = [t.by_operation() if isinstance(t, OneEach) else t for t in transforms]
    tensors = [tensor for transform in ready for tensor in transform.tensors()]
    copied = iter(transfer.moved([*others, *tensors], device))
    taken = [next(copied) for _ in others]
    return [transform.with_tensors(copied) for transform in ready], taken


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
    """Set a rectangle around (row, column) to 0; where it leaves the image it ends at the edge."""
    hits = []
    for side, centre in ((images.shape[2], row), (images.shape[3], column)):
        span = _side(side, CUTOUT)
        # DSA clamps every index; the result is a range whose two ends are clamped
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
    """Sample bilinearly where an affine map takes each pixel's position in [-1, 1]; 0 outside.

    ``entries`` are the six entries of the 2 × 3 matrix, row by row.
    """
    matrix = torch.stack(entries, 1).view(-1, 2, 3).expand(len(images), 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, "bilinear", "zeros", align_corners=False)


def _draw_resized(generator: torch.Generator, count: int, size: Size) -> tuple[Tensor, ...]:
    return (views.draw_boxes(generator, count, size, RESIZED),)


def _resized(images: Tensor, boxes: Tensor) -> Tensor:
    unflipped = torch.zeros(1, dtype=torch.bool, device=images.device)
    return views.resized_crops(images, boxes, unflipped)


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
