"""The mean and std with which the field normalises its datasets; others use their own."""

from __future__ import annotations

from typing import NamedTuple

from dd.errors import unknown

DATA = "data"  # the mean and standard deviation of the training split itself


class Constants(NamedTuple):
    """Mean and standard deviation of each channel, for pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


_CIFAR = Constants((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_IMAGENET = Constants((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

CONSTANTS: dict[str, Constants] = {
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    "mnist": Constants((0.1307,), (0.3081,)),
    "fashion_mnist": Constants((0.2861,), (0.3530,)),
    "svhn": Constants((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "tiny-imagenet": _IMAGENET,
    "imagenet": _IMAGENET,
}
"""Constants by source (and ``imagenet``, for its subsets), from the public code of DC, DSA, DM and
MTT (arXiv:2006.05929, 2102.08259, 2110.04181, 2203.11932). Released sets and all published numbers
use these units. They are not the statistics of the data: CIFAR-10's own standard deviation is
0.2470, 0.2435, 0.2616. In that code CIFAR-100 has the constants of CIFAR-10."""


def of_source(source: str) -> str:
    """The default normalisation of images of ``source``: a name in :data:`CONSTANTS`, or
    :data:`DATA`."""
    return source if source in CONSTANTS else DATA


def of_published(dataset: str) -> str:
    """The name in :data:`CONSTANTS` of a dataset that published values call ``dataset``
    (``tiny_imagenet``, ``fashionmnist``), or :data:`DATA` if there is none."""
    plain = {name.replace("-", "").replace("_", ""): name for name in CONSTANTS}
    return plain.get(dataset.replace("-", "").replace("_", ""), DATA)


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
