"""Regularisers: an extra loss on the synthetic images, added to the objective's loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from dd.contracts import check_list, check_metrics, check_shape
from dd.distill.parametrisations.base import GRADIENT, Parametrisation
from dd.networks.base import Network
from dd.registry import Registry


class Regulariser(ABC):
    """A loss on the synthetic images; its gradient is added to that of the objective.

    Args:
        settings: an instance of the class's ``Settings``.
        networks: the frozen networks of :meth:`needs` in evaluation mode, by canonical spec.
        stream: the stream of all random draws, on the CPU.
    """

    Settings: ClassVar[type]

    def __init__(
        self, settings: Any, networks: Mapping[str, Network], stream: torch.Generator
    ) -> None:
        self.settings, self.networks, self.stream = settings, networks, stream

    @staticmethod
    def needs(settings: Any) -> Sequence[str]:
        """The canonical specs of the pretrained networks that it needs."""
        return []

    @abstractmethod
    def gradient(
        self, images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The gradient of the weighted loss by the images, and metrics.

        Args:
            images: ``[M, C, H, W]`` in normalised units, detached; labels: ``[M]``.

        Returns:
            ``[M, C, H, W]``, and values for the metrics of the iteration.
        """


REGULARISERS: Registry[type[Regulariser]] = Registry(
    "regulariser", "dd.distill.regularisers.base:Regulariser"
)
"""A name is also the modifier in a spec (``dc+metadd``)."""


class Regularised(Parametrisation):
    """Images with a regulariser in every update: L = L_method + λ L_regulariser.

    Args:
        canvas: the parametrisation that is optimised.
        regulariser: see :class:`Regulariser`.
    """

    def __init__(self, canvas: Parametrisation, regulariser: Regulariser) -> None:
        self.canvas, self.regulariser = canvas, regulariser
        self.labels = canvas.labels
        self._metrics: dict[str, float] = {}

    def images(self) -> torch.Tensor:
        return self.canvas.images()

    def update(self, gradient: torch.Tensor, factor: float = 1.0) -> None:
        images = self.canvas.images()
        given = self.regulariser.gradient(images, self.labels)
        check_list("the regulariser", given, 2, "a gradient and a dict of metrics")
        own, found = given
        check_shape("the gradient of the regulariser", own, images.shape)
        check_shape(GRADIENT, gradient, images.shape)  # before their sum may broadcast
        self.canvas.update(gradient + own, factor)
        check_metrics("the regulariser", found, taken=self.canvas.metrics())
        self._metrics = found

    def metrics(self) -> dict[str, float]:
        return self.canvas.metrics() | self._metrics

    def state(self) -> dict[str, torch.Tensor]:
        return self.canvas.state()

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        self.canvas.load_state(state)

    def extras(self) -> dict[str, torch.Tensor]:
        return self.canvas.extras()
