"""Pixels as the optimised variables."""

from __future__ import annotations

import torch

from dd.distill.parametrisations.base import Optimise, Parametrisation
from dd.training.state import load_optimizer_state, optimizer_state, step


class Pixels(Parametrisation):
    """Synthetic images that are optimised directly.

    Args:
        images: ``[M, C, H, W]``, the initial images in normalised units; copied.
        labels: ``[M]`` int64, fixed.
        lr: learning rate of the images.
        optimise: makes the optimiser.
    """

    def __init__(
        self, images: torch.Tensor, labels: torch.Tensor, lr: float, optimise: Optimise
    ) -> None:
        self.labels = labels
        self._images = images.detach().clone().requires_grad_(True)
        self._optimizer = optimise([{"params": [self._images], "lr": lr}])

    def images(self) -> torch.Tensor:
        return self._images.detach()

    def update(self, gradient: torch.Tensor, factor: float = 1.0) -> None:
        self._images.grad = gradient
        step(self._optimizer, factor)

    def state(self) -> dict[str, torch.Tensor]:
        return {"images": self.images()} | optimizer_state(self._optimizer)

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        self._images.data.copy_(state["images"])
        load_optimizer_state(self._optimizer, state)
