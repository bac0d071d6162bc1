"""The dataset to which sets of others belong: its classes, size, and mean and std."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dd.artifacts.headers import load_arrays, read_header
from dd.config.normalisation import DATA, IMAGENET_SUBSETS, Constants, constants, of_published
from dd.data.classes import NAMES, order_in
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
        classes: the names of its classes, in its order; None if they are not known.
        space: the normalisation that is assumed of images.
        said: whose normalisation that is.
        published: the published dataset that it is, for which public codes have constants; None if
            none has.
        stated: whether a user says whose mean and std images are normalised with.
        code: the method in whose public code the dataset has this normalisation; None if it is that
            of options or of the prepared file.
    """

    name: str
    label: str
    extent: Extent
    classes: Sequence[str] | None
    space: Space
    said: str
    published: str | None = None
    stated: bool = False
    code: str | None = None

    def as_in(self, code: str | None) -> Target:
        """The same, normalised as in the public code of the method ``code``, if it has constants
        for this dataset."""
        if code is None or self.published is None or self.stated:
            return self
        said = of_published(self.published, code)
        known = constants(said)
        if known is None or len(known.mean) != self.extent.channels:  # made grey, or of three
            return self
        return replace(self, space=_space(known), said=said, code=code)

    def order_in(self, code: str | None) -> Sequence[str] | None:
        """Its classes as the public code of the method ``code`` numbers them; None if in its own
        order."""
        return order_in(self.published, code)

    @property
    def told(self) -> str:
        """Whose normalisation it is, for messages."""
        return f"{self.said}, as in {self.code.upper()}'s code" if self.code else self.said


def target_of(data: Path | None, dataset: str | None, normalise_as: str | None) -> Target:
    """The dataset that options name.

    Args:
        data: a prepared file; and, or
        dataset: the name of a published dataset.
        normalise_as: whose mean and std are assumed of images, instead of the dataset's.

    Raises:
        DDError: if neither is given, or one of the names is unknown.
    """
    if data is not None:
        return _prepared(data, dataset, normalise_as)
    if dataset is not None:
        return _published(dataset, normalise_as)
    raise DDError(
        "give --dataset NAME or --data FILE: classes, size and normalisation of the images follow "
        "from it"
    )


def _published(name: str, normalise_as: str | None) -> Target:
    if name not in KNOWN:
        raise DDError(f"--dataset: {unknown('dataset', name, KNOWN)}; or give --data FILE")
    said = normalise_as or of_published(name)
    known = constants(said)
    if known is None and normalise_as is not None:
        raise DDError(
            f"--normalise-as: {DATA} means the mean and std of a prepared dataset; give --data FILE"
        )
    if known is None:
        raise DDError(
            f"--dataset: the field has no mean and std for {name}; give --normalise-as, or --data "
            "FILE with a prepared file"
        )
    _check_channels(known, said, KNOWN[name].channels, name)
    stated = normalise_as is not None
    return Target(name, name, KNOWN[name], NAMES.get(name), _space(known), said, name, stated)


def _prepared(path: Path, dataset: str | None, normalise_as: str | None) -> Target:
    header, extent = read_header(path, HEADER), of_file(path)
    arrays, _ = load_arrays(path, "dataset", ("mean", "std"), only=("mean", "std"))
    mean, std = (torch.from_numpy(arrays[part]) for part in ("mean", "std"))
    check_constants(path, mean, std, extent.channels)
    name = header.get("name", path.stem)
    said, space = header.get("normalisation") or DATA, Space(mean, std)
    if dataset is not None and of_published(dataset) == DATA:
        raise DDError(f"--dataset: the field has no mean and std for {dataset}; leave it out")
    classes = header.get("classes")
    # a folder of images is taken for the subset of ImageNet whose folders are its classes, else for
    # the dataset whose constants it is prepared with
    subset = (one for one in IMAGENET_SUBSETS if set(classes or ()) == set(NAMES[one]))
    names = [dataset] if dataset is not None else [*subset, header.get("source", ""), said]
    published = next((name for name in names if of_published(name) != DATA), None)
    units = normalise_as or (of_published(dataset) if dataset is not None else DATA)
    if known := constants(units):
        _check_channels(known, units, extent.channels, name)
        said, space = units, _space(known)
    if said == DATA:
        said = f"the training images of {name}"
    label, stated = header.get("label", name), normalise_as is not None
    return Target(name, label, extent, classes, space, said, published, stated)


def _check_channels(known: Constants, said: str, channels: int, name: str) -> None:
    if len(known.mean) != channels:
        raise DDError(
            f"--normalise-as: {said} is for {len(known.mean)} channels, {name} has {channels}"
        )


def _space(known: Constants) -> Space:
    return Space(torch.tensor(known.mean), torch.tensor(known.std))
