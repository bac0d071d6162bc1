"""The seam "what is optimised": pixels, or anything that decodes to images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch

from dd.registry import Registry

Optimise = Callable[[Sequence[dict[str, Any]]], torch.optim.Optimizer]
"""From parameter groups, each with ``params`` and ``lr``, to their optimiser: the objective's."""


class Parametrisation(ABC):
    """Synthetic images under optimisation.

    Attributes:
        labels: ``[M]`` int64, fixed, on the images' device.
    """

    labels: torch.Tensor

    @abstractmethod
    def images(self) -> torch.Tensor:
        """The images ``[M, C, H, W]`` as they are now, in normalised units, detached; not to be
        written to."""

    @abstractmethod
    def update(self, gradient: torch.Tensor, factor: float = 1.0) -> None:
        """One optimiser step from ``gradient``, d loss / d images ``[M, C, H, W]``.

        Args:
            factor: on all learning rates in this step.
        """

    @abstractmethod
    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint needs to go on exactly."""

    @abstractmethod
    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take over what :meth:`state` returned."""

    def metrics(self) -> dict[str, float]:
        """Numbers for the metrics of an iteration, of the last update; mostly none."""
        return {}

    def extras(self) -> dict[str, torch.Tensor]:
        """Further tensors to keep with the set; their names have a dot (``latent.code``)."""
        return {}


PARAMETRISATIONS: Registry[type[Parametrisation]] = Registry("parametrisation")
"""Those beside pixels; a name is the modifier in a spec (``dc+glad``)."""
