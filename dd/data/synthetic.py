"""The synthetic set: the output of distillation, the input of evaluation (``docs/formats.md``)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dd.artifacts.fields import BLOCK, TEXT, WHOLE, block, list_of, optional, whole
from dd.artifacts.headers import Fields, read_header
from dd.artifacts.tensors import load_tensors, save_tensors
from dd.data.dataset import Dataset
from dd.data.space import MARK, WHITENINGS, Space, check_constants, check_space
from dd.errors import DDError, unknown

_TENSORS = ("images", "indices", "labels", "mean", "std", "learned_lr", "rates", "batches")
LEARNED = ("probabilities", "targets")
"""What labels ``[M, K]`` can be: class probabilities, or targets of a regression (any numbers)."""

_FIELDS: Fields = {  # of the header, whoever wrote it
    "labels": optional(TEXT),
    "fixed_start": optional(
        block({"seed": WHOLE, "students": whole(1), "networks": list_of(TEXT)})
    ),
    "objective": optional(TEXT),
    "classes": optional(list_of(TEXT)),
    "whitening": optional(TEXT),
    "fingerprint": optional(TEXT),
    "zca": optional(BLOCK),
}


@dataclass(frozen=True)
class Schedule:
    """The steps for which a set was made, if networks are meant to take exactly these (``dd``).

    Attributes:
        rates: ``[J]`` float32, the learning rate of each step.
        batches: ``[M]`` int64, the batch that each image belongs to, 0 to S - 1. Step j sees the
            images of batch j mod S.
    """

    rates: torch.Tensor
    batches: torch.Tensor

    def indices(self) -> list[torch.Tensor]:
        """The images of each of the S batches."""
        return [
            (self.batches == batch).nonzero().flatten()
            for batch in range(int(self.batches.max()) + 1)
        ]


@dataclass
class SyntheticSet:
    """Images to train on, with their labels and their normalisation.

    The set stores its images, or their indices in the training split of the dataset (8 bytes per
    image, so that a whole training split can be a set).

    Attributes:
        images: ``[M, C, H, W]`` float32, in normalised units, or ZCA-whitened pixels if ``header``
            says so (:mod:`dd.data.space`). None: ``indices`` gives the images.
        labels: ``[M]`` int64, or ``[M, K]`` float32: class probabilities, or targets of a
            regression if ``header`` says so (:attr:`regresses`).
        mean, std: ``[C]`` float32, the normalisation of ``images``. None: that of the dataset, or
            no normalisation if the images are whitened.
        learned_lr: the student's learning rate if the method learned one.
        header: provenance and facts (dataset, spec, ipc, iteration, whitening).
        indices: ``[M]`` int64 into the training split, in place of ``images``; else None.
        extras: further tensors that the method keeps, with a dot in their names
            (``importance.convnet``). Written by :func:`save`; only tables and figures read
            them (:mod:`dd.report.read.vectors`).
        schedule: the steps that networks should take on the set; None: the set does not say it.

    Raises:
        ValueError: if both or neither of ``images`` and ``indices`` are given, or an extra has no
            dot in its name.
    """

    images: torch.Tensor | None
    labels: torch.Tensor
    mean: torch.Tensor | None = None
    std: torch.Tensor | None = None
    learned_lr: float | None = None
    header: dict[str, Any] = field(default_factory=dict)
    indices: torch.Tensor | None = None
    extras: dict[str, torch.Tensor] = field(default_factory=dict)
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        if (self.images is None) == (self.indices is None):
            raise ValueError("a synthetic set has either images or indices")
        if undotted := [name for name in self.extras if "." not in name]:
            raise ValueError(f"extras of a synthetic set need a dot in their names: {undotted}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def whitening(self) -> str | None:
        """The space of the images, one of ``WHITENINGS``; None if the set does not say it."""
        return self.header.get("whitening")

    @property
    def regresses(self) -> bool:
        """Whether the labels are targets of a regression (mean squared error), no probabilities."""
        return self.labels.ndim == 2 and self.header.get("labels") == "targets"

    @property
    def hard_labels(self) -> torch.Tensor:
        """``[M]`` int64: the labels, or of soft labels the classes with the largest values."""
        return hard_labels(self.labels)

    def images_for(self, dataset: Dataset) -> torch.Tensor:
        """The images ``[M, C, H, W]`` in the space of ``dataset``.

        If the set has another normalisation than the dataset, it is converted; its pixels stay the
        same.

        Raises:
            DDError: if shape, classes, whitening or indices do not fit the dataset.
        """
        self._check_labels(dataset)
        said = self.whitening or dataset.whitening
        if said != dataset.whitening:
            raise DDError(
                f"synthetic set: its images have the whitening {said}, dataset {dataset.name} was "
                f"read with {dataset.whitening}; read it with {said}"
            )
        if self.images is None:
            return self._real_images(dataset)
        expected = (dataset.channels, *dataset.size)
        if tuple(self.images.shape[1:]) != expected:
            raise DDError(
                f"synthetic set: images are {_size(self.images.shape[1:])}, "
                f"dataset {dataset.name} has {_size(expected)}"
            )
        if dataset.whitening != "none":
            self._check_whitened(dataset)
            return self.images
        if self.mean is None or self.std is None:
            return self.images
        space = dataset.space
        if torch.equal(self.mean, space.mean.cpu()) and torch.equal(self.std, space.std.cpu()):
            return self.images
        return space.from_pixels(Space(self.mean, self.std).to_pixels(self.images))

    def _check_whitened(self, dataset: Dataset) -> None:
        """Refuse a whitened set that has a normalisation, or that names another whitening.

        If the set names its dataset by a fingerprint, it must have been whitened as ``dataset`` is.
        """
        if self.mean is not None:
            raise DDError(
                "synthetic set: it has 'mean' and 'std', but its images should be whitened; the "
                "whitening zca is of pixels in [0, 1], without a normalisation before or after"
            )
        mark = f"{MARK}{dataset.fingerprint.rpartition(MARK)[2]}"
        said = str(self.header.get("fingerprint", mark))
        if not said.endswith(mark):
            raise DDError(
                f"synthetic set: it was whitened for a dataset with fingerprint {said}, dataset "
                f"{dataset.name} has {dataset.fingerprint}, another whitening; use the dataset "
                "file that it was distilled from"
            )

    def _check_labels(self, dataset: Dataset) -> None:
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

    def _real_images(self, dataset: Dataset) -> torch.Tensor:
        """The training images that the indices select."""
        assert self.indices is not None  # it has no images
        made_from = self.header.get("fingerprint", dataset.fingerprint)
        if made_from != dataset.fingerprint:
            raise DDError(
                f"synthetic set: its indices are into a dataset with fingerprint {made_from}, "
                f"dataset {dataset.name} has {dataset.fingerprint}; use the dataset file that it "
                "was made from"
            )
        low, high = int(self.indices.min()), int(self.indices.max())
        if not 0 <= low <= high < len(dataset.train):
            raise DDError(
                f"synthetic set: indices span {low} to {high}, dataset {dataset.name} has training "
                f"images 0 to {len(dataset.train) - 1}"
            )
        return dataset.train.take(self.indices.to(dataset.train.images.device))


def hard_labels(labels: torch.Tensor) -> torch.Tensor:
    """``[M]`` int64 from hard labels ``[M]`` or labels ``[M, K]`` of any kind."""
    return labels.argmax(1) if labels.ndim == 2 else labels


def renumbered(labels: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Labels ``[M]`` or ``[M, K]`` whose class k becomes class ``order[k]``; ``order`` ``[K]``."""
    if labels.ndim == 1:
        return order[labels]
    moved = torch.empty_like(labels)
    moved[:, order] = labels
    return moved


def are_probabilities(labels: torch.Tensor) -> bool:
    """Whether soft labels ``[M, K]`` are probabilities: from 0, and each row sums to 1 ± 0.01."""
    return bool(labels.min() >= 0 and (labels.sum(1) - 1).abs().max() < 1e-2)


def _size(shape: Any) -> str:
    return "x".join(str(int(n)) for n in shape)


def save(path: str | Path, synthetic: SyntheticSet) -> None:
    """Write the set as an artifact of kind ``synthetic``."""
    tensors = {"labels": synthetic.labels, **synthetic.extras}
    for name, tensor in (("images", synthetic.images), ("indices", synthetic.indices)):
        if tensor is not None:
            tensors[name] = tensor
    if synthetic.mean is not None and synthetic.std is not None:
        tensors |= {"mean": synthetic.mean, "std": synthetic.std}
    if synthetic.schedule is not None:
        tensors |= {"rates": synthetic.schedule.rates, "batches": synthetic.schedule.batches}
    if synthetic.learned_lr is not None:
        tensors["learned_lr"] = torch.tensor(synthetic.learned_lr)
    save_tensors(path, "synthetic", tensors, synthetic.header)


def load(path: str | Path) -> SyntheticSet:
    """Read a synthetic set, ours or any other in the documented format, without its extras.

    Raises:
        DDError: if the file is missing, broken, or its tensors are not as documented.
    """
    tensors, header = load_tensors(path, "synthetic", ("labels",), _TENSORS, _FIELDS)
    _check_whitening(path, header)
    images, indices, labels = tensors.get("images"), tensors.get("indices"), tensors["labels"]
    if images is not None and indices is not None:
        raise DDError(f"{path}: holds 'images' and 'indices'; a set has one of them")
    if images is not None:
        _check_images(path, images)
        count = len(images)
    elif indices is not None:
        _check_indices(path, indices)
        count = len(indices)
    else:
        raise DDError(f"{path}: is no synthetic file: tensor 'images' is missing (or 'indices')")
    hard = labels.ndim == 1 and labels.dtype == torch.int64
    soft = labels.ndim == 2 and labels.dtype == torch.float32
    if not (hard or soft) or len(labels) != count:
        raise DDError(
            f"{path}: 'labels' is {labels.dtype} {list(labels.shape)}, it must be int64 "
            f"[{count}], or float32 [{count}, classes] when soft"
        )
    for name, tensor in (("images", images), ("labels", labels)):
        if tensor is not None and not torch.isfinite(tensor).all():
            raise DDError(f"{path}: '{name}' holds NaN or infinite values")
    kind = header.get("labels") or LEARNED[0]
    if kind not in LEARNED:
        raise DDError(f"{path}: header: {unknown('kind of labels', kind, LEARNED)}")
    free = kind == "targets"
    if soft and not free and not are_probabilities(labels):
        raise DDError(f"{path}: 'labels' must be probabilities from 0 to 1, each row with sum 1")
    mean, std = tensors.get("mean"), tensors.get("std")
    _check_normalisation(path, mean, std, None if images is None else images.shape[1])
    if images is not None and mean is not None and header.get("whitening") == "zca":
        raise DDError(
            f"{path}: it has 'mean' and 'std', but its images should be whitened (its header says "
            "zca); leave one of these out"
        )
    rate = tensors.get("learned_lr")
    if rate is not None and not (
        rate.numel() == 1 and not rate.is_complex() and 0 < rate.item() < math.inf
    ):
        raise DDError(f"{path}: 'learned_lr' must be one number above 0")
    schedule = _schedule(path, tensors.get("rates"), tensors.get("batches"), count)
    return SyntheticSet(
        images,
        labels,
        mean,
        std,
        None if rate is None else rate.item(),
        header,
        indices,
        schedule=schedule,
    )


def _schedule(
    path: str | Path, rates: torch.Tensor | None, batches: torch.Tensor | None, count: int
) -> Schedule | None:
    """The schedule in a file of ``count`` images, if there is one."""
    if (rates is None) != (batches is None):
        raise DDError(f"{path}: 'rates' and 'batches' come together, one is missing")
    if rates is None or batches is None:
        return None
    if rates.ndim != 1 or rates.dtype != torch.float32 or not len(rates):
        raise DDError(
            f"{path}: 'rates' is {rates.dtype} {list(rates.shape)}, it must be float32 [steps]"
        )
    if not (rates.isfinite().all() and rates.min() >= 0):
        raise DDError(f"{path}: 'rates' must be finite numbers from 0")
    if batches.shape != (count,) or batches.dtype != torch.int64:
        raise DDError(
            f"{path}: 'batches' is {batches.dtype} {list(batches.shape)}, it must be int64 "
            f"[{count}]"
        )
    named = batches.unique().tolist()
    if named != list(range(len(named))) or len(named) > len(rates):
        raise DDError(
            f"{path}: 'batches' must number at most {len(rates)} batches (there are as many rates) "
            "from 0, without a gap"
        )
    return Schedule(rates, batches)


def whitening(path: str | Path) -> str | None:
    """The space of the set at ``path`` (see :attr:`SyntheticSet.whitening`), from its header alone.

    Raises:
        DDError: if the file is missing or broken, or the whitening unknown.
    """
    header = read_header(path, _FIELDS)
    _check_whitening(path, header)
    return header.get("whitening")


def _check_whitening(path: str | Path, header: dict[str, Any]) -> None:
    said = header.get("whitening")
    if said is not None and said not in WHITENINGS:
        raise DDError(f"{path}: header: {unknown('whitening', str(said), WHITENINGS)}")
    check_space(path, header)


def _check_images(path: str | Path, images: torch.Tensor) -> None:
    if images.ndim != 4 or images.dtype != torch.float32 or images.numel() == 0:
        raise DDError(
            f"{path}: 'images' is {images.dtype} {list(images.shape)}, "
            "it must be float32 [M, C, H, W]"
        )


def _check_indices(path: str | Path, indices: torch.Tensor) -> None:
    if indices.ndim != 1 or indices.dtype != torch.int64 or indices.numel() == 0:
        raise DDError(
            f"{path}: 'indices' is {indices.dtype} {list(indices.shape)}, it must be int64 [M]"
        )


def _check_normalisation(
    path: str | Path, mean: torch.Tensor | None, std: torch.Tensor | None, channels: int | None
) -> None:
    if (mean is None) != (std is None):
        raise DDError(f"{path}: 'mean' and 'std' come together, one is missing")
    if mean is None or std is None:
        return
    # without images: those of the dataset, which are normalised already
    check_constants(path, mean, std, mean.numel() if channels is None else channels)
