"""Pixels as the optimised variables, or images that nobody moves."""

from __future__ import annotations

import torch

from dd.contracts import check_shape
from dd.distill.parametrisations.base import GRADIENT, Optimise, Parametrisation
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
        check_shape(GRADIENT, gradient, self._images.shape)
        self._images.grad = gradient
        step(self._optimizer, factor)

    def state(self) -> dict[str, torch.Tensor]:
        return {"images": self.images()} | optimizer_state(self._optimizer)

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        self._images.data.copy_(state["images"])
        load_optimizer_state(self._optimizer, state)


class Still(Parametrisation):
    """The images of a selection, which stay as they are.

    Args:
        images: ``[M, C, H, W]`` normalised units.
        labels: ``[M]`` int64.
    """

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.labels, self._images = labels, images.detach()

    def images(self) -> torch.Tensor:
        return self._images

    def update(self, gradient: torch.Tensor, factor: float = 1.0) -> None:
        raise TypeError("the images of a selection do not move")

    def state(self) -> dict[str, torch.Tensor]:
        return {"images": self._images}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        self._images = state["images"].to(self._images.device)
