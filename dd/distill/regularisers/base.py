"""The seam "what else must hold": a loss of the synthetic images beside the objective's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from dd.distill.parametrisations.base import Parametrisation
from dd.networks.base import Network
from dd.registry import Registry


class Regulariser(ABC):
    """A loss of the synthetic images, whose gradient is added to the objective's.

    Args:
        settings: an instance of the class's ``Settings``.
        networks: frozen networks in evaluation mode by canonical spec, those of :meth:`needs`.
        stream: on the CPU; what is random comes from it.
    """

    Settings: ClassVar[type]

    def __init__(
        self, settings: Any, networks: Mapping[str, Network], stream: torch.Generator
    ) -> None:
        self.settings, self.networks, self.stream = settings, networks, stream

    @staticmethod
    def needs(settings: Any) -> Sequence[str]:
        """The pretrained networks it needs, canonical specs."""
        return []

    @abstractmethod
    def gradient(
        self, images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss's gradient by the images, its weight included, and metrics.

        Args:
            images: ``[M, C, H, W]`` normalised units, detached; labels: ``[M]``.

        Returns:
            ``[M, C, H, W]``, and numbers for the metrics of the iteration.
        """


REGULARISERS: Registry[type[Regulariser]] = Registry("regulariser")
"""A name is the modifier in a spec (``dc+metadd``)."""


class Regularised(Parametrisation):
    """Images whose every update also follows a regulariser: L = L_method + λ L_regulariser.

    Args:
        canvas: what is optimised.
        regulariser: see :class:`Regulariser`.
    """

    def __init__(self, canvas: Parametrisation, regulariser: Regulariser) -> None:
        self.canvas, self.regulariser = canvas, regulariser
        self.labels = canvas.labels
        self._metrics: dict[str, float] = {}

    def images(self) -> torch.Tensor:
        return self.canvas.images()

    def update(self, gradient: torch.Tensor, factor: float = 1.0) -> None:
        own, self._metrics = self.regulariser.gradient(self.canvas.images(), self.labels)
        self.canvas.update(gradient + own, factor)

    def metrics(self) -> dict[str, float]:
        return self.canvas.metrics() | self._metrics

    def state(self) -> dict[str, torch.Tensor]:
        return self.canvas.state()

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        self.canvas.load_state(state)

    def extras(self) -> dict[str, torch.Tensor]:
        return self.canvas.extras()
