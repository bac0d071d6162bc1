"""Views of images: random resized crop, flip and CutMix, for a whole epoch from one seed.

SRe2L (arXiv:2306.13092) labels every view that a student will be trained on (fast knowledge
distillation, arXiv:2112.01528). Here a view depends only on seed, epoch, settings and the image's
position in the set. So views are not stored, and they are the same in whatever order they are made.
CutMix (arXiv:1905.04899) takes a box of a view from the view of another image. As in SRe2L's code,
an epoch is a sequence of batches, and the images of a batch are mixed with each other, all in the
same box. Students must see them in these batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dd.config.settings import setting
from dd.data.transfer import moved
from dd.rng import generator

RATIO = (3 / 4, 4 / 3)  # width to height of a crop
TRIES = 10  # draws of a crop until one fits into the image; if none does, the whole image is taken


@dataclass(frozen=True, kw_only=True)
class ViewSettings:
    """Settings of views."""

    crop: float = setting(
        "smallest share of an image's area in a random resized crop, 1: no crop", above=0, at_most=1
    )
    flip: float = setting("probability that an image is mirrored", at_least=0, at_most=1)
    cutmix: float = setting(
        "probability that in a batch each view has a box from another image (CutMix)",
        at_least=0,
        at_most=1,
    )
    batch: int = setting(
        "images per batch: mixed with each other in one box, and seen together by students",
        at_least=1,
    )


@dataclass(frozen=True)
class Views:
    """The views of all images of a set in one epoch. They are drawn on the CPU.

    Attributes:
        boxes: ``[count, 4]`` int64, the crops: top, left, height, width.
        flipped: ``[count]`` bool.
        order: ``[count]`` int64, a permutation of the images: the batches one after the other.
        partners: ``[count]`` int64, for each image the image of the same batch that the hole shows.
        holes: ``[count, 4]`` int64, top, left, bottom, right (exclusive); empty without CutMix.
        mixed: whether any image has a hole.
    """

    boxes: Tensor
    flipped: Tensor
    order: Tensor
    partners: Tensor
    holes: Tensor
    mixed: bool

    def to(self, device: torch.device) -> Views:
        """The same views, for images on ``device``."""
        drawn = [self.boxes, self.flipped, self.order, self.partners, self.holes]
        boxes, flipped, order, partners, holes = moved(drawn, device)
        return Views(boxes, flipped, order, partners, holes, self.mixed)

    def apply(self, images: Tensor, indices: Tensor) -> Tensor:
        """The views ``[n, C, H, W]`` of the images at ``indices [n]``.

        ``images`` are all images of the set, ``[count, C, H, W]``; the result is differentiable
        with respect to them. All are on the device of the views (:meth:`to`).
        """
        views = self._cropped(images, indices)
        if not self.mixed:
            return views
        holes = self.holes[indices]
        others = self._cropped(images, self.partners[indices])
        inside = []
        for axis, side in enumerate(images.shape[2:]):
            position = torch.arange(side, device=images.device)
            first, last = holes[:, axis, None], holes[:, axis + 2, None]
            inside.append((position >= first) & (position < last))
        return torch.where(inside[0][:, None, :, None] & inside[1][:, None, None, :], others, views)

    def _cropped(self, images: Tensor, indices: Tensor) -> Tensor:
        return resized_crops(images[indices], self.boxes[indices], self.flipped[indices])


def draw(seed: int, epoch: int, count: int, size: tuple[int, int], settings: ViewSettings) -> Views:
    """The views of ``count`` images of ``size`` (H, W) in ``epoch``."""
    stream = generator(seed, "views", epoch)
    boxes = draw_boxes(stream, count, size, settings.crop)
    flipped = torch.rand(count, generator=stream) < settings.flip
    order = torch.randperm(count, generator=stream)
    batches, partners = order.split(settings.batch), torch.empty_like(order)
    for part in batches:
        partners[part] = part[torch.randperm(len(part), generator=stream)]
    mixed = torch.rand(len(batches), generator=stream) < settings.cutmix
    of_batches = _draw_holes(stream, size, mixed)
    holes = of_batches[order.argsort() // settings.batch]  # an image's position gives its batch
    any_hole = bool((holes[:, 2:] > holes[:, :2]).all(1).any())
    return Views(boxes, flipped, order, partners, holes, any_hole)


def draw_boxes(stream: torch.Generator, count: int, size: tuple[int, int], crop: float) -> Tensor:
    """Draw crops ``[count, 4]`` (top, left, height, width) as torchvision's RandomResizedCrop does.

    The share of the area is uniform in [``crop``, 1], the ratio of the sides is log-uniform. If
    ``crop`` is 1, the crops are whole images.
    """
    low, high = map(math.log, RATIO)
    share, place = (
        torch.rand(TRIES, count, generator=stream, device=stream.device) for _ in range(2)
    )
    area = size[0] * size[1] * (crop + (1 - crop) * share)
    ratio = (low + (high - low) * place).exp()
    heights = (area / ratio).sqrt().round().long().clamp(min=1)
    widths = (area * ratio).sqrt().round().long().clamp(min=1)
    fits = (heights <= size[0]) & (widths <= size[1]) & (crop < 1)
    first = fits.int().argmax(0, keepdim=True)
    corners, sides = [], []
    for tried, side in ((heights, size[0]), (widths, size[1])):
        chosen = torch.where(fits.any(0), tried.gather(0, first)[0], side)
        corners.append(_below(side - chosen + 1, stream))
        sides.append(chosen)
    return torch.stack(corners + sides, 1)


def _draw_holes(stream: torch.Generator, size: tuple[int, int], mixed: Tensor) -> Tensor:
    """Draw boxes ``[count, 4]`` (top, left, bottom, right) around uniformly drawn pixels.

    The share of the area is uniform in [0, 1]; then the image's edges cut the box. A box is empty
    where ``mixed`` is false.
    """
    share = torch.rand(len(mixed), generator=stream).sqrt() * mixed
    firsts, lasts = [], []
    for side in size:
        half = (side * share).long() // 2
        centre = _below(torch.full((len(mixed),), side), stream)
        firsts.append((centre - half).clamp(min=0))
        lasts.append((centre + half).clamp(max=side))
    return torch.stack(firsts + lasts, 1)


def _below(limits: Tensor, stream: torch.Generator) -> Tensor:
    """For each limit an integer, uniform in [0, limit)."""
    drawn = torch.rand(len(limits), generator=stream, dtype=torch.float64, device=stream.device)
    return (drawn * limits).long()


def resized_crops(images: Tensor, boxes: Tensor, flipped: Tensor) -> Tensor:
    """Cut out boxes, resize them to the images' size and mirror some of them.

    Resizing is bilinear (align_corners false; edge pixels are repeated), and differentiable with
    respect to the images. It works element by element, without matrix products, so that the result
    for an image does not depend on the other images of the batch, bit for bit.

    Args:
        images: ``[n, C, H, W]``.
        boxes: ``[n, 4]`` int64 (top, left, height, width), no larger than the images; or
            ``[1, 4]``, the same for all.
        flipped: ``[n]`` or ``[1]`` bool.
    """
    boxes, flipped = boxes.to(images.device), flipped.to(images.device)
    top, left, height, width = boxes.unbind(1)
    rows = _sources(top, height, images.shape[2])
    columns = _sources(left, width, images.shape[3])
    before, after, weight = (torch.where(flipped[:, None], part.flip(1), part) for part in columns)
    return _sampled(_sampled(images, 2, *rows), 3, before, after, weight)


def _sources(start: Tensor, length: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """The sources of ``side`` pixels that show [start, start + length): the pixel before, the pixel
    after, and the weight of the latter, each ``[n, side]``."""
    length, start = length[:, None], start[:, None]
    step = length.float() / side
    position = ((torch.arange(side, device=start.device) + 0.5) * step - 0.5).clamp(min=0)
    before = position.long()
    after = torch.minimum(before + 1, length - 1)
    return start + before, start + after, position - before


def _sampled(images: Tensor, axis: int, before: Tensor, after: Tensor, weight: Tensor) -> Tensor:
    shape = [-1, 1, 1, 1]
    shape[axis] = images.shape[axis]
    weight = weight.view(shape).to(images.dtype)
    low, high = (images.gather(axis, i.view(shape).expand_as(images)) for i in (before, after))
    return low * (1 - weight) + high * weight
