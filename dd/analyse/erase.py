"""Erase what networks look at in the test images, and see what that costs each network.

Some networks' class activation maps (of the true class) say what all of them look at, the meta
region, and what only some of them do, the heterogeneous one (MetaDD, arXiv:2410.05103, Fig. 4). In
each image as many positions of the grid are erased from the one as from the other, and, to compare,
as many at random. Erased pixels take the mean colour of the training images; where networks see
whitened images, pixels are erased before the whitening, which would spread them.
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

from dd.analyse.regions import (
    add_network_options,
    add_region_options,
    check_regions,
    regions,
)
from dd.artifacts.atomic import check_target
from dd.artifacts.text import save_rows
from dd.data.dataset import Dataset, load_dataset
from dd.data.space import WHITENINGS
from dd.errors import DDError, unknown
from dd.networks import activation_maps as cam
from dd.networks.activation_maps import common_grid
from dd.networks.base import Network
from dd.networks.options import RELU, auxiliaries
from dd.pretrain.frozen import load_all
from dd.rng import generator
from dd.runtime.process import add_machine_options, setup
from dd.runtime.progress import Progress
from dd.training.train import TEST_PIECE

NOTHING = "nothing"
ERASED = ("meta", "heterogeneous", "random")


def strongest(scores: Tensor, counts: Tensor) -> Tensor:
    """The positions of the highest scores, among equal ones the first.

    Args:
        scores: ``[N, h, w]``.
        counts: ``[N]``, how many of each.

    Returns:
        ``[N, h, w]`` bool.
    """
    flat = scores.flatten(1)
    order = flat.argsort(dim=1, descending=True, stable=True)
    among = torch.arange(flat.shape[1], device=flat.device) < counts[:, None]
    return torch.zeros_like(among).scatter(1, order, among).view_as(scores)


def masks(maps: Tensor, threshold: float, chance: Tensor) -> dict[str, Tensor]:
    """What to erase of each image, by :data:`ERASED`.

    A position is meta where the map of every network is at least ``threshold``, and heterogeneous
    where that of some is and that of some is not. With n the smaller number of the two kinds in an
    image, the n positions of the highest minimum over networks are the meta ones to erase, the n
    of the largest difference (maximum − minimum) the heterogeneous ones, and n of any kind are
    drawn at random.

    Args:
        maps: ``[M, N, h, w]``, normalised to 0..1.
        threshold: above 0.
        chance: ``[N, h, w]``, uniform random numbers.

    Returns:
        ``[N, h, w]`` bool, in each image n of every kind.
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
    """``[N, h, w]`` bool to ``[N, 1, *size]``: every pixel as the position it lies in."""
    return F.interpolate(mask[:, None].float(), size, mode="nearest") > 0


def erased(dataset: Dataset, where: Tensor, mask: Tensor) -> Tensor:
    """The test images ``where [n]``, positions ``mask [n, h, w]`` erased, as networks see them."""
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
    """Test accuracy of ``networks`` without and with erased regions; a row each, in that order.

    Args:
        dataset: its test split is used whole.
        networks: frozen, by spec.
        regions_from: those whose maps say what the regions are.
        grid, threshold: see :func:`masks`.
        seed: of the random positions.
        rectify: see :mod:`dd.networks.activation_maps`.
    """
    split, device = dataset.test, dataset.test.labels.device
    # On the CPU and at once: the same positions on every device.
    chance = torch.rand((len(split), *grid), generator=generator(seed, "erase"))
    pieces = torch.arange(len(split)).split(TEST_PIECE.get(device.type, 256))
    right: dict[tuple[str, str], list[Tensor]] = {}
    area: dict[str, float] = dict.fromkeys((NOTHING, *ERASED), 0.0)
    changed = 0
    with Progress("erase", len(split), "images") as progress:
        for piece in pieces:
            where = piece.to(device)
            labels, images = split.labels[where], split.take(where)
            seers = [networks[spec] for spec in regions_from]
            maps = cam.cams(seers, images, labels, grid, rectify)
            chosen = masks(maps, threshold, chance[piece].to(device))
            seen = {NOTHING: images}
            for kind, mask in chosen.items():
                seen[kind] = erased(dataset, where, mask)
                area[kind] += on_pixels(mask, dataset.size).float().mean((1, 2, 3)).sum().item()
            changed += int(chosen["meta"].any(2).any(1).sum())
            for kind, inputs in seen.items():
                for spec, network in networks.items():
                    hits = network(inputs).argmax(1) == labels
                    right.setdefault((spec, kind), []).append(hits)
            progress.update(len(piece))
    rows = []
    for spec in networks:
        before = torch.cat(right[spec, NOTHING]).double()
        for kind in (NOTHING, *ERASED):
            after = torch.cat(right[spec, kind]).double()
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
                }
            )
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m dd erase``."""
    need = parser.add_argument_group("what to erase")
    need.add_argument("--data", required=True, type=Path, metavar="FILE", help="prepared dataset")
    need.add_argument(
        "--whitening", choices=WHITENINGS, default="none", help="of what the networks see"
    )
    add_network_options(need)
    need.add_argument(
        "--regions-from",
        required=True,
        metavar="SPEC.SPEC",
        help="of these networks, those whose maps say what the regions are, joined by dots",
    )
    need.add_argument("--out", required=True, type=Path, metavar="FILE", help="CSV to write")
    add_region_options(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the random positions")
    add_machine_options(parser)


def run(arguments: argparse.Namespace) -> None:
    """The stage: one CSV row a network and kind of region.

    ``accuracy``, ``difference`` from nothing erased and its ``standard_error`` (over test images)
    are in percent, as is ``area``, the mean share of an image that is erased.
    """
    check_regions(arguments)
    check_target(arguments.out)
    try:
        regions_from = auxiliaries(arguments.regions_from)
    except DDError as error:
        raise DDError(f"--regions-from: {error}") from None
    if len(regions_from) < 2:
        raise DDError(
            f"--regions-from: is {arguments.regions_from}, but what several networks look at "
            "needs at least 2"
        )
    device = setup(arguments.device, arguments.threads)
    dataset = load_dataset(arguments.data, device, arguments.whitening)
    found = load_all(arguments.pretrained, dataset, arguments.width_factor, device)
    for spec in regions_from:
        if spec not in found:
            raise DDError(f"--regions-from: {unknown('network of --pretrained', spec, found)}")
    rows = measure(
        dataset,
        {spec: one.network for spec, one in found.items()},
        regions_from,
        common_grid(arguments.grid, dataset.size),
        arguments.threshold,
        arguments.seed,
        arguments.rectify,
    )
    save_rows(arguments.out, rows)
    for row in rows:
        if row["erased"] != NOTHING:
            print(
                f"erase: {row['network']} {row['difference']:+.2f} points without "
                f"{row['area']:.1f} % ({row['erased']})"
            )
