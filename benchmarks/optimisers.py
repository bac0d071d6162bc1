"""What a step of an optimiser gains on the CPU as one pass over memory (``dd/training``).

A network trains on ten images, as in an evaluation at IPC 1: with the optimiser as it is there, and
as torch would have it without being asked. Both take turns in one process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.choices import CLASSES, compare
from benchmarks.speed import opening, parser
from dd.artifacts.text import save_json
from dd.networks.build import create
from dd.rng import generator
from dd.runtime.process import setup
from dd.training.recipe import Recipe
from dd.training.train import cross_entropy

NETWORKS = ("convnet", "vgg11", "resnet18")
WIDTHS = (0.125, 1.0)
RECIPES = {
    "sgd": {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4},
    "adamw": {"lr": 3e-4, "momentum": 0.0, "weight_decay": 0.0},
}
SIZE = 32  # pixels per side


def step(
    spec: str, width_factor: float, optimizer: str, fused: bool, device: torch.device
) -> tuple[Callable[[], object], Callable[[], object]]:
    """A training step of a network, and the optimiser's part of it alone."""
    stream = generator(0, spec, device=device)
    shape = (3, (SIZE, SIZE), CLASSES)
    network = create(spec, *shape, generator=generator(0), width_factor=width_factor, device=device)
    images = torch.randn((CLASSES, 3, SIZE, SIZE), generator=stream, device=device)
    labels = torch.arange(CLASSES, device=device)
    recipe = Recipe(
        epochs=1,
        batch=256,
        augment="none",
        schedule="constant",
        optimizer=optimizer,
        **RECIPES[optimizer],
    )
    made = recipe.new_optimizer(list(network.parameters()))
    if not fused:
        for group in made.param_groups:
            group["fused"] = None

    def whole() -> None:
        made.zero_grad()
        cross_entropy(network(images), labels, None, 0).backward()
        made.step()

    whole()  # makes gradients and the optimiser's state
    return whole, made.step


def measure(repeats: int, specs: Sequence[str], device: torch.device) -> list[dict[str, Any]]:
    """A row for each network, width and optimiser: seconds of a step and of the optimiser."""
    rows = []
    for spec in specs:
        for width_factor in WIDTHS:
            for optimizer in RECIPES:
                ways = {
                    name: step(spec, width_factor, optimizer, name == "suite", device)
                    for name in ("torch", "suite")
                }
                row: dict[str, Any] = {"network": spec, "width_factor": width_factor}
                row["optimizer"] = optimizer
                for number, what in enumerate(("step", "alone")):
                    alternatives = {name: parts[number] for name, parts in ways.items()}
                    row[what] = compare(alternatives, repeats, device)
                rows.append(row)
                print(row, flush=True)
    return rows


def main() -> None:
    """Measure and write."""
    own = parser("optimisers", __doc__)
    own.add_argument("--networks", nargs="+", default=list(NETWORKS), help="networks to measure")
    options = own.parse_args()
    device = setup(options.device, options.threads)
    facts = opening("optimisers", options, device)
    facts["rows"] = measure(options.repeats, options.networks, device)
    facts["load_after"] = [round(load, 2) for load in os.getloadavg()]
    save_json(options.out, facts)


if __name__ == "__main__":
    main()
