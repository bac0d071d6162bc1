"""The synthetic set: what distillation makes and evaluation takes (``docs/formats.md``)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dd.artifacts import load_tensors, save_tensors
from dd.data.dataset import Dataset
from dd.errors import DDError


@dataclass
class SyntheticSet:
    """Images to train on, with labels and the normalisation they live in.

    Attributes:
        images: ``[M, C, H, W]`` float32, in normalised units (ZCA-whitened if ``header`` says so).
        labels: ``[M]`` int64, or ``[M, K]`` float32 class probabilities when soft.
        mean, std: ``[C]`` float32 normalisation, or None: that of the dataset it is used with.
        learned_lr: the student's learning rate where the method learned one.
        header: provenance and facts (dataset, spec, ipc, iteration, zca).
    """

    images: torch.Tensor
    labels: torch.Tensor
    mean: torch.Tensor | None = None
    std: torch.Tensor | None = None
    learned_lr: float | None = None
    header: dict[str, Any] = field(default_factory=dict)

    @property
    def hard_labels(self) -> torch.Tensor:
        """``[M]`` int64: the labels, or the most probable class of soft ones."""
        return hard_labels(self.labels)

    def images_for(self, dataset: Dataset) -> torch.Tensor:
        """The images ``[M, C, H, W]`` in the normalised units of ``dataset``.

        Raises:
            DDError: if shape, classes or whitening do not fit the dataset.
        """
        expected = (dataset.channels, *dataset.size)
        if tuple(self.images.shape[1:]) != expected:
            raise DDError(
                f"synthetic set: images are {_size(self.images.shape[1:])}, "
                f"dataset {dataset.name} has {_size(expected)}"
            )
        classes = len(dataset.classes)
        if self.labels.ndim == 2 and self.labels.shape[1] != classes:
            raise DDError(
                f"synthetic set: soft labels have {self.labels.shape[1]} classes, "
                f"dataset {dataset.name} has {classes}"
            )
        if (
            self.labels.ndim == 1
            and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < classes
        ):
            raise DDError(
                f"synthetic set: labels span {int(self.labels.min())} to "
                f"{int(self.labels.max())}, dataset {dataset.name} has classes 0 to {classes - 1}"
            )
        whitened = bool(self.header.get("zca", dataset.whitened))
        if whitened != dataset.whitened:
            state = {True: "ZCA-whitened", False: "not whitened"}
            raise DDError(
                f"synthetic set: its images are {state[whitened]}, dataset {dataset.name} is "
                f"{state[dataset.whitened]}; prepare the dataset "
                f"{'with' if whitened else 'without'} --zca"
            )
        if self.mean is None or self.std is None:
            return self.images
        mean, std = dataset.mean.cpu(), dataset.std.cpu()
        if torch.equal(self.mean, mean) and torch.equal(self.std, std):
            return self.images
        if whitened:
            raise DDError(
                f"synthetic set: it was whitened under another normalisation than dataset "
                f"{dataset.name}; use the dataset file that it was distilled from"
            )
        column = (1, -1, 1, 1)
        pixels = self.images * self.std.view(column) + self.mean.view(column)
        return (pixels - mean.view(column)) / std.view(column)


def hard_labels(labels: torch.Tensor) -> torch.Tensor:
    """``[M]`` int64 from hard ``[M]`` or soft ``[M, K]`` labels."""
    return labels.argmax(1) if labels.ndim == 2 else labels


def _size(shape: Any) -> str:
    return "x".join(str(int(n)) for n in shape)


def save(path: str | Path, synthetic: SyntheticSet) -> None:
    """Write the set as an artifact of kind ``synthetic``."""
    tensors = {"images": synthetic.images, "labels": synthetic.labels}
    if synthetic.mean is not None and synthetic.std is not None:
        tensors |= {"mean": synthetic.mean, "std": synthetic.std}
    if synthetic.learned_lr is not None:
        tensors["learned_lr"] = torch.tensor(synthetic.learned_lr)
    save_tensors(path, "synthetic", tensors, synthetic.header)


def load(path: str | Path) -> SyntheticSet:
    """Read a synthetic set, ours or anybody's in the documented format.

    Raises:
        DDError: if the file is missing, broken, or its tensors are not as documented.
    """
    tensors, header = load_tensors(path, "synthetic", required=("images", "labels"))
    images, labels = tensors["images"], tensors["labels"]
    if images.ndim != 4 or images.dtype != torch.float32 or images.numel() == 0:
        raise DDError(
            f"{path}: 'images' is {images.dtype} {list(images.shape)}, "
            "it must be float32 [M, C, H, W]"
        )
    hard = labels.ndim == 1 and labels.dtype == torch.int64
    soft = labels.ndim == 2 and labels.dtype == torch.float32
    if not (hard or soft) or len(labels) != len(images):
        raise DDError(
            f"{path}: 'labels' is {labels.dtype} {list(labels.shape)}, it must be int64 "
            f"[{len(images)}], or float32 [{len(images)}, classes] when soft"
        )
    for name, tensor in (("images", images), ("labels", labels)):
        if not torch.isfinite(tensor).all():
            raise DDError(f"{path}: '{name}' holds NaN or infinite values")
    if soft and not (labels.min() >= 0 and (labels.sum(1) - 1).abs().max() < 1e-2):
        raise DDError(f"{path}: 'labels' must be probabilities: each row from 0 to 1, of sum 1")
    mean, std = tensors.get("mean"), tensors.get("std")
    if (mean is None) != (std is None):
        raise DDError(f"{path}: 'mean' and 'std' come together, one is missing")
    if mean is not None and not mean.dtype == std.dtype == torch.float32:
        raise DDError(f"{path}: 'mean' and 'std' must be float32")
    if mean is not None and (mean.shape != (images.shape[1],) or std.shape != mean.shape):
        raise DDError(f"{path}: 'mean' and 'std' must be [{images.shape[1]}], one a channel")
    if mean is not None and not (mean.isfinite().all() and 0 < std.min() <= std.max() < math.inf):
        raise DDError(f"{path}: 'mean' and 'std' must be finite, 'std' above 0")
    rate = tensors.get("learned_lr")
    if rate is not None and not (rate.numel() == 1 and 0 < rate.item() < math.inf):
        raise DDError(f"{path}: 'learned_lr' must be one number above 0")
    return SyntheticSet(images, labels, mean, std, None if rate is None else rate.item(), header)
