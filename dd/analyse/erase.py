"""Erase what networks look at in the test images, and measure the loss of accuracy of each network.

The class activation maps of some networks (for the true class) define two regions (MetaDD,
arXiv:2410.05103, Fig. 4): the meta region is where all of these networks look, the heterogeneous
region where only some of them do. In each image the same number of grid positions is erased from
either region and, for comparison, at random. This is the same number of pixels if the image's sides
are multiples of the grid's; otherwise positions differ in size (at 30 pixels and 7 positions a
side: 16, 20 or 25 pixels). Erased pixels take the mean colour of the training
images. If networks see whitened images, pixels are erased before the whitening, since the whitening
mixes pixels.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dd import plugins
from dd.analyse.regions import (
    ERASED,
    NOTHING,
    add_network_options,
    add_region_options,
    check_regions,
    regions,
)
from dd.artifacts.atomic import check_out
from dd.artifacts.provenance import provenance_of_rows
from dd.artifacts.text import save_rows
from dd.data.dataset import Dataset, load_dataset
from dd.data.space import WHITENINGS
from dd.errors import DDError, unknown
from dd.networks import activation_maps as cam
from dd.networks.activation_maps import common_grid
from dd.networks.base import Network
from dd.networks.memory import test_piece
from dd.networks.options import RELU, auxiliaries
from dd.pretrain.frozen import load_all
from dd.rng import generator
from dd.runtime import precision
from dd.runtime.memory import in_pieces
from dd.runtime.process import add_machine_options, add_precision_option, setup
from dd.runtime.progress import Progress
from dd.runtime.say import say


def strongest(scores: Tensor, counts: Tensor) -> Tensor:
    """The positions of the highest scores; of equal scores the first position.

    Args:
        scores: ``[N, h, w]``.
        counts: ``[N]``, number of positions for each map.

    Returns:
        ``[N, h, w]`` bool.
    """
    flat = scores.flatten(1)
    order = flat.argsort(dim=1, descending=True, stable=True)
    among = torch.arange(flat.shape[1], device=flat.device) < counts[:, None]
    return torch.zeros_like(among).scatter(1, order, among).view_as(scores)


def masks(maps: Tensor, threshold: float, chance: Tensor) -> dict[str, Tensor]:
    """What to erase in each image, for each kind in :data:`ERASED`.

    A position is meta if the maps of all networks are at least ``threshold`` there, and
    heterogeneous if only those of some networks are. Let n be the number of positions in an image
    of the kind that has fewer. Erased are the n meta positions with the highest minimum over
    networks, the n heterogeneous positions with the largest difference (maximum − minimum), and n
    random positions of any kind.

    Args:
        maps: ``[M, N, h, w]``, normalised to 0..1.
        threshold: above 0.
        chance: ``[N, h, w]``, uniform random numbers.

    Returns:
        ``[N, h, w]`` bool; n positions of every kind in each image.
    """
    meta, own = regions(maps, threshold)
    heterogeneous = own.any(0)
    low, high = maps.amin(0), maps.amax(0)
    counts = torch.minimum(meta.sum((1, 2)), heterogeneous.sum((1, 2)))
    return {
        "meta": strongest(low.where(meta, -1), counts),
        "heterogeneous": strongest((high - low).where(heterogeneous, -1), counts),
        "random": strongest(chance, counts),
    }


def on_pixels(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Expand a mask ``[N, h, w]`` to pixels ``[N, 1, *size]``: a pixel is as its grid position."""
    return F.interpolate(mask[:, None].float(), size, mode="nearest") > 0


def erased(dataset: Dataset, where: Tensor, mask: Tensor) -> Tensor:
    """The test images at ``where [n]`` with positions ``mask [n, h, w]`` erased, in the dataset's
    space."""
    pixels, gone = dataset.test.pixels(where), on_pixels(mask, dataset.size)
    mean_colour = dataset.space.mean.view(-1, 1, 1)
    return dataset.space.from_pixels(torch.where(gone, mean_colour, pixels))


@torch.no_grad()
def measure(
    dataset: Dataset,
    networks: Mapping[str, Network],
    regions_from: list[str],
    grid: tuple[int, int],
    threshold: float,
    seed: int,
    rectify: str = RELU,
) -> list[dict[str, Any]]:
    """Test accuracy of ``networks`` without and with erased regions: one row for each.

    Args:
        dataset: its whole test split is used.
        networks: frozen, by spec.
        regions_from: specs of the networks whose maps define the regions.
        grid: rows and columns of the maps.
        threshold: see :func:`masks`.
        seed: draws the random positions.
        rectify: see :mod:`dd.networks.activation_maps`.
    """
    split, device = dataset.test, dataset.test.labels.device
    # Drawn on the CPU, for all images at once, so that positions are the same on every device.
    chance = torch.rand((len(split), *grid), generator=generator(seed, "erase")).to(device)
    each = torch.arange(len(split), device=device)
    values = 4 * math.prod(split.shape)  # bytes of an image
    size = test_piece(device, split.shape, *networks.values(), beside=values * (2 + len(ERASED)))
    right: dict[tuple[str, str], list[Tensor]] = {}
    area: dict[str, float] = dict.fromkeys((NOTHING, *ERASED), 0.0)
    changed = 0

    def looked(where: Tensor) -> tuple[Tensor, list[str], dict[tuple[str, str], Tensor]]:
        """Counts of changed images and, by kind of region, of pixels; the kinds; hits."""
        labels, images = split.labels[where], split.take(where)
        region_networks = [networks[spec] for spec in regions_from]
        maps = cam.cams(region_networks, images, labels, grid, rectify)
        chosen = masks(maps, threshold, chance[where])
        seen, counts = {NOTHING: images}, [chosen["meta"].any(2).any(1).sum()]
        for kind, mask in chosen.items():
            seen[kind] = erased(dataset, where, mask)
            counts.append(on_pixels(mask, dataset.size).float().mean((1, 2, 3)).sum())
        hits = {
            (spec, kind): precision.forward(network, inputs).argmax(1) == labels
            for kind, inputs in seen.items()
            for spec, network in networks.items()
        }
        return torch.stack([count.float() for count in counts]), list(chosen), hits

    with Progress("erase", len(split), "images") as progress:
        for where, (counts, kinds, hits) in in_pieces(each, size, looked, "test images"):
            # one look for all; the numbers of images are small enough for float32
            number, *areas = counts.tolist()
            changed += int(number)
            for kind, pixels in zip(kinds, areas, strict=True):
                area[kind] += pixels
            for key, found in hits.items():
                right.setdefault(key, []).append(found)
            progress.update(len(where))
    rows = []
    for spec in networks:
        hits_by_kind = {kind: torch.cat(right[spec, kind]) for kind in (NOTHING, *ERASED)}
        before = hits_by_kind[NOTHING].double()
        for kind, own in hits_by_kind.items():
            after = own.double()
            change = after - before
            error = math.sqrt(change.var(correction=0).item() / len(split))
            rows.append(
                {
                    "dataset": dataset.label,
                    "network": spec,
                    "role": "region network" if spec in regions_from else "other",
                    "erased": kind,
                    "accuracy": round(100 * after.mean().item(), 4),
                    "difference": round(100 * change.mean().item(), 4),
                    "standard_error": round(100 * error, 4),
                    **{
                        f"beyond_{other}": int((own & ~theirs).sum())
                        for other, theirs in hits_by_kind.items()
                    },
                    "area": round(100 * area[kind] / len(split), 4),
                    "images": len(split),
                    "images_changed": changed if kind != NOTHING else 0,
                    "regions_from": ".".join(regions_from),
                    "rectify": rectify,
                    "threshold": threshold,
                    "grid": "x".join(map(str, grid)),
                    "whitening": dataset.whitening,
                    "seed": seed,
                    "device": device.type,
                    "precision": precision.chosen(),
                }
            )
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m dd erase``."""
    need = parser.add_argument_group("what to erase")
    need.add_argument("--data", required=True, type=Path, metavar="FILE", help="prepared dataset")
    need.add_argument(
        "--whitening",
        choices=WHITENINGS,
        default="none",
        help="space in which the networks see images",
    )
    add_network_options(need)
    need.add_argument(
        "--regions-from",
        required=True,
        metavar="SPEC.SPEC",
        help="those of these networks whose maps define the regions, joined by dots",
    )
    need.add_argument("--out", required=True, type=Path, metavar="FILE", help="CSV to write")
    add_region_options(parser)
    parser.add_argument("--seed", type=int, default=0, help="draws the random positions")
    add_machine_options(parser)
    add_precision_option(parser)


def run(arguments: argparse.Namespace) -> None:
    """Run the stage; it writes one CSV row per network and kind of region.

    ``accuracy``, its ``difference`` from that without erasing, the ``standard_error`` of this
    difference (over test images) and ``area``, the mean share of an image that is erased, are in
    percent. ``beyond_KIND`` is the number of test images that the network classifies correctly
    here, but not if KIND is erased.
    """
    check_regions(arguments)
    check_out(arguments.out, ".csv", arguments.data, *arguments.pretrained)
    try:
        regions_from = auxiliaries(arguments.regions_from)
    except DDError as error:
        raise DDError(f"--regions-from: {error}") from None
    if len(regions_from) < 2:
        raise DDError(
            f"--regions-from: is {arguments.regions_from}, but regions are defined by at least 2 "
            "networks"
        )
    device = setup(arguments.device, arguments.threads, arguments.precision)
    dataset = load_dataset(arguments.data, device, arguments.whitening)
    pretrained = load_all(arguments.pretrained, dataset, arguments.width_factor, device)
    for spec in regions_from:
        if spec not in pretrained:
            raise DDError(f"--regions-from: {unknown('network of --pretrained', spec, pretrained)}")
    rows = measure(
        dataset,
        {spec: one.network for spec, one in pretrained.items()},
        regions_from,
        common_grid(arguments.grid, dataset.size),
        arguments.threshold,
        arguments.seed,
        arguments.rectify,
    )
    where = provenance_of_rows(device)
    if used := plugins.used():
        where["plugins"] = ", ".join(used)
    save_rows(arguments.out, [row | where for row in rows])
    for row in rows:
        if row["erased"] != NOTHING:
            say(
                f"erase: {row['network']} {row['difference']:+.2f} points without "
                f"{row['area']:.1f} % ({row['erased']})"
            )
