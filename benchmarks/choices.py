"""Measurements behind choices of dd: stacked or one after the other, and the size of a chunk.

- matching: all classes in one vectorised pass, or one pass per class (``dd/distill/gradients.py``);
- training: networks stacked, or one after the other (``dd/training/train.py``);
- chunk: images of a real batch that go through the network at once (``CHUNK``).

The alternatives take turns in one process, with the allocator settings of the suite.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.speed import opening, parser
from dd.artifacts.text import save_json
from dd.distill.gradients import match_apart, match_together, mean_gradient
from dd.networks.build import create
from dd.rng import generator
from dd.runtime.process import setup
from dd.training.recipe import Recipe
from dd.training.train import train

CLASSES = 10
SIZES = (8, 12, 16, 24, 32)
WIDTHS = (32, 128)
CHUNKS = (8, 16, 32, 64, 128, 256)


def compare(
    alternatives: dict[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, float]:
    """Median seconds of each alternative. They take turns; the first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    for _ in range(repeats + 1):
        for name, work in alternatives.items():
            wait(device)
            started = time.perf_counter()
            work()
            wait(device)
            seconds[name].append(time.perf_counter() - started)
    return {name: round(statistics.median(all_[1:]), 5) for name, all_ in seconds.items()}


def matching(
    size: int, width: int, ipc: int, batch: int, repeats: int, device: torch.device
) -> dict[str, float]:
    """One matching step of all classes: in one pass, and one class after the other."""
    network = _networks(1, size, width, device)[0]
    draw = generator(0, "matching", device=device)
    real, synthetic = (
        torch.randn((CLASSES, count, 3, size, size), generator=draw, device=device)
        for count in (batch, ipc)
    )
    return compare(
        {
            "apart": lambda: match_apart(network, real.unbind(), synthetic.unbind()),
            "together": lambda: match_together(network, real, synthetic),
        },
        repeats,
        device,
    )


def training(
    size: int, width: int, images: int, repeats: int, device: torch.device
) -> dict[str, float]:
    """An epoch of ten networks on ``images`` synthetic images: stacked, and one after the other."""
    draw = generator(0, "training", device=device)
    batch = torch.randn((images, 3, size, size), generator=draw, device=device)
    labels = torch.arange(images, device=device) % CLASSES
    recipe = Recipe(
        epochs=1,
        lr=0.01,
        momentum=0.9,
        weight_decay=5e-4,
        batch=256,
        augment="none",
        schedule="constant",
    )
    networks = _networks(10, size, width, device)

    def epoch(together: bool) -> Callable[[], None]:
        return lambda: train(
            networks,
            batch,
            labels,
            recipe,
            [generator(n) for n in range(len(networks))],
            together=together,
        )

    return compare({"in turn": epoch(False), "together": epoch(True)}, repeats, device)


def chunks(batch: int, repeats: int, device: torch.device) -> dict[str, float]:
    """The mean gradient of a real batch of 32 × 32 images, in chunks of each size."""
    network = _networks(1, 32, 128, device)[0]
    images = torch.randn((batch, 3, 32, 32), generator=generator(0, device=device), device=device)
    labels = torch.zeros(batch, dtype=torch.int64, device=device)
    return compare(
        {
            str(chunk): (lambda chunk=chunk: mean_gradient(network, images, labels, chunk))
            for chunk in CHUNKS
        },
        repeats,
        device,
    )


def _networks(count: int, size: int, width: int, device: torch.device) -> list[torch.nn.Module]:
    depth = 2 if size < 16 else 3
    spec = f"convnet:depth={depth},width={width}"
    return [
        create(spec, 3, (size, size), CLASSES, generator=generator(n), device=device)
        for n in range(count)
    ]


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Measure and write."""
    own = parser("choices", __doc__)
    own.add_argument("--batch", type=int, default=256, help="real images per class")
    own.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="pixels per side")
    own.add_argument("--widths", type=int, nargs="+", default=WIDTHS, help="ConvNet widths")
    options = own.parse_args()
    device = setup(options.device, options.threads)
    repeats, batch = options.repeats, options.batch
    facts = opening("choices", options, device) | {"batch": batch, "stacking": []}
    for size in options.sizes:
        for width in options.widths:
            rows = [
                (f"matching, IPC {ipc}", matching(size, width, ipc, batch, repeats, device))
                for ipc in (1, 10)
            ]
            rows += [
                (f"training, {count} images", training(size, width, count, repeats, device))
                for count in (10, 100)
            ]
            for work, seconds in rows:
                apart, together = seconds.values()
                row = {"work": work, "size": size, "width": width, "apart": apart}
                row |= {"together": together, "gain": round(apart / together, 3)}
                facts["stacking"].append(row)
                print(row, flush=True)
    facts["chunk"] = chunks(batch, repeats, device)
    facts["load_after"] = [round(load, 2) for load in os.getloadavg()]
    save_json(options.out, facts)


if __name__ == "__main__":
    main()
