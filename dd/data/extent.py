"""The size of a dataset: images, classes, pixels. Known without torch and before preparation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dd.artifacts.headers import describe_tensors, load_arrays, read_header
from dd.errors import DDError


@dataclass(frozen=True)
class Extent:
    """The size of a dataset.

    Attributes:
        train, test: images of both splits.
        classes: number of classes.
        size: height and width of an image in pixels.
        channels: 1 (grey) or 3.
    """

    train: int
    test: int
    classes: int
    size: tuple[int, int]
    channels: int = 3

    @property
    def values(self) -> int:
        """The number of values of one image."""
        return self.channels * self.size[0] * self.size[1]


KNOWN = {
    "digits": Extent(1_438, 359, 10, (8, 8), 1),
    "mnist": Extent(60_000, 10_000, 10, (28, 28), 1),
    "fashion_mnist": Extent(60_000, 10_000, 10, (28, 28), 1),
    "svhn": Extent(73_257, 26_032, 10, (32, 32)),
    "cifar10": Extent(50_000, 10_000, 10, (32, 32)),
    "cifar100": Extent(50_000, 10_000, 100, (32, 32)),
    "tiny-imagenet": Extent(100_000, 10_000, 200, (64, 64)),
    "tiny_imagenet": Extent(100_000, 10_000, 200, (64, 64)),
    "imagenette": Extent(9_469, 3_925, 10, (128, 128)),
    "imagewoof": Extent(9_025, 3_929, 10, (128, 128)),
}
"""By source, or by the name that ``comparable_to`` or a run gives to a published dataset."""


def of_file(path: str | Path) -> Extent:
    """The extent of a prepared file.

    Raises:
        DDError: if it is broken.
    """
    shapes = {name: shape for name, (shape, _) in describe_tensors(path).items()}
    if len(shapes.get("train_images", [])) != 4 or not shapes.get("test_images"):
        raise DDError(f"{path}: is no dataset file: it needs train_images and test_images")
    count, channels, height, width = shapes["train_images"]
    classes = read_header(path).get("classes")
    if not isinstance(classes, list):  # somebody else's file
        labels, _ = load_arrays(path, "dataset", only=["train_labels"])
        classes = range(int(labels["train_labels"].max()) + 1)
    return Extent(count, shapes["test_images"][0], len(classes), (height, width), channels)


def of_options(dataset: str, options: Mapping[str, Any]) -> Extent | None:
    """The extent of a dataset of a run that is not prepared yet; None if nobody knows it.

    Args:
        dataset: its name in the run.
        options: what the run says of it.
    """
    names = (options.get("comparable_to"), options["source"], dataset)
    known = next((KNOWN[name] for name in names if name in KNOWN), None)
    if known is None:
        return None
    side = options.get("resize")
    size = (side, side) if side else known.size
    return replace(known, size=size, channels=options.get("channels", known.channels))
