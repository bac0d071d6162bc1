"""Soft labels for each view of a synthetic set (SRe2L, arXiv:2306.13092, sections 3.3 and 3.4).

``python -m dd relabel`` writes them, and students learn from them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dd import __version__
from dd.artifacts.fields import NAME, PERCENT, WHOLE, block, list_of, some, whole
from dd.artifacts.headers import Fields, describe_tensors, read_header
from dd.artifacts.row_files import CODES, RowReader
from dd.artifacts.text import file_digest
from dd.config.settings import build
from dd.data.dataset import Dataset
from dd.data.space import check_space
from dd.data.views import Views, ViewSettings, draw
from dd.errors import DDError
from dd.evaluate import kd
from dd.training.train import shuffled

KIND = "labels"
_ROUNDED_UP = 1e-2  # a log-probability may be above 0 by its rounding
FACTORS = ("squared", "one")
_FIELDS: Fields = {  # of every header; those of "settings" are checked when views are made of them
    "kind": NAME,
    "seed": WHOLE,
    "views": whole(1),
    "keep": whole(0),
    "teachers": some(list_of(block({"network": NAME, "accuracy": PERCENT}))),
}
# What labels and the evaluated set must agree on, with the name in messages.
_AGREE = {
    "version": "code version",
    "fingerprint": "contents of the dataset",
    "synthetic": "contents of the synthetic set",
}


def loss(student: Tensor, teacher: Tensor, temperature: float, factor: str) -> Tensor:
    """KL(softmax(teacher / T) || softmax(student / T)), mean over the batch, times a factor.

    ``squared``: T², as in SRe2L's code for Tiny ImageNet. ``one``: 1, as in its code for ImageNet.
    With AdamW both train almost alike; with SGD they differ like learning rates by a factor of T².

    Args:
        student: logits ``[B, K]``; teacher: log-probabilities ``[B, K]``.
        temperature: T, above 0.
        factor: one of :data:`FACTORS`.
    """
    divergence = kd.divergence(teacher / temperature, student / temperature)
    return temperature**2 * divergence if factor == "squared" else divergence


def compact(log_probabilities: Tensor, keep: int) -> dict[str, Tensor]:
    """The stored form of ``log_probabilities [n, K]``.

    It takes 2·K bytes per view and image, or with ``keep`` k above 0 4·k + 2 (6·k + 2 above 32,768
    classes).

    Returns:
        ``log_probabilities`` ``[n, K]`` float16. With ``keep``: ``classes`` ``[n, k]``, the most
        probable ones, and ``log_probabilities`` ``[n, k + 1]``: their values, and last the value of
        each remaining class. The remaining classes share the remaining probability evenly.
    """
    if not keep:
        return {"log_probabilities": _half(log_probabilities)}
    classes = log_probabilities.shape[1]
    values, kept = log_probabilities.topk(keep, dim=1)
    left = log_probabilities.scatter(1, kept, -torch.inf).logsumexp(1, keepdim=True)
    values = torch.cat([values, left - math.log(classes - keep)], 1)
    return {"classes": kept.to(class_type(classes)), "log_probabilities": _half(values)}


def _half(values: Tensor) -> Tensor:
    """``values`` in float16. Smaller ones become -65504; e^-65504 is 0 at any temperature."""
    return values.clamp(min=torch.finfo(torch.float16).min).half()


def expand(stored: dict[str, Tensor], classes: int) -> Tensor:
    """Log-probabilities ``[n, K]`` float32 from the result of :func:`compact`."""
    values = stored["log_probabilities"].float()
    if "classes" not in stored:
        return values
    shares = values[:, -1:].expand(-1, classes)
    return shares.scatter(1, stored["classes"].long(), values[:, :-1])


def class_type(classes: int) -> torch.dtype:
    """The integer type in which class numbers are stored."""
    return torch.int16 if classes <= torch.iinfo(torch.int16).max + 1 else torch.int32


class SoftLabels:
    """The labels in a file of ``python -m dd relabel``, read view by view through a memory map.

    Args:
        path: the file.

    Raises:
        DDError: if the file is missing or broken, or holds no soft labels.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.header = path, read_header(path, _FIELDS)
        kind, shapes = self.header.get("kind"), describe_tensors(path)
        if kind not in (None, KIND):
            raise DDError(
                f"{path}: is a {kind} file, one of labels is needed (python -m dd relabel)"
            )
        if not self.header.keys() >= {*_FIELDS, "settings"} or "log_probabilities" not in shapes:
            raise DDError(f"{path}: is no file of soft labels (python -m dd relabel)")
        self._tensors = shapes
        both = ("classes", "log_probabilities") if self.header["keep"] else ("log_probabilities",)
        self.names = [name for name in both if name in shapes]
        self.shape = shapes["log_probabilities"][0]
        self.views: int = self.header["views"]
        self.seed: int = self.header["seed"]
        self.settings = _view_settings(path, self.header["settings"])
        self._rows = RowReader(path, ("view",))

    @property
    def teacher(self) -> str:
        """The networks that gave the labels, joined by dots."""
        return ".".join(teacher["network"] for teacher in self.header["teachers"])

    @property
    def accuracy(self) -> float:
        """Test accuracy of these networks in percent (the mean of several)."""
        accuracies = [teacher["accuracy"] for teacher in self.header["teachers"]]
        return sum(accuracies) / len(accuracies)

    def facts(self) -> dict[str, Any]:
        """How the labels were made, as columns of an evaluation, without teacher and views."""
        s = self.settings
        made = {"keep": self.header["keep"], "crop": s.crop, "flip": s.flip, "cutmix": s.cutmix}
        return {"teacher_accuracy": round(self.accuracy, 4), **made}

    def check(self, dataset: Dataset, synthetic: Path, count: int) -> None:
        """Raise a :class:`DDError` unless these are the labels of the file ``synthetic``.

        Args:
            dataset: for which the set was read.
            synthetic: the file of the set.
            count: number of its images.
        """
        check_space(self.path, self.header)
        for key, value in agreement(dataset, synthetic).items():
            if self.header.get(key) != value:
                raise DDError(
                    f"{self.path}: {_AGREE[key]} of the labels is {self.header.get(key)}, of "
                    f"{synthetic} {value}; make the labels again (python -m dd relabel)"
                )
        width = self.header["keep"] + 1 if self.header["keep"] else len(dataset.classes)
        if self.shape != [self.views, count, width]:
            raise DDError(
                f"{self.path}: 'log_probabilities' is {self.shape}, it must be "
                f"[{self.views}, {count}, {width}]; make the labels again (python -m dd relabel)"
            )
        wanted = {"log_probabilities": (CODES[torch.float16], self.shape)}
        if self.header["keep"]:
            kept = [self.views, count, self.header["keep"]]
            wanted["classes"] = (CODES[class_type(len(dataset.classes))], kept)
        for name, (dtype, shape) in wanted.items():
            if self._tensors.get(name) != (shape, dtype):
                raise DDError(
                    f"{self.path}: '{name}' must be {dtype} {shape}; make the labels again (python "
                    "-m dd relabel)"
                )

    def check_batch(self, size: int) -> None:
        """Raise a :class:`DDError` unless students with batches of ``size`` images see the batches
        that were mixed."""
        count, mixed = self.shape[1], self.settings.batch
        if self.settings.cutmix and min(size, count) != min(mixed, count):
            raise DDError(
                f"--batch is {size}, but {self.path} mixes the images of batches of {mixed} "
                f"(CutMix); evaluate with --batch {mixed}, or make the labels again "
                f"(python -m dd relabel --batch {size})"
            )

    def read(self, view: int) -> dict[str, Tensor]:
        """The stored labels of all images in ``view``, see :func:`compact`.

        Raises:
            DDError: if their checksum differs, or they are no labels.
        """
        stored = {name: self._rows.read(name, (view,)) for name in self.names}
        values = stored["log_probabilities"]
        if not (values.isfinite().all() and values.max() <= _ROUNDED_UP):
            raise DDError(f"{self.path}: view {view} has values that are no log-probabilities")
        return stored


def _view_settings(path: Path, stored: Any) -> ViewSettings:
    """The settings of views in a header.

    Raises:
        DDError: if their names are those of another code version, which drew other views.
    """
    known = [field.name for field in fields(ViewSettings)]
    if not isinstance(stored, dict) or sorted(stored) != sorted(known):
        raise DDError(
            f"{path}: its labels are of views that are no longer drawn like this (settings must be "
            f"{', '.join(known)}); make the labels again (python -m dd relabel)"
        )
    return build(ViewSettings, stored, f"{path}: settings in the header")


def agreement(dataset: Dataset, synthetic: Path) -> dict[str, str]:
    """What labels depend on besides their settings and teachers."""
    values = (__version__, dataset.fingerprint, file_digest(synthetic))
    return dict(zip(_AGREE, values, strict=True))


class LabelledViews:
    """The views of a synthetic set with their labels; epoch e shows view e mod E.

    It is both a :class:`dd.training.train.Feed` and a :class:`dd.training.train.Guide`.

    Args:
        labels: the soft labels of the set.
        images: ``[M, C, H, W]`` on the device, in normalised units.
        classes: K.
    """

    def __init__(self, labels: SoftLabels, images: Tensor, classes: int) -> None:
        self.labels, self.images, self.classes = labels, images, classes
        self._view = -1
        self._drawn: Views
        self._stored: dict[str, Tensor]

    def batches(
        self, generators: Sequence[torch.Generator], size: int, epoch: int
    ) -> Iterator[Tensor]:
        """See :class:`dd.training.train.Feed`.

        Mixed images come in the batches in which they were mixed, the same for all networks. Other
        images come in a different order for each network.
        """
        if not self.labels.settings.cutmix:
            return shuffled(generators, len(self.images), size, self.images.device)
        self._turn_to(epoch)
        return (part.expand(len(generators), -1) for part in self._drawn.order.split(size))

    def batch(self, indices: Tensor, generators: Sequence[torch.Generator], epoch: int) -> Tensor:
        """See :class:`dd.training.train.Feed`; nothing is drawn from the generators."""
        self._turn_to(epoch)
        return self._drawn.apply(self.images, indices.flatten()).unflatten(0, indices.shape)

    def at(self, indices: Tensor, batch: Tensor, epoch: int) -> Tensor:
        """See :class:`dd.training.train.Guide`: log-probabilities, which can serve as logits."""
        self._turn_to(epoch)
        chosen = indices.flatten()
        stored = {name: values[chosen] for name, values in self._stored.items()}
        return expand(stored, self.classes).unflatten(0, indices.shape)

    def _turn_to(self, epoch: int) -> None:
        view = epoch % self.labels.views
        if view == self._view:
            return
        count, _, height, width = self.images.shape
        self._view = view
        drawn = draw(self.labels.seed, view, count, (height, width), self.labels.settings)
        self._drawn = drawn.to(self.images.device)
        stored = self.labels.read(view)
        kept = stored.get("classes")
        if kept is not None and not 0 <= int(kept.min()) <= int(kept.max()) < self.classes:
            raise DDError(f"{self.labels.path}: view {view} names a class that is not there")
        self._stored = {name: values.to(self.images.device) for name, values in stored.items()}
