"""Sources of raw images: scikit-learn's digits, torchvision's datasets, image files.

A source is one function, registered in ``SOURCES`` by a decorator.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dd.data import layouts
from dd.data.decode import decode_all
from dd.data.extent import Extent
from dd.data.raw import folder
from dd.errors import DDError
from dd.registry import Registry
from dd.rng import generator


@dataclass(frozen=True)
class SourceOptions:
    """The options that a source may use.

    Attributes:
        root: the folder to read. download: whether a source may download into it.
        resize, channels: conversion of image files, see :func:`dd.data.decode.decode_all`.
        test_share, split_seed, groups: how to split images that come without a split, see
            :func:`dd.data.layouts.class_folders`.
        workers: number of decoding processes.
    """

    root: Path | None = None
    download: bool = True
    resize: int | None = None
    channels: int | None = None
    test_share: float = 0.2
    split_seed: int = 0
    groups: Path | None = None
    workers: int = 1


@dataclass(frozen=True)
class RawDataset:
    """Both splits, unprocessed: images uint8 [N, C, H, W], labels int64 [N] into ``classes``;
    ``notes`` are what a user should know of how they were read, a line each."""

    name: str
    label: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: list[str]
    notes: tuple[str, ...] = ()


SOURCES: Registry[Callable[[SourceOptions], RawDataset]] = Registry("data source")


@SOURCES.register("digits")
def digits(options: SourceOptions) -> RawDataset:
    """scikit-learn's 1,797 handwritten digits, 8x8 grey; a fifth of each class is the test split.

    The split is always the same. Pixel values 0..16 become 0..255.
    """
    from sklearn.datasets import load_digits  # importing takes a second, so only when needed

    bunch = load_digits()
    images = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    stream = generator(0, "digits", "split")
    held_out = []
    for label in range(10):
        members = (labels == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=stream)
        held_out.append(members[order[: round(len(members) / 5)]])
    test = torch.zeros(len(labels), dtype=torch.bool)
    test[torch.cat(held_out)] = True
    return RawDataset(
        "digits",
        "digits (scikit-learn, 8x8)",
        images[~test],
        labels[~test],
        images[test],
        labels[test],
        [str(label) for label in range(10)],
    )


def _listing(source: str, options: SourceOptions) -> layouts.Listing:
    """The image files of a source that reads a folder."""
    root = _folder(source, options)
    if source == "image-folder":
        return layouts.image_folder(root)
    if source == "tiny-imagenet":
        return layouts.tiny_imagenet(root)
    stream = generator(options.split_seed, source, "split")
    return layouts.class_folders(root, options.test_share, stream, options.groups)


@SOURCES.register("image-folder")
def from_image_folder(options: SourceOptions) -> RawDataset:
    """``ROOT/{train,test}/<class>/*.{png,jpg,jpeg,webp}``; the dataset is named after ROOT."""
    return _from_folder("image-folder", options)


@SOURCES.register("class-folders")
def from_class_folders(options: SourceOptions) -> RawDataset:
    """``ROOT/<class>/*.png`` or ``ROOT/<class>/images/*.png``, split here; named after ROOT."""
    return _from_folder("class-folders", options)


def _from_folder(source: str, options: SourceOptions) -> RawDataset:
    """A dataset that has no name but that of its folder."""
    listing = _listing(source, options)
    name = _root(source, options).resolve().name
    return _decoded(name, name, listing, options, options.channels)


@SOURCES.register("tiny-imagenet")
def tiny_imagenet(options: SourceOptions) -> RawDataset:
    """Tiny ImageNet's original folders, with ``val`` as the test split; in colour by default."""
    listing = _listing("tiny-imagenet", options)
    colour = options.channels or 3  # some of the files are grey
    return _decoded("tiny-imagenet", "Tiny ImageNet", listing, options, colour)


def measure(source: str, options: SourceOptions) -> Extent:
    """The extent of a folder of image files, from the list of its files and the first of them."""
    listing = _listing(source, options)
    first = decode_all([listing.train[0][0]], options.resize, options.channels, 1)
    train, test = (sum(map(len, part)) for part in (listing.train, listing.test))
    _, channels, height, width = first.shape
    return Extent(train, test, len(listing.classes), (height, width), channels)


def _decoded(
    name: str,
    label: str,
    listing: layouts.Listing,
    options: SourceOptions,
    channels: int | None,
) -> RawDataset:
    """Both splits of a listing, sorted by class and file name."""
    parts = listing.train, listing.test
    paths = [path for part in parts for files in part for path in files]
    images = torch.from_numpy(decode_all(paths, options.resize, channels, options.workers))
    numbers = torch.arange(len(listing.classes))
    labels = [numbers.repeat_interleave(torch.tensor([len(f) for f in part])) for part in parts]
    train, test = images.split([len(part) for part in labels])
    return RawDataset(
        name, label, train, labels[0], test, labels[1], listing.classes, listing.notes
    )


def _root(source: str, options: SourceOptions) -> Path:
    if options.root is None:
        raise DDError(f"--root: the source {source} needs the folder that holds its images")
    return options.root


def _folder(source: str, options: SourceOptions) -> Path:
    """The root of a source that downloads nothing."""
    return folder(source, _root(source, options))


def _torchvision(name: str, class_name: str, label: str, files: str, by_split: bool) -> None:
    """Register a dataset of torchvision.

    Args:
        name: name of the source. class_name: name in torchvision. label: human name.
        files: what the root holds after a download.
        by_split: whether the class takes ``split="train"`` rather than ``train=True``.
    """

    @SOURCES.register(name)
    def read(options: SourceOptions) -> RawDataset:
        import torchvision

        make = getattr(torchvision.datasets, class_name)
        root = _root(name, options)

        # torchvision unpickles CIFAR's batches, but only after it has checked that their MD5 sums
        # are those of the original files, which are plain arrays
        # "download" unpacks archives that are there, and fetches nothing where they are complete
        archives = _archives(make, root)
        unpack = options.download or (bool(archives) and all(same for _, same in archives))

        def split(part: str) -> Any:
            which = {"split": part} if by_split else {"train": part == "train"}
            return make(root, download=unpack, **which)

        try:
            train, test = split("train"), split("test")
        except (RuntimeError, OSError) as error:  # download errors are OSErrors
            reason = textwrap.shorten(" ".join(str(error).split()), 160)
            tried = f"could not be downloaded ({reason})" if options.download else "is not complete"
            other = [path for path, same in _archives(make, root) if path.is_file() and not same]
            hint = f"give --root a folder that holds {files}, or use --source image-folder"
            if other:  # packed again by somebody: what is in them may still be the original
                there = shlex.quote(str(other[0].parent))
                command = f"gunzip -k {there}/*.gz"
                if ".tar" in other[0].suffixes:
                    command = f"tar -xzf {shlex.quote(str(other[0]))} -C {there}"
                hint = (
                    f"{other[0]} is not the original archive (its MD5 sum differs); if you trust "
                    f"it, unpack it there: {command}"
                )
            raise DDError(f"{root}: {name} {tried}; {hint}") from None
        classes = getattr(train, "classes", None) or [str(digit) for digit in range(10)]
        return RawDataset(name, label, *_arrays(train), *_arrays(test), list(classes))


def _archives(make: Any, root: Path) -> list[tuple[Path, bool]]:
    """The archives of a torchvision dataset below ``root``, and whether each is there and has the
    MD5 sum of the original."""
    from torchvision.datasets.utils import check_integrity

    archives = [
        (root / make.__name__ / "raw" / name, md5) for name, md5 in getattr(make, "resources", [])
    ]
    if hasattr(make, "tgz_md5"):
        archives = [(root / make.filename, make.tgz_md5)]
    return [(path, check_integrity(path, md5)) for path, md5 in archives]


def _arrays(split: Any) -> tuple[Tensor, Tensor]:
    """Images [N, C, H, W] and labels of a torchvision dataset, whose layouts differ."""
    images = torch.as_tensor(split.data)
    labels = torch.as_tensor(split.labels if hasattr(split, "labels") else split.targets)
    if images.dim() == 3:  # MNIST: [N, H, W]
        images = images[:, None]
    elif images.shape[1] != 3:  # CIFAR: [N, H, W, C]; SVHN is [N, C, H, W]
        images = images.permute(0, 3, 1, 2)
    return images.contiguous(), labels.long()


_torchvision("mnist", "MNIST", "MNIST", "MNIST/raw/", False)
_torchvision("fashion_mnist", "FashionMNIST", "FashionMNIST", "FashionMNIST/raw/", False)
_torchvision("svhn", "SVHN", "SVHN", "train_32x32.mat and test_32x32.mat", True)
_torchvision("cifar10", "CIFAR10", "CIFAR-10", "cifar-10-batches-py/", False)
_torchvision("cifar100", "CIFAR100", "CIFAR-100", "cifar-100-python/", False)
