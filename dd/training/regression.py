"""Classification as regression: targets of classes, and the squared error (FRePo)."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor


def centred(labels: Tensor, classes: int) -> Tensor:
    """Targets ``[M, K]`` float32 of real images: 1 - 1 / K for the class of an image, -1 / K for
    the others.

    Args:
        labels: ``[M]`` int64, or probabilities ``[M, K]``; classes: K.
    """
    known = F.one_hot(labels, classes).float() if labels.ndim == 1 else labels
    return known - 1 / classes


def scaled(labels: Tensor, classes: int) -> Tensor:
    """Targets of synthetic images before they are learned: :func:`centred`, divided by √(K / 10)
    (the public code of arXiv:2206.00719)."""
    return centred(labels, classes) / math.sqrt(classes / 10)


def squared_error(found: Tensor, wanted: Tensor) -> Tensor:
    """Half the squared distance, summed over the classes, mean over the images: ``[B, K]``."""
    return 0.5 * (found - wanted).square().sum(1).mean()
