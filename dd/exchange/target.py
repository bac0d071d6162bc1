"""The dataset to which sets of others belong: its classes, size, and mean and std."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dd.artifacts.headers import load_arrays, read_header
from dd.config.normalisation import DATA, Constants, constants, of_published
from dd.data.dataset import HEADER
from dd.data.extent import KNOWN, Extent, of_file
from dd.data.space import Space, check_constants
from dd.errors import DDError, unknown


@dataclass(frozen=True)
class Target:
    """The dataset that sets belong to.

    Attributes:
        name, label: of the dataset.
        extent: the size and the number of its images and classes.
        classes: the names of its classes; None if they are not known.
        space: the normalisation that is assumed of images.
        said: whose normalisation that is.
    """

    name: str
    label: str
    extent: Extent
    classes: list[str] | None
    space: Space
    said: str


def target_of(data: Path | None, dataset: str | None, normalise_as: str | None) -> Target:
    """The dataset that options name.

    Args:
        data: a prepared file; or
        dataset: the name of a published dataset.
        normalise_as: whose mean and std are assumed of images, instead of the dataset's.

    Raises:
        DDError: if both or neither are given, or one of the names is unknown.
    """
    if (data is None) == (dataset is None):
        raise DDError(
            "give --dataset NAME or --data FILE (one of them): classes, size and normalisation of "
            "the images follow from it"
        )
    return _published(dataset, normalise_as) if data is None else _prepared(data, normalise_as)


def _published(name: Any, normalise_as: str | None) -> Target:
    if name not in KNOWN:
        raise DDError(f"--dataset: {unknown('dataset', name, KNOWN)}; or give --data FILE")
    said = normalise_as or of_published(name)
    known = constants(said)
    if known is None:
        raise DDError(
            f"--dataset: the field has no mean and std for {name}; give --normalise-as, or --data "
            "FILE with a prepared file"
        )
    _check_channels(known, said, KNOWN[name].channels, name)
    return Target(name, name, KNOWN[name], None, _space(known), said)


def _prepared(path: Path, normalise_as: str | None) -> Target:
    header, extent = read_header(path, HEADER), of_file(path)
    arrays, _ = load_arrays(path, "dataset", ("mean", "std"), only=("mean", "std"))
    mean, std = (torch.from_numpy(arrays[part]) for part in ("mean", "std"))
    check_constants(path, mean, std, extent.channels)
    name = header.get("name", path.stem)
    said, space = header.get("normalisation") or DATA, Space(mean, std)
    if normalise_as is not None and (known := constants(normalise_as)):
        _check_channels(known, normalise_as, extent.channels, name)
        said, space = normalise_as, _space(known)
    if said == DATA:
        said = f"the training images of {name}"
    return Target(name, header.get("label", name), extent, header.get("classes"), space, said)


def _check_channels(known: Constants, said: str, channels: int, name: str) -> None:
    if len(known.mean) != channels:
        raise DDError(
            f"--normalise-as: {said} is for {len(known.mean)} channels, {name} has {channels}"
        )


def _space(known: Constants) -> Space:
    return Space(torch.tensor(known.mean), torch.tensor(known.std))
