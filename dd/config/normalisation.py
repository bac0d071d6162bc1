"""The mean and std with which the field normalises its datasets; others use their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from dd.errors import unknown

DATA = "data"  # the mean and standard deviation of the training split itself


class Constants(NamedTuple):
    """Mean and standard deviation of each channel, for pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


_IMAGENET = Constants((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

CONSTANTS: dict[str, Constants] = {
    "cifar10": Constants((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": Constants((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "mnist": Constants((0.1307,), (0.3081,)),
    "fashion_mnist": Constants((0.2861,), (0.3530,)),
    "svhn": Constants((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "tiny-imagenet": _IMAGENET,
    "imagenet": _IMAGENET,
    "tiny-imagenet-sre2l": Constants((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
}
"""Constants by source (and ``imagenet``, for its subsets), from the public code of DC, DSA and DM
(arXiv:2006.05929, 2102.08259, 2110.04181), for ImageNet from that of MTT (arXiv:2203.11932).
Released sets and published numbers use these units. They are not the statistics of the data:
CIFAR-10's own standard deviation is 0.2470, 0.2435, 0.2616. ``tiny-imagenet-sre2l`` is what the
public code of SRe2L (arXiv:2306.13092) has for Tiny ImageNet."""

_LIKE: Mapping[str, Mapping[str, str]] = {
    "mtt": {"cifar100": "cifar10"},
    "iadd": {"cifar100": "cifar10"},  # builds on MTT
    "sre2l": {"cifar100": "cifar10", "tiny-imagenet": "tiny-imagenet-sre2l"},
    "dd": {"cifar10": DATA},
    # it whitens what it has normalised, so that not even the same constants would be the same units
    "frepo": {"cifar10": DATA, "cifar100": DATA, "tiny-imagenet": DATA},
}
"""By method: the datasets for which its public code has other constants than DC's, and whose."""

IMAGENET_SUBSETS = ("imagenette", "imagewoof")
"""Published datasets that are classes of ImageNet, and normalised with its mean and std."""


def of_source(source: str) -> str:
    """The default normalisation of images of ``source``: a name in :data:`CONSTANTS`, or
    :data:`DATA`."""
    return source if source in CONSTANTS else DATA


def of_published(dataset: str, method: str = "dc") -> str:
    """Whose mean and std the authors of ``method`` used: a name in :data:`CONSTANTS`, or
    :data:`DATA` if there is none.

    Args:
        dataset: as published values call it (``tiny_imagenet``, ``fashionmnist``).
        method: its objective; methods without constants of their own have those of DC.
    """
    plain = {name.replace("-", "").replace("_", ""): name for name in CONSTANTS}
    plain |= dict.fromkeys(IMAGENET_SUBSETS, "imagenet")
    name = plain.get(dataset.replace("-", "").replace("_", ""), DATA)
    return _LIKE.get(method, {}).get(name, name)


def constants(name: str) -> Constants | None:
    """The constants called ``name``, or None for :data:`DATA`.

    Raises:
        DDError: for any other name.
    """
    if name == DATA:
        return None
    if name not in CONSTANTS:
        raise unknown("normalisation", name, (DATA, *CONSTANTS))
    return CONSTANTS[name]
