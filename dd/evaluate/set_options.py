"""The options of stages that read a synthetic set and the dataset from which it was made."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from dd.data import synthetic
from dd.data.dataset import Dataset, load_dataset
from dd.data.fit import fit, in_split
from dd.data.space import WHITENINGS
from dd.data.synthetic import SyntheticSet
from dd.errors import DDError
from dd.runtime.say import say


def add_set_options(group: argparse._ActionsContainer) -> None:
    """``--synthetic``, ``--data`` and ``--whitening``, the same for stages that read a set."""
    group.add_argument(
        "--synthetic",
        required=True,
        type=Path,
        metavar="FILE",
        help="synthetic set (docs/formats.md)",
    )
    group.add_argument("--data", required=True, type=Path, metavar="FILE", help="prepared dataset")
    group.add_argument(
        "--whitening",
        choices=("auto", *WHITENINGS),
        default="auto",
        help="space of the images; auto: the space that the set names; none if it names none",
    )
    group.add_argument(
        "--allow-test-images",
        action="store_true",
        help="accept a set with images of the dataset's test split",
    )


def read_set(
    stage: str, arguments: argparse.Namespace, device: torch.device
) -> tuple[SyntheticSet, Dataset, str]:
    """The set and the dataset that the options of :func:`add_set_options` name.

    Prints what a user must know of them.

    Returns:
        The set, its labels in the order of the dataset's classes; the dataset on ``device``; and
        whether the set was made from this data (:data:`dd.data.fit.SAME`, ...).

    Raises:
        DDError: if they do not belong together, or test images are in the set.
    """
    made = synthetic.load(arguments.synthetic)
    dataset = load_dataset(arguments.data, device, _whitening(made, arguments))
    made, notes, data = fit(made, dataset)
    for note in notes:
        say(f"{stage}: {arguments.synthetic}: {note}")
    # indices are of the training split: whatever it shares with the test split is the dataset's own
    if made.images is not None and not arguments.allow_test_images:
        images = made.images_for(dataset).to(device)
        for note in _check_unseen(images, dataset, arguments.synthetic):
            say(f"{stage}: {note}")
    return made, dataset, data


def _check_unseen(images: Tensor, dataset: Dataset, path: Path) -> list[str]:
    """Refuse the set at ``path`` if ``images`` of it are test images of ``dataset``; what a user
    must know otherwise.

    Images that are in both splits are the dataset's own, and only noted: a set of real training
    images may hold them.
    """
    shared = in_split(images, dataset, dataset.test)
    own = in_split(images[shared], dataset, dataset.train) if shared else []
    both = {shared[number] for number in own}
    tested = [number for number in shared if number not in both]
    if tested:
        raise DDError(
            f"{path}: {_of(tested, images)} in the test split of {dataset.name} (the first is "
            f"image {tested[0]}): networks would be tested on images that they were trained on; "
            "--allow-test-images overrides this"
        )
    held = f"in the training and in the test split of {dataset.name}"
    return [f"{path}: {_of(both, images)} {held}"] if both else []


def _of(some: Collection[int], images: Tensor) -> str:
    return f"{len(some)} of its {len(images)} images {'is' if len(some) == 1 else 'are'}"


def _whitening(made: SyntheticSet, arguments: argparse.Namespace) -> str:
    """The space in which the dataset is read.

    If the set names its space, ``--whitening`` must not name another one.
    """
    stored, option = made.whitening, arguments.whitening
    if option == "auto":
        return stored or "none"
    if stored not in (None, option):
        raise DDError(
            f"--whitening is {option}, but {arguments.synthetic} says that its images have "
            f"whitening {stored}; leave --whitening out"
        )
    return option
