"""The augmentation of DC's evaluation (B. Zhao, K. R. Mopuri, H. Bilen, ICLR 2021, public code).

It differs from that of DSA: an operation is drawn for each image, crop and rotation reach further,
and pixels from outside the image are the mean of the batch. Images are ``[n, C, H, W]`` in
normalised units; ``fill`` ``[C]`` is the mean of each channel over the batch before augmentation.
The paper does not describe this augmentation.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from dd.data.operations import Operation, integers, lines, shifted, uniform

CROP = 4  # pixels of padding around the image
SCALE = 0.2  # sides become 1 - SCALE to 1 + SCALE times as long
ROTATE = 45  # degrees
NOISE = 0.001  # standard deviation

Size = tuple[int, int]


def _draw_crop(generator: torch.Generator, count: int, size: Size) -> tuple[Tensor, ...]:
    # as in DC's code: 2 CROP places, not 2 CROP + 1, since the last one is never drawn
    return tuple(integers(generator, -CROP, CROP, count) for _ in size)


def _crop(images: Tensor, fill: Tensor, down: Tensor, right: Tensor) -> Tensor:
    return shifted(images, down, right, fill.view(1, -1, 1, 1))


def _draw_scale(generator: torch.Generator, count: int, size: Size) -> tuple[Tensor, ...]:
    """Height and width in pixels after scaling."""
    return tuple(
        ((1 - SCALE + 2 * SCALE * uniform(generator, count).double()) * side).long().clamp(min=1)
        for side in size
    )


def _scale(images: Tensor, fill: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Scale with nearest pixels; cut larger images to their middle, frame smaller ones with 0."""
    frame = torch.maximum(height, width).clamp(min=max(images.shape[2:]))
    zero = images.new_zeros(())
    for axis, scaled in ((2, height), (3, width)):
        side = images.shape[axis]
        first = (frame - side) // 2 - (frame - scaled) // 2
        position = torch.arange(side, device=images.device) + first.view(-1, 1)
        scaled = scaled.view(-1, 1)
        # outside the scaled image is outside the source, even where the division rounds down
        source = torch.where(position < scaled, position * side // scaled, side)
        images = lines(images, axis, source, zero)
    return images


def _draw_rotate(generator: torch.Generator, count: int, size: Size) -> tuple[Tensor, ...]:
    return (integers(generator, -ROTATE, ROTATE, count),)


def _rotate(images: Tensor, fill: Tensor, degrees: Tensor) -> Tensor:
    """Rotate by whole degrees with cubic splines; outside the image is the mean of ``fill``.

    This follows SciPy's ``ndimage.rotate``: it rotates onto a plane that holds the whole rotated
    image, and keeps the middle of that plane. If plane and image differ by an odd number of
    pixels, the middle is half a pixel off.
    """
    height, width = images.shape[2:]
    angle = degrees.double().deg2rad().view(-1, 1, 1)
    cos, sin = angle.cos(), angle.sin()
    y = _centred(height, height * cos.abs() + width * sin.abs()).view(-1, height, 1)
    x = _centred(width, height * sin.abs() + width * cos.abs()).view(-1, 1, width)
    rows = cos * y + sin * x + (height - 1) / 2
    columns = cos * x - sin * y + (width - 1) / 2
    inside = (rows >= 0) & (rows <= height - 1) & (columns >= 0) & (columns <= width - 1)
    inner = _spline(images, rows, columns)
    return torch.where(inside.unsqueeze(1), inner, fill.mean())


def _centred(side: int, span: Tensor) -> Tensor:
    """Positions ``[n, side]``, relative to the centre, of the ``side`` middle pixels of planes with
    sides ``span [n, 1, 1]``, rounded."""
    whole = (span.view(-1, 1) + 0.5).floor()
    first = ((whole - side) / 2).trunc()
    return torch.arange(side, device=span.device) + first - (whole - 1) / 2


def _spline(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Evaluate cubic splines through ``images [n, C, H, W]`` at ``rows`` and ``columns``,
    ``[n, h, w]`` or ``[1, h, w]``. Images are mirrored at the centres of their outer pixels."""
    height, width = images.shape[2:]
    down, right = (_knots(side, images.device, images.dtype) for side in (height, width))
    knots = down @ images @ right.T
    shape = (len(images), *rows.shape[1:])
    result = images.new_zeros(len(images), images.shape[1], shape[1] * shape[2])
    for row, of_row in _taps(rows, height):
        for column, of_column in _taps(columns, width):
            index = (row * width + column).expand(shape).flatten(1).unsqueeze(1)
            weight = (of_row * of_column).expand(shape).flatten(1).unsqueeze(1)
            taken = knots.flatten(2).gather(2, index.expand_as(result))
            result = result + weight.to(images.dtype) * taken
    return result.unflatten(2, shape[1:])


@cache
def _knots(side: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The matrix that maps values at ``side`` pixels to weights of cubic B-splines there, ``[side,
    side]``; computed in float64."""
    matrix = torch.zeros(side, side, dtype=torch.float64)
    for pixel in range(side):
        for step, share in ((-1, 1 / 6), (0, 2 / 3), (1, 1 / 6)):
            matrix[pixel, int(_mirrored(torch.tensor(pixel + step), side))] += share
    return torch.linalg.inv(matrix).to(device, dtype)


def _taps(position: Tensor, side: int) -> list[tuple[Tensor, Tensor]]:
    """The four pixels whose B-splines reach ``position``, each with the value of its spline."""
    first = position.floor()
    after = position - first
    before = 1 - after
    values = (
        before**3 / 6,
        2 / 3 - after**2 + after**3 / 2,
        2 / 3 - before**2 + before**3 / 2,
        after**3 / 6,
    )
    pixels = (_mirrored(first.long() + step, side) for step in (-1, 0, 1, 2))
    return list(zip(pixels, values, strict=True))


def _mirrored(pixel: Tensor, side: int) -> Tensor:
    """Map pixel numbers outside the image into it, by mirrors at its outer pixels' centres."""
    if side == 1:
        return torch.zeros_like(pixel)
    pixel = pixel.abs() % (2 * side - 2)
    return torch.minimum(pixel, 2 * side - 2 - pixel)


def _draw_noise(generator: torch.Generator, count: int, size: Size) -> tuple[Tensor, ...]:
    """One seed per image: the number of channels is not known here."""
    return (integers(generator, 0, 2**62, count),)


def _noise(images: Tensor, fill: Tensor, seeds: Tensor) -> Tensor:
    streams = [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]
    drawn = [torch.randn(images.shape[1:], generator=stream) for stream in streams]
    return images + NOISE * torch.stack(drawn).to(images)


OPERATIONS = {
    "crop": Operation(_draw_crop, _crop),
    "scale": Operation(_draw_scale, _scale),
    "rotate": Operation(_draw_rotate, _rotate),
    "noise": Operation(_draw_noise, _noise, on_host=True),
}
"""The operations by name; ``apply`` takes ``fill`` as its second argument."""
