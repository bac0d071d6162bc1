"""Whether a synthetic set and the dataset that it is tested on belong together.

Shapes and the number of classes say little: CIFAR-10 and SVHN share both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dd.data.dataset import Dataset, Split
from dd.data.space import beyond_normalised, like_pixels
from dd.data.synthetic import SyntheticSet, renumbered
from dd.errors import DDError, unknown

SAME, OTHER, UNKNOWN = "same", "other", "unknown"
"""Whether a set was made from the very data that it is tested on."""

_PIECE = 256  # images that are compared at a time


class Fit(NamedTuple):
    """A set beside a dataset.

    Attributes:
        synthetic: the set, its labels in the order of the dataset's classes.
        notes: what a user must know, a line each.
        data: ``SAME``, ``OTHER`` or ``UNKNOWN``, by the fingerprints of the data.
    """

    synthetic: SyntheticSet
    notes: list[str]
    data: str


def fit(made: SyntheticSet, dataset: Dataset) -> Fit:
    """Bring the labels of ``made`` into the order of the classes of ``dataset``.

    Raises:
        DDError: if the set names other classes than the dataset has.
    """
    notes = []
    names = made.header.get("classes")
    if names is None:
        notes.append(
            f"the set names no classes; its labels are taken in the order of {dataset.name}"
        )
    else:
        made, moved = _in_order(made, names, dataset)
        if moved:
            notes.append(
                f"the set has the classes of {dataset.name} in another order; they are matched by "
                "name"
            )
    fingerprint = made.header.get("fingerprint")
    data = UNKNOWN
    if fingerprint is not None:
        data = SAME if fingerprint == dataset.fingerprint else OTHER
    if data == OTHER:
        notes.append(
            f"the set was made from other data (fingerprint {fingerprint}) than it is used with "
            f"({dataset.fingerprint})"
        )
    return Fit(made, [*notes, *_units(made, dataset)], data)


def _in_order(made: SyntheticSet, names: Any, dataset: Dataset) -> tuple[SyntheticSet, bool]:
    """The set with its labels in the order of the dataset's classes; whether any had to move."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DDError("synthetic set: 'classes' in its header must be a list of names")
    if names == dataset.classes:
        return made, False
    for name in names:
        if name not in dataset.classes:
            raise DDError(
                f"synthetic set: {unknown(f'class of {dataset.name}', name, dataset.classes)}; if "
                "its labels are in the order of the dataset, leave 'classes' out of its header"
            )
    if len(names) != len(dataset.classes) or len(set(names)) != len(names):
        raise DDError(
            f"synthetic set: it names {len(names)} classes ({len(set(names))} different ones), "
            f"dataset {dataset.name} has {len(dataset.classes)}"
        )
    order = torch.tensor([dataset.classes.index(name) for name in names])
    labels = made.labels
    if labels.ndim == 1:
        fits = 0 <= int(labels.min()) <= int(labels.max()) < len(names)
    else:
        fits = labels.shape[1] == len(names)
    # what does not fit is refused when the labels are used
    return (replace(made, labels=renumbered(labels, order)) if fits else made), True


def _units(made: SyntheticSet, dataset: Dataset) -> list[str]:
    """What is assumed of images whose units the set does not say."""
    if made.images is None or made.mean is not None or made.whitening not in (None, "none"):
        return []
    if dataset.whitening != "none":
        return []
    low, high = made.images.min().item(), made.images.max().item()
    assumed = f"the set has no mean and std; its images are taken as normalised like {dataset.name}"
    doubt = "are they pixels? (docs/formats.md)"
    if like_pixels(low, high):
        return [f"{assumed}, but all values are in 0 to 1: {doubt}"]
    if beyond_normalised(low, high):
        return [f"{assumed}, but values go from {low:.3g} to {high:.3g}: {doubt}"]
    return [assumed]


def in_split(images: Tensor, dataset: Dataset, split: Split) -> list[int]:
    """Which of ``images [M, C, H, W]``, in the space of ``dataset``, are in its ``split``.

    Images are compared as pixels of 8 bits, which is what files hold.
    """
    there = {
        key
        for part in torch.arange(len(split), device=split.labels.device).split(_PIECE)
        for key in _keys(split.pixels(part))
    }
    keys = (key for part in images.split(_PIECE) for key in _keys(dataset.to_pixels(part)))
    return [number for number, key in enumerate(keys) if key in there]


def _keys(pixels: Tensor) -> Sequence[bytes]:
    """A digest of each of ``pixels [n, C, H, W]`` in [0, 1]."""
    values = (pixels * 255).round().to(torch.uint8).cpu().contiguous().numpy()
    return [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in values]
