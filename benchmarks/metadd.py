"""Peak memory and seconds of MetaDD's gradient as functions of the number of auxiliary networks.

The suite (``dd/distill/regularisers/metadd.py``) has the graph of only one network at a time. It is
compared with one graph over all networks, as plain automatic differentiation makes it. Both sides
take all images in one piece. The networks are untrained and the images are noise, because neither
time nor memory depends on their values.

Each measurement has its own process. The two sides take turns, both with the allocator settings of
the suite. The program writes one JSON file, and ``python -m benchmarks.report`` puts it into the
README.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.speed import machine
from benchmarks.unrolling import peak
from dd.artifacts.provenance import provenance
from dd.artifacts.text import save_json
from dd.distill.regularisers.metadd import invariance
from dd.networks import activation_maps as cam
from dd.networks.base import Network
from dd.networks.build import create
from dd.rng import generator
from dd.runtime.process import add_machine_options, peak_memory_mb, setup

SPEC, CLASSES, SIZE = "resnet18_bn", 10, (32, 32)
COUNTS = (1, 2, 4, 8)
LABELS = {"whole": "one graph", "suite": "network by network"}


def whole_graph(
    networks: Sequence[Network],
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    ce: float,
    kl: float,
    temperature: float,
    grid: tuple[int, int],
    piece: int,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Like :func:`dd.distill.regularisers.metadd.invariance` with ``kl`` above 0, but in one graph
    of everything. ``piece`` has no effect."""
    leaf = images.detach().requires_grad_()
    entropy, maps = leaf.new_zeros(()), []
    for network in networks:
        logits, raw = cam.activation_maps(network, leaf, labels)
        entropy = entropy + F.cross_entropy(logits, labels, reduction="sum")
        maps.append(cam.normalised(cam.resized(raw, grid)))
    stacked = torch.stack(maps)
    apart = cam.divergence(cam.distributions(stacked, temperature))
    (gradient,) = torch.autograd.grad(ce * entropy + kl * apart.sum(), leaf)
    return gradient, {
        "ai_ce": entropy.item() / (len(networks) * len(images)),
        "ai_kl": apart.mean().item(),
        "cam_variance": cam.variance(stacked.detach()).mean().item(),
    }


SIDES = {"whole": whole_graph, "suite": invariance}


def work(options: argparse.Namespace) -> dict[str, Any]:
    """One side with ``options.networks`` networks, in this process: seconds and peak memory."""
    device = setup(options.device, options.threads)
    networks = [
        create(SPEC, 3, SIZE, CLASSES, generator=generator(n, device=device)).eval()
        for n in range(options.networks)
    ]
    for network in networks:
        network.requires_grad_(False)
    noise = torch.randn(options.images, 3, *SIZE, generator=generator(0, "noise"))
    images, labels = noise.to(device), torch.arange(options.images, device=device) % CLASSES
    for _ in range(2):  # the first one is not counted
        started = time.perf_counter()
        SIDES[options.side](
            networks,
            images,
            labels,
            ce=1.0,
            kl=1.0,
            temperature=0.25,
            grid=(8, 8),
            piece=options.images,
        )  # its metrics are Python numbers, so a GPU has finished here
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "peak_mb": peak_memory_mb(device)}


def measure(side: str, count: int, options: argparse.Namespace) -> dict[str, Any]:
    """Run :func:`work` in its own process."""
    words = ["--side", side, "--networks", count, "--images", options.images]
    words += ["--device", options.device, "--threads", options.threads]
    command = [sys.executable, "-m", "benchmarks.metadd", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    """Measure and write; with ``--side``, one measurement to standard output."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.metadd",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_machine_options(parser)
    parser.add_argument("--images", type=int, default=100, help="synthetic images")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; the median counts")
    parser.add_argument(
        "--networks", type=int, nargs="+", default=COUNTS, help="numbers of auxiliary networks"
    )
    parser.add_argument("--note", default="", help="what else ran on the machine")
    parser.add_argument("--side", choices=list(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON to write")
    options = parser.parse_args()
    if options.side:
        (options.networks,) = options.networks
        print(json.dumps(work(options)))
        return
    if options.out is None:
        parser.error("--out FILE is needed")
    device = setup(options.device, options.threads)
    facts: dict[str, Any] = {
        "kind": "metadd",
        "provenance": provenance(machine=machine(device)),
        "note": options.note,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "repeats": options.repeats,
        "network": SPEC,
        "images": options.images,
        "rows": [],
    }
    for count in options.networks:
        rounds = [
            {side: measure(side, count, options) for side in SIDES} for _ in range(options.repeats)
        ]
        facts["rows"].append(summarise(count, rounds))
        facts["load_after"] = [round(load, 2) for load in os.getloadavg()]
        save_json(options.out, facts)
        measured = (
            f"{LABELS[side]} {of['seconds']} s, {peak(of['peak_mb']):.0f} MB"
            for side, of in facts["rows"][-1]["sides"].items()
        )
        print(f"{count} networks: {'; '.join(measured)}", flush=True)


def summarise(count: int, rounds: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """A row of the result: the medians over ``rounds[n][side]``, and the median of their ratios."""
    memory = {
        side: {
            what: statistics.median(answers[side]["peak_mb"][what] for answers in rounds)
            for what in rounds[0][side]["peak_mb"]
        }
        for side in SIDES
    }
    ratios = [answers["suite"]["seconds"] / answers["whole"]["seconds"] for answers in rounds]
    return {
        "networks": count,
        "sides": {
            side: {
                "seconds": round(statistics.median(a[side]["seconds"] for a in rounds), 4),
                "peak_mb": memory[side],
            }
            for side in SIDES
        },
        "ratio": round(statistics.median(ratios), 3),
    }


if __name__ == "__main__":
    main()
