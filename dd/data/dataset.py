"""The prepared dataset: both splits on the device, ready for batches.

``prepare`` writes the file (``docs/formats.md``). All other stages read it with
:func:`load_dataset`, in the space that they choose (:mod:`dd.data.space`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dd.artifacts.fields import BLOCK, NAME, TEXT, list_of, optional
from dd.artifacts.headers import Fields, read_header
from dd.artifacts.tensors import load_tensors
from dd.data.space import MARK, WHITENINGS, Space, check_constants, check_space
from dd.errors import DDError, unknown

_TENSORS = ("train_images", "train_labels", "test_images", "test_labels", "mean", "std")
_ZCA_TENSORS = ("zca_mean", "zca_matrix")
HEADER: Fields = {  # of the header
    "name": NAME,
    "label": TEXT,
    "classes": optional(list_of(TEXT)),
    "fingerprint": optional(TEXT),
    "source": optional(TEXT),
    "normalisation": optional(TEXT),
    "zca": optional(BLOCK),
}


@dataclass(frozen=True)
class Split:
    """Images and labels of one split.

    Attributes:
        images: [N, C, H, W], uint8 in 0..255, or float32 in ``space`` (:meth:`resident`).
        labels: [N] int64.
        by_class: for each class the indices of its images, ascending; on the CPU, where batches
            are drawn.
        space: the space in which networks see them.
    """

    images: Tensor
    labels: Tensor
    by_class: list[Tensor]
    space: Space

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """C, H and W."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def take(self, indices: Tensor | slice) -> Tensor:
        """Images of ``indices`` [n], as float32 [n, C, H, W] in the split's space."""
        images = self._stored(indices)
        return images if images.is_floating_point() else self.space.from_pixels_(_pixels(images))

    def pixels(self, indices: Tensor | slice) -> Tensor:
        """Images of ``indices`` [n], as float32 pixels [n, C, H, W] in [0, 1]."""
        images = self._stored(indices)
        return self.space.to_pixels(images) if images.is_floating_point() else _pixels(images)

    def _stored(self, indices: Tensor | slice) -> Tensor:
        if isinstance(indices, Tensor):
            indices = indices.to(self.images.device)
        return self.images[indices]

    def resident(self) -> Split:
        """This split for many epochs: whitened once, instead of at each :meth:`take`.

        Without whitening it is the split itself. Otherwise all images are float32 on the device:
        4·N·C·H·W bytes (CIFAR-10: 614 MB to train, 123 MB to test).
        """
        if self.space.whitening == "none" or self.images.is_floating_point():
            return self
        return replace(self, images=self.take(slice(None)))

    def sample(self, label: int, count: int, generator: torch.Generator) -> Tensor:
        """``count`` indices of class ``label``, drawn without replacement, in random order.

        They are on the CPU, so that those of several classes can go to the device by one copy. A
        class with fewer than ``count`` images gives all of them.

        Args:
            generator: on the CPU.
        """
        members = self.by_class[label]
        return members[torch.randperm(len(members), generator=generator)[:count]]


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset.

    Attributes:
        name: short name, used in paths. label: human name, used in tables and captions.
        classes: class names in label order.
        channels, size: C and (H, W) of the images.
        space: the space in which networks see images.
        fingerprint: identifies the contents, see :func:`fingerprint`.
        header: the header of the file, with its provenance.
    """

    name: str
    label: str
    classes: list[str]
    channels: int
    size: tuple[int, int]
    space: Space
    fingerprint: str
    train: Split
    test: Split
    header: dict[str, Any]

    @property
    def whitening(self) -> str:
        """The whitening with which it was read, one of :data:`dd.data.space.WHITENINGS`."""
        return self.space.whitening

    def mean_and_std(self) -> tuple[Tensor | None, Tensor | None]:
        """Mean and std ``[C]`` on the CPU, as a set in this space stores them; None if whitened."""
        if self.whitening != "none":
            return None, None
        return self.space.mean.cpu(), self.space.std.cpu()

    def to_pixels(self, images: Tensor) -> Tensor:
        """Convert images in this space, [N, C, H, W], to pixels clamped to [0, 1] (for viewing)."""
        return self.space.to_pixels(images).clamp(0, 1)


def load_dataset(
    path: str | Path, device: torch.device | str = "cpu", whitening: str = "none"
) -> Dataset:
    """Read a file of ``python -m dd prepare`` (or one of the same format) onto ``device``.

    Args:
        path: the file.
        device: where all tensors are put.
        whitening: the space to read it in. ``none``: normalised by channel, whether or not the
            file holds a whitening. ``zca``: whitened pixels instead; images are whitened when
            they are taken.

    Raises:
        DDError: if the file is missing or broken, or a tensor is not what it should be; with
            ``zca`` also if the file holds no whitening, or that of an older version.
    """
    if whitening not in WHITENINGS:
        raise unknown("whitening", whitening, WHITENINGS)
    wanted = (*_TENSORS, *_ZCA_TENSORS) if whitening == "zca" else _TENSORS
    tensors, header = load_tensors(path, "dataset", _TENSORS, only=wanted, fields=HEADER)
    if whitening == "zca":
        if not any(name in tensors for name in _ZCA_TENSORS):
            raise DDError(f"{path}: holds no ZCA whitening; prepare it with --zca")
        check_space(path, header)
    classes = header.get("classes")
    if classes is None:
        labels = tensors["train_labels"]
        count = int(labels.max()) + 1 if len(labels) and not labels.is_floating_point() else 0
        classes = [str(label) for label in range(count)]
    _check(path, tensors, classes)
    name = header.get("name", Path(path).stem)
    label = header.get("label", name)
    identity = header.get("fingerprint") or fingerprint(tensors, classes)
    if whitening == "zca":
        identity += MARK + _digest(tensors, _ZCA_TENSORS)[:8]
    by_class = {
        part: _by_class(tensors[f"{part}_labels"], len(classes)) for part in ("train", "test")
    }
    tensors = {key: tensor.to(device) for key, tensor in tensors.items()}
    matrices = {key: tensors.get(key) for key in _ZCA_TENSORS}
    space = Space(tensors["mean"], tensors["std"], **matrices)
    train, test = (
        Split(
            images=tensors[f"{part}_images"],
            labels=tensors[f"{part}_labels"],
            by_class=by_class[part],
            space=space,
        )
        for part in ("train", "test")
    )
    _, channels, height, width = tensors["train_images"].shape
    return Dataset(
        name=name,
        label=label,
        classes=list(classes),
        channels=channels,
        size=(height, width),
        space=space,
        fingerprint=identity,
        train=train,
        test=test,
        header=header,
    )


def read_name(path: str | Path) -> str:
    """The name of the dataset in a file, from its header alone; by default the file's stem.

    Raises:
        DDError: if the file is missing or broken, or the name is no text.
    """
    return read_header(path, HEADER).get("name", Path(path).stem)


def fingerprint(tensors: Mapping[str, Tensor], classes: Sequence[str]) -> str:
    """16 hexadecimal digits of SHA-256 over class names and the name, shape and values of images,
    labels, mean and std. Two datasets with the same fingerprint give the same experiment.

    A whitening in the file does not count. If a dataset is read with it, :func:`load_dataset`
    appends a digest of the whitening.
    """
    return _digest(tensors, _TENSORS, repr(list(classes)))[:16]


def _digest(tensors: Mapping[str, Tensor], names: Sequence[str], first: str = "") -> str:
    """SHA-256 of the text ``first`` and of the tensors ``names``, in alphabetical order."""
    digest = hashlib.sha256(first.encode())
    for name in sorted(names):
        tensor = tensors[name].cpu().contiguous()
        digest.update(f"{name}{list(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()


def _pixels(images: Tensor) -> Tensor:
    return images.float().div_(255)


def _by_class(labels: Tensor, classes: int) -> list[Tensor]:
    order = labels.argsort(stable=True)
    return list(order.split(labels.bincount(minlength=classes).tolist()))


def _check(path: str | Path, tensors: dict[str, Tensor], classes: Sequence[str]) -> None:
    """Raise :class:`DDError` for the first tensor that is not what it should be."""

    def need(condition: bool, name: str, what: str) -> None:
        if not condition:
            actual = f"{list(tensors[name].shape)} {tensors[name].dtype}"
            raise DDError(f"{path}: tensor '{name}' must be {what}, found {actual}")

    def is_a(name: str, dtype: torch.dtype, shape: Sequence[int]) -> bool:
        return tensors[name].dtype == dtype and list(tensors[name].shape) == list(shape)

    images = tensors["train_images"]
    for part in ("train", "test"):
        name = f"{part}_images"
        need(
            tensors[name].dtype == torch.uint8
            and tensors[name].dim() == 4
            and len(tensors[name]) > 0,
            name,
            "uint8 [N, C, H, W] with N > 0",
        )
        need(tensors[name].shape[1] in (1, 3), name, "of 1 or 3 channels")
        need(tensors[name].shape[1:] == images.shape[1:], name, "of the training images' size")
    for part in ("train", "test"):
        name, labels = f"{part}_labels", tensors[f"{part}_labels"]
        count = len(tensors[f"{part}_images"])
        need(is_a(name, torch.int64, [count]), name, f"int64 [{count}], one label per image")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(classes):
            raise DDError(
                f"{path}: tensor '{name}' holds labels from {low} to {high}, "
                f"for {len(classes)} classes they must lie in 0..{len(classes) - 1}"
            )
    present = tensors["train_labels"].bincount(minlength=len(classes))
    for label, number in enumerate(present.tolist()):
        if number == 0:
            raise DDError(
                f"{path}: tensor 'train_labels' has no image of class {label} ('{classes[label]}')"
            )
    channels, dimensions = images.shape[1], images[0].numel()
    check_constants(path, tensors["mean"], tensors["std"], channels)
    if ("zca_mean" in tensors) != ("zca_matrix" in tensors):
        raise DDError(f"{path}: tensors 'zca_mean' and 'zca_matrix' must come together")
    if "zca_matrix" in tensors:
        shapes = {"zca_mean": [dimensions], "zca_matrix": [dimensions, dimensions]}
        for name, shape in shapes.items():
            need(is_a(name, torch.float32, shape), name, f"float32 {shape}")
            if not tensors[name].isfinite().all():
                raise DDError(f"{path}: tensor '{name}' must be finite")
