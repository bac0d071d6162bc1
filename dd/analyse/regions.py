"""Where networks look: the regions of their maps, and the options of stages that ask several.

Reading maps for tables needs this file without torch.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, TypeVar

from dd.errors import DDError
from dd.networks.options import RECTIFY, RELU

KIND = "cams"  # of files of maps
THRESHOLD = 0.5  # of a normalised map: half of its range

Masks = TypeVar("Masks", bound=Any)  # tensors of torch or arrays of NumPy


def regions(maps: Masks, threshold: float) -> tuple[Masks, Masks]:
    """Where all networks look, and where each looks beside that.

    Args:
        maps: ``[M, N, h, w]``, normalised.
        threshold: a network looks where its map is at least this.

    Returns:
        The meta region ``[N, h, w]`` and the heterogeneous region of each network
        ``[M, N, h, w]``, bool; no position is in both.
    """
    looked = maps >= threshold
    meta = looked.all(0)
    return meta, looked & ~meta


def add_network_options(parser: argparse._ActionsContainer) -> None:
    """``--pretrained`` and ``--width-factor``, for stages that ask several networks."""
    parser.add_argument(
        "--pretrained",
        required=True,
        type=Path,
        nargs="+",
        metavar="FILE",
        help="networks of `python -m dd pretrain`",
    )
    parser.add_argument("--width-factor", type=float, default=1.0, help="scale of their widths")


def add_region_options(parser: argparse._ActionsContainer) -> None:
    """``--grid``, ``--rectify`` and ``--threshold``, which say what a region is."""
    parser.add_argument(
        "--grid",
        type=int,
        default=0,
        help="positions a side of the maps; 0: a quarter of the image's, 4 to 16",
    )
    parser.add_argument(
        "--rectify",
        choices=RECTIFY,
        default=RELU,
        help="negative values of a map: relu (0 in their place) or none (they stay)",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=THRESHOLD,
        help="a network looks where its normalised map is at least this",
    )


def check_regions(arguments: argparse.Namespace) -> None:
    """Raise a :class:`DDError` for a grid or threshold that makes no regions."""
    if arguments.grid < 0:
        raise DDError(f"--grid is {arguments.grid}, it must be at least 1, or 0 for the default")
    if not 0 < arguments.threshold <= 1:
        raise DDError(f"--threshold is {arguments.threshold}, it must be above 0 and at most 1")
