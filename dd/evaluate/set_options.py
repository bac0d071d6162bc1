"""The options of stages that read a synthetic set and the dataset from which it was made."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from dd.data import synthetic
from dd.data.dataset import Dataset, load_dataset
from dd.data.space import WHITENINGS
from dd.data.synthetic import SyntheticSet
from dd.errors import DDError


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


def read_set(arguments: argparse.Namespace, device: torch.device) -> tuple[SyntheticSet, Dataset]:
    """The set and the dataset that the options of :func:`add_set_options` name.

    The dataset is on ``device``.
    """
    made = synthetic.load(arguments.synthetic)
    return made, load_dataset(arguments.data, device, _whitening(made, arguments))


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
