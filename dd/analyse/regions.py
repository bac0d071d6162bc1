"""The regions where networks look, and the options of stages that compute them.

Tables read maps without torch, so this module does not import it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, TypeVar

from dd.config.settings import at_most
from dd.errors import DDError
from dd.networks.options import RECTIFY, RELU, width_factor

KIND = "cams"  # of files of maps
THRESHOLD = 0.5  # a network looks where its normalised map, 0 to 1, is at least this
SHOWN = 10  # images per class whose maps are computed, unless an option says otherwise
FINEST = 1024  # positions per side of a map
ERASED = ("meta", "heterogeneous", "random")  # kinds of regions that are erased
NOTHING = "nothing"  # the kind of a row in which nothing is erased

Masks = TypeVar("Masks", bound=Any)  # torch tensors or NumPy arrays


def regions(maps: Masks, threshold: float) -> tuple[Masks, Masks]:
    """The region where all networks look, and for each network the rest of where it looks.

    Args:
        maps: ``[M, N, h, w]``, normalised.
        threshold: a network looks where its map is at least this.

    Returns:
        The meta region ``[N, h, w]`` and the heterogeneous region of each network
        ``[M, N, h, w]``, bool. No position is in both.
    """
    looked = maps >= threshold
    meta = looked.all(0)
    return meta, looked & ~meta


def add_network_options(parser: argparse._ActionsContainer) -> None:
    """``--pretrained`` and ``--width-factor``: the networks whose maps are computed."""
    parser.add_argument(
        "--pretrained",
        required=True,
        type=Path,
        nargs="+",
        metavar="FILE",
        help="networks from `python -m dd pretrain`",
    )
    parser.add_argument(
        "--width-factor", type=width_factor, default=1.0, help="factor on their widths"
    )


def add_region_options(parser: argparse._ActionsContainer) -> None:
    """``--grid``, ``--rectify`` and ``--threshold``, which define regions."""
    parser.add_argument(
        "--grid",
        type=at_most("--grid", FINEST),
        default=0,
        help="positions per side of the maps; 0: a quarter of the image's side, 4 to 16",
    )
    parser.add_argument(
        "--rectify",
        choices=RECTIFY,
        default=RELU,
        help="negative values of a map: relu (set to 0) or none (kept)",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=THRESHOLD,
        help="a network looks where its normalised map is at least this",
    )


def check_regions(arguments: argparse.Namespace) -> None:
    """Raise a :class:`DDError` for a grid or threshold that cannot define regions."""
    if arguments.grid < 0:
        raise DDError(f"--grid is {arguments.grid}, it must be at least 1, or 0 for the default")
    if not 0 < arguments.threshold <= 1:
        raise DDError(f"--threshold is {arguments.threshold}, it must be above 0 and at most 1")
