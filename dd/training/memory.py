"""How much memory a training takes, counted on tensors without data; how many networks fit."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dd.networks.memory import Shape, on_meta
from dd.runtime.memory import available, peak_bytes, tell
from dd.training.ensemble import Single, ensemble
from dd.training.recipe import Recipe
from dd.training.train import train_step

IMAGES = 4
"""How many times the images of a batch are there: as drawn, and while they are augmented."""


def training_bytes(
    network: nn.Module,
    shape: Shape,
    classes: int,
    recipe: Recipe,
    batch: int,
    networks: int = 1,
    recomputes: bool = False,
) -> int:
    """The most bytes that a training takes at a time, without the images that it takes batches of.

    Counted are networks, their stacked copies, gradients, the optimiser's state, a batch, and what
    a step computes; all in float32. A training in bf16 takes less.

    Args:
        network: one of the networks, on any device.
        shape: of an image.
        classes: number of logits.
        recipe: gives the optimiser.
        batch: images in a batch.
        networks: how many are trained side by side.
        recomputes: one network computes activations again, see :mod:`dd.networks.recompute`.
    """

    def work() -> None:
        made = [on_meta(network).train() for _ in range(networks)]
        students = ensemble(made)
        if isinstance(students, Single):
            students.recomputes = recomputes
        optimizer = recipe.new_optimizer(students.parameters, students.stacked)
        for group in optimizer.param_groups:
            group["foreach"] = True  # torch's choice on a GPU
        for parameter in students.parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()  # makes its state
        copies = [torch.zeros(networks, batch, *shape, device="meta") for _ in range(IMAGES)]
        labels = torch.zeros(networks, batch, dtype=torch.int64, device="meta")

        def loss(logits: Tensor, part: slice) -> Tensor:
            each = zip(logits, labels[:, part], strict=True)
            return torch.stack([F.cross_entropy(own, target) for own, target in each])

        train_step(students, optimizer, copies[0], loss)

    return peak_bytes(work)


def networks_that_fit(
    network: nn.Module,
    shape: Shape,
    classes: int,
    recipe: Recipe,
    batch: int,
    networks: int,
    device: torch.device,
    what: str,
) -> int:
    """How many of ``networks`` fit into the memory of ``device`` side by side; at least 1.

    A line says if they are fewer.

    Args:
        network, shape, classes, recipe, batch: see :func:`training_bytes`.
        networks: at least 1.
        device: the CPU has room for all.
        what: what there are ``networks`` of, for the line.
    """
    room = available(device)
    if networks == 1 or math.isinf(room):
        return networks
    pair = training_bytes(network, shape, classes, recipe, batch, 2)
    fitting = max(1, min(networks, int(room // (pair / 2))))
    if fitting < networks:
        tell(f"{fitting} of {networks} {what} at a time")
    return fitting
