"""The options of stages that read a synthetic set and the dataset that it was made from."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from dd.data import synthetic
from dd.data.dataset import Dataset, load_dataset
from dd.data.fit import fit, in_test_split
from dd.data.space import WHITENINGS
from dd.data.synthetic import SyntheticSet
from dd.errors import DDError


def add_set_options(group: argparse._ActionsContainer) -> None:
    """``--synthetic``, ``--data`` and ``--whitening``, the same for stages that read a set."""
    group.add_argument(
        "--synthetic", required=True, type=Path, metavar="FILE", help="set (docs/formats.md)"
    )
    group.add_argument("--data", required=True, type=Path, metavar="FILE", help="prepared dataset")
    group.add_argument(
        "--whitening",
        choices=("auto", *WHITENINGS),
        default="auto",
        help="space of the images; auto: what the set says, none if it says nothing",
    )
    group.add_argument(
        "--allow-test-images",
        action="store_true",
        help="go on if images of the set are in the test split of the dataset",
    )


def read_set(
    stage: str, arguments: argparse.Namespace, device: torch.device
) -> tuple[SyntheticSet, Dataset, str]:
    """What the options of :func:`add_set_options` name: the set, with its labels in the order of
    the dataset's classes, the dataset on ``device``, and whether the set was made from this data
    (:data:`dd.data.fit.SAME`, ...). What a user must know of them is printed.

    Raises:
        DDError: if they do not belong together, or test images are in the set.
    """
    made = synthetic.load(arguments.synthetic)
    dataset = load_dataset(arguments.data, device, _whitening(made, arguments))
    made, notes, data = fit(made, dataset)
    for note in notes:
        print(f"{stage}: {arguments.synthetic}: {note}")
    # indices are of the training split: whatever it shares with the test split is the dataset's own
    if made.images is not None and not arguments.allow_test_images:
        shared = in_test_split(made.images_for(dataset).to(device), dataset)
        if shared:
            raise DDError(
                f"{arguments.synthetic}: {len(shared)} of its {len(made)} images "
                f"{'is' if len(shared) == 1 else 'are'} in the test split of {dataset.name} (the "
                f"first is image {shared[0]}): accuracies would count what was learned by heart; "
                "--allow-test-images goes on"
            )
    return made, dataset, data


def _whitening(made: SyntheticSet, arguments: argparse.Namespace) -> str:
    """The space to read the dataset in: the set's own, which ``--whitening`` may only confirm."""
    said, asked = made.whitening, arguments.whitening
    if asked == "auto":
        return said or "none"
    if said not in (None, asked):
        raise DDError(
            f"--whitening is {asked}, but {arguments.synthetic} says that its images have {said}; "
            "leave --whitening out"
        )
    return asked
