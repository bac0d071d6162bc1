"""Class activation maps of a synthetic set: where frozen networks look (MetaDD).

The maps are of each image's own class, resized to one grid and normalised to 0..1. Tables and
figures need no more: they choose which networks to compare.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from dd.analyse.regions import (
    KIND,
    SHOWN,
    add_network_options,
    add_region_options,
    check_regions,
)
from dd.artifacts.atomic import check_out
from dd.artifacts.provenance import stage_provenance
from dd.artifacts.tensors import save_tensors
from dd.config.settings import MOST, at_most
from dd.errors import DDError
from dd.evaluate.set_options import add_set_options, read_set
from dd.networks import activation_maps as cam
from dd.networks.activation_maps import common_grid
from dd.pretrain.frozen import load_all
from dd.runtime.process import add_machine_options, add_precision_option, setup
from dd.runtime.say import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m dd cams``."""
    need = parser.add_argument_group("what to look at")
    add_set_options(need)
    add_network_options(need)
    need.add_argument("--out", required=True, type=Path, metavar="FILE", help="file to write")
    parser.add_argument(
        "--images-per-class",
        type=at_most("--images-per-class", MOST),
        default=SHOWN,
        help="number of images per class, the first ones; 0: all",
    )
    add_region_options(parser)
    add_machine_options(parser)
    add_precision_option(parser)


def chosen(labels: torch.Tensor, count: int) -> torch.Tensor:
    """Positions ``[n]`` of the first ``count`` images (0: all) of each class in ``labels [M]``, in
    the order of the set."""
    of_class = torch.nn.functional.one_hot(labels)
    rank = (of_class.cumsum(0) * of_class).sum(1)  # 1 for the first of its class
    return (rank <= (count or len(labels))).nonzero()[:, 0]


def run(arguments: argparse.Namespace) -> None:
    """Compute and write the maps of a set."""
    check_regions(arguments)
    if arguments.images_per_class < 0:
        raise DDError(
            f"--images-per-class is {arguments.images_per_class}, it must be at least 1, or 0: all"
        )
    read = (arguments.synthetic, arguments.data, *arguments.pretrained)
    check_out(arguments.out, ".safetensors", *read)
    device = setup(arguments.device, arguments.threads, arguments.precision)
    made, dataset, _ = read_set("cams", arguments, device)
    networks = load_all(arguments.pretrained, dataset, arguments.width_factor, device)
    positions = chosen(made.hard_labels, arguments.images_per_class)
    images = made.images_for(dataset)
    maps = cam.cams(
        [one.network for one in networks.values()],
        images[positions.to(images.device)].to(device),
        made.hard_labels[positions].to(device),
        grid := common_grid(arguments.grid, dataset.size),
        arguments.rectify,
    )
    save_tensors(
        arguments.out,
        KIND,
        {"maps": maps.half(), "images": positions},
        {
            "networks": [
                {"network": spec, "accuracy": one.accuracy, "least_accuracy": one.least_accuracy}
                for spec, one in networks.items()
            ],
            "grid": grid,
            "rectify": arguments.rectify,
            "threshold": arguments.threshold,
            "iteration": made.header.get("iteration"),
            # 0 if no image was left out
            "images_per_class": arguments.images_per_class if len(positions) < len(made) else 0,
            "set": {k: v for k, v in made.header.items() if k not in ("kind", "format")},
            "provenance": stage_provenance(device),
        },
    )
    say(f"cams: {arguments.out}: {len(positions)} images under {', '.join(networks)}")
