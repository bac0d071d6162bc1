"""The options of stages that read a synthetic set and the dataset that it was made from."""

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
        "--synthetic", required=True, type=Path, metavar="FILE", help="set (docs/formats.md)"
    )
    group.add_argument("--data", required=True, type=Path, metavar="FILE", help="prepared dataset")
    group.add_argument(
        "--whitening",
        choices=("auto", *WHITENINGS),
        default="auto",
        help="space of the images; auto: what the set says, none if it says nothing",
    )


def read_set(arguments: argparse.Namespace, device: torch.device) -> tuple[SyntheticSet, Dataset]:
    """What the options of :func:`add_set_options` name, the dataset on ``device``."""
    made = synthetic.load(arguments.synthetic)
    return made, load_dataset(arguments.data, device, _whitening(made, arguments))


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
