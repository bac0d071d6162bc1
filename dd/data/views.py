"""Views of images: random resized crop, flip and CutMix, for a whole epoch from one seed.

SRe2L (arXiv:2306.13092) labels every view that a student will be trained on (fast knowledge
distillation, arXiv:2112.01528). Here a view follows from seed, epoch, settings and the image's
position in the set alone, so nothing of it is stored, and it is the same in whatever order it is
asked for. CutMix (arXiv:1905.04899): a box of a view comes from the view of another image. As in
SRe2L's code an epoch is a sequence of batches, and the images of a batch are mixed with each other,
all in the same box; students are to see them in these batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dd.config.settings import setting
from dd.rng import generator

RATIO = (3 / 4, 4 / 3)  # width to height of a crop
TRIES = 10  # crops that do not fit into the image are drawn again as often, then it is taken whole


@dataclass(frozen=True, kw_only=True)
class ViewSettings:
    """What a view may be."""

    crop: float = setting(
        "least share of an image's area in a random resized crop, 1: no crop", above=0, at_most=1
    )
    flip: float = setting("probability of the mirror image", at_least=0, at_most=1)
    cutmix: float = setting(
        "probability that in a batch a box of each view is of another image (CutMix)",
        at_least=0,
        at_most=1,
    )
    batch: int = setting(
        "images that are mixed with each other, in one box; what students learn from at a step",
        at_least=1,
    )


@dataclass(frozen=True)
class Views:
    """The views of all images of a set in one epoch, on the CPU.

    Attributes:
        boxes: ``[count, 4]`` int64, the crops: top, left, height, width.
        flipped: ``[count]`` bool.
        order: ``[count]`` int64, a permutation, the batches one after the other.
        partners: ``[count]`` int64, of the same batch: whose view the hole shows.
        holes: ``[count, 4]`` int64, top, left, bottom, right (exclusive); empty without CutMix.
    """

    boxes: Tensor
    flipped: Tensor
    order: Tensor
    partners: Tensor
    holes: Tensor

    def apply(self, images: Tensor, indices: Tensor) -> Tensor:
        """The views ``[n, C, H, W]`` of the images at ``indices [n]`` of all ``[count, C, H, W]``;
        differentiable with respect to them."""
        indices = indices.cpu()
        views, holes = self._cropped(images, indices), self.holes[indices]
        if not (holes[:, 2:] > holes[:, :2]).all(1).any():
            return views
        holes = holes.to(images.device)
        others = self._cropped(images, self.partners[indices])
        inside = []
        for axis, side in enumerate(images.shape[2:]):
            position = torch.arange(side, device=images.device)
            first, last = holes[:, axis, None], holes[:, axis + 2, None]
            inside.append((position >= first) & (position < last))
        return torch.where(inside[0][:, None, :, None] & inside[1][:, None, None, :], others, views)

    def _cropped(self, images: Tensor, indices: Tensor) -> Tensor:
        chosen = images[indices.to(images.device)]
        return resized_crops(chosen, self.boxes[indices], self.flipped[indices])


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
    holes = of_batches[order.argsort() // settings.batch]  # each image's place, hence its batch
    return Views(boxes, flipped, order, partners, holes)


def draw_boxes(stream: torch.Generator, count: int, size: tuple[int, int], crop: float) -> Tensor:
    """Crops ``[count, 4]`` (top, left, height, width) as torchvision's RandomResizedCrop draws
    them: a share of the area uniform in [``crop``, 1], log-uniform ratio; whole images if
    ``crop`` is 1."""
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
    """Boxes ``[count, 4]`` (top, left, bottom, right) of a share of the area uniform in [0, 1]
    before the image's edges cut it, around any pixel; empty where not ``mixed``."""
    share = torch.rand(len(mixed), generator=stream).sqrt() * mixed
    firsts, lasts = [], []
    for side in size:
        half = (side * share).long() // 2
        centre = _below(torch.full((len(mixed),), side), stream)
        firsts.append((centre - half).clamp(min=0))
        lasts.append((centre + half).clamp(max=side))
    return torch.stack(firsts + lasts, 1)


def _below(limits: Tensor, stream: torch.Generator) -> Tensor:
    """Integers uniform in [0, limit) for each limit."""
    drawn = torch.rand(len(limits), generator=stream, dtype=torch.float64, device=stream.device)
    return (drawn * limits).long()


def resized_crops(images: Tensor, boxes: Tensor, flipped: Tensor) -> Tensor:
    """Cut boxes out and bring them back to the images' size, bilinear (align_corners false, edge
    pixels continued), some of them mirrored; differentiable with respect to the images.

    Element by element without matrix products: the result for an image does not depend on the
    others in the batch, to the last bit.

    Args:
        images: ``[n, C, H, W]``.
        boxes: ``[n, 4]`` int64 (top, left, height, width), no larger than the images; or
            ``[1, 4]``, one for all.
        flipped: ``[n]`` or ``[1]`` bool.
    """
    boxes, flipped = boxes.to(images.device), flipped.to(images.device)
    top, left, height, width = boxes.unbind(1)
    rows = _sources(top, height, images.shape[2])
    columns = _sources(left, width, images.shape[3])
    before, after, weight = (torch.where(flipped[:, None], part.flip(1), part) for part in columns)
    return _sampled(_sampled(images, 2, *rows), 3, before, after, weight)


def _sources(start: Tensor, length: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """For ``side`` pixels that show [start, start + length): the source before, the one after,
    and the weight of the latter, each ``[n, side]``."""
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
