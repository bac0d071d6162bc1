"""The units of images that others made: what they are taken as, and whether the values agree.

The field's code trains on images that were normalised by channel with fixed constants, or whitened
by ZCA; folders hold pixels. A file does not say which of these its numbers are.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dd.data.space import LARGEST, Space, beyond_normalised, like_pixels, outside_pixels
from dd.data.synthetic import are_probabilities
from dd.errors import DDError

AUTO, NORMALISED, WHITENED, PIXELS, BYTES = "auto", "normalised", "whitened", "pixels", "bytes"
UNITS = (AUTO, NORMALISED, WHITENED, PIXELS, BYTES)
"""What numbers may be taken as: normalised by channel, whitened by ZCA, pixels in [0, 1] or 0 to
255. ``auto``: pixels where all values are in such a range, else normalised."""

_BETWEEN = 0.5
"""A standard deviation between those of whitened and of normalised images.

The training images of CIFAR-10 have 0.24 whitened, and 1.2 in the field's normalised units."""


class InSpace(NamedTuple):
    """Images as a synthetic set stores them.

    Attributes:
        images: ``[M, C, H, W]`` float32, normalised, or whitened as they came.
        units: what they were taken as, one of :data:`UNITS` but ``auto``.
        notes: what a user must know, a line each.
    """

    images: Tensor
    units: str
    notes: list[str]


def in_space(images: Tensor, units: str, space: Space, said: str) -> InSpace:
    """Bring ``images`` from somebody's file into the units of a synthetic set.

    Args:
        images: ``[M, C, H, W]``, integers from 0 to 255, or floating point; not empty.
        units: one of :data:`UNITS`.
        space: the normalisation that is assumed.
        said: whose normalisation that is, for messages.

    Raises:
        DDError: if a value is NaN or infinite, or the values cannot be what they are taken as.
    """
    whole = not images.is_floating_point()
    values = images.float()
    _check_finite("images", images, values)
    low, high = values.min().item(), values.max().item()
    spread = values.std().item() if values.numel() > 1 else 0.0
    found = f"values from {low:.3g} to {high:.3g}, standard deviation {spread:.3g}"
    if whole and units not in (AUTO, BYTES):
        raise DDError(f"its images are whole numbers ({found}), not {units}; leave --units out")
    taken = _guessed(whole, low, high) if units == AUTO else units
    top = 255.0 if taken == BYTES else 1.0
    if whole and not 0 <= low <= high <= top:
        raise DDError(f"its images are whole numbers that are no pixels of 0 to 255 ({found})")
    notes = [f"{_SAID[taken].format(said=said)} ({found})"]
    if taken in (PIXELS, BYTES):
        values = values / top
        if outside := outside_pixels(values):
            notes.append(f"{outside:.3g} % of the values are outside the range of pixels")
        return InSpace(space.from_pixels(values), taken, notes)
    notes += _doubts(taken, low, high, spread)
    return InSpace(values.contiguous(), taken, notes)


_SAID = {
    NORMALISED: "images are taken as normalised with the mean and std of {said}",
    WHITENED: "images are taken as pixels whitened by ZCA, without mean and std",
    PIXELS: "images are taken as pixels in [0, 1], and normalised with the mean and std of {said}",
    BYTES: "images are taken as pixels from 0 to 255, and normalised with the mean and std of "
    "{said}",
}


def _guessed(whole: bool, low: float, high: float) -> str:
    if whole or (0 <= low <= high <= 255 and beyond_normalised(low, high)):
        return BYTES
    return PIXELS if like_pixels(low, high) else NORMALISED


def _doubts(taken: str, low: float, high: float, spread: float) -> list[str]:
    """Lines on values that look like something else than they are taken as."""
    notes = []
    if like_pixels(low, high):
        notes.append(f"all values are in 0 to 1: are they pixels? (--units {PIXELS})")
    elif beyond_normalised(low, high):
        notes.append(f"a value is beyond {LARGEST:g}: are they in other units? (--units)")
    elif taken == NORMALISED and 0 < spread < _BETWEEN:
        notes.append(
            "so small a standard deviation is that of whitened images: were they distilled with "
            f"ZCA? (--units {WHITENED})"
        )
    elif taken == WHITENED and spread > _BETWEEN:
        notes.append(
            "so large a standard deviation is that of normalised images: were they distilled "
            f"without ZCA? (--units {NORMALISED})"
        )
    return notes


def class_labels(labels: Tensor, classes: int, regresses: bool = False) -> tuple[Tensor, list[str]]:
    """Labels from somebody's file as a synthetic set stores them, and what a user must know.

    Args:
        labels: ``[M]`` class numbers, or ``[M, K]`` probabilities or logits.
        classes: K.
        regresses: whether labels ``[M, K]`` are targets of a regression, which stay what they are.

    Returns:
        ``[M]`` int64, or ``[M, K]`` float32: probabilities, or targets.

    Raises:
        DDError: if they are neither, or out of range.
    """
    if labels.ndim == 2 and labels.shape[1] == 1 < classes:
        labels = labels[:, 0]
    if not labels.numel():
        raise DDError(f"it has no labels ({list(labels.shape)})")
    if labels.ndim not in (1, 2) or labels.dtype == torch.bool:
        raise DDError(f"its labels are {labels.dtype} {list(labels.shape)}, not [M] or [M, K]")
    # torch has no minimum of some types, such as uint16 and float8
    values = labels.double() if labels.ndim == 1 else labels.float()
    _check_finite("labels", labels, values)
    if labels.ndim == 2:
        return _soft(values, classes, regresses)
    if not torch.equal(values, values.round()):
        raise DDError("its labels [M] are no whole numbers")
    low, high = values.min().item(), values.max().item()
    if not 0 <= low <= high < classes:
        raise DDError(f"its labels span {low:g} to {high:g}, there are classes 0 to {classes - 1}")
    return values.long(), []


def _soft(labels: Tensor, classes: int, regresses: bool) -> tuple[Tensor, list[str]]:
    if labels.shape[1] != classes:
        raise DDError(f"its labels are for {labels.shape[1]} classes, there are {classes}")
    if regresses:
        return labels.contiguous(), ["labels are targets of a regression"]
    if are_probabilities(labels):
        return labels.contiguous(), ["labels are taken as probabilities"]
    named = "targets of a regression are kept if --objective is a method that learns such, frepo"
    return labels.softmax(1), [f"labels are taken as logits; their softmax is stored ({named})"]


def _check_finite(what: str, given: Tensor, values: Tensor) -> None:
    """Refuse ``values``, which are those ``given`` as float32, if one is not finite."""
    if values.isfinite().all():
        return
    if given.dtype == torch.float64 and given.isfinite().all():
        most = given.abs().max().item()
        raise DDError(f"its {what} hold values beyond those of float32, up to {most:.3g}")
    raise DDError(f"its {what} hold NaN or infinite values")
