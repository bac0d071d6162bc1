"""Parametrisations: what a distillation optimises, pixels or anything that decodes to images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch

from dd.contracts import Breach, check_shape, check_tensors
from dd.registry import Registry

Optimise = Callable[[Sequence[dict[str, Any]]], torch.optim.Optimizer]
"""Makes the objective's optimiser of parameter groups, each with ``params`` and ``lr``."""

GRADIENT = "the gradient of the images"


class Parametrisation(ABC):
    """Synthetic images under optimisation.

    A registered class is made of ``(generator, images, labels, settings, optimise, stream)``: a
    generator if it ``needs_generator``, otherwise None; the objective's initial images ``[M, C, H,
    W]`` and labels ``[M]``; an instance of the class's ``Settings``; what makes the objective's
    optimiser; the stream of all draws, on the CPU. With a generator, ``Settings`` may have
    ``layer`` (docs/generators.md).

    Its labels are fixed. :class:`dd.distill.parametrisations.labels.Labelled` adds labels that are
    learned to any of them.

    Attributes:
        labels: ``[M]`` int64, on the images' device; learned ones ``[M, K]``.
    """

    labels: torch.Tensor
    needs_generator: ClassVar[bool] = False  # it decodes latents of a generator

    @abstractmethod
    def images(self) -> torch.Tensor:
        """The current images ``[M, C, H, W]`` in normalised units, detached. Read-only."""

    @abstractmethod
    def update(self, gradient: torch.Tensor, factor: float = 1.0) -> None:
        """One optimiser step from ``gradient``, d loss / d images ``[M, C, H, W]``.

        Args:
            factor: multiplies all learning rates in this step.
        """

    def update_labels(self, gradient: torch.Tensor, factor: float = 1.0) -> None:
        """One optimiser step from ``gradient``, d loss / d labels ``[M, K]``, if they are learned.

        Args:
            factor: multiplies the learning rate in this step.
        """
        raise TypeError("these labels are fixed")

    @abstractmethod
    def state(self) -> dict[str, torch.Tensor]:
        """The tensors that a checkpoint needs to resume exactly."""

    @abstractmethod
    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Restore what :meth:`state` returned."""

    def metrics(self) -> dict[str, float]:
        """Metrics of the last update; usually empty."""
        return {}

    def extras(self) -> dict[str, torch.Tensor]:
        """Further tensors to store with the set; their names have a dot (``latent.code``)."""
        return {}


def check_parametrisation(
    made: Parametrisation, images: torch.Tensor, labels: torch.Tensor
) -> None:
    """Raise a :class:`Breach` unless ``made``, of initial ``images`` and ``labels``, has what the
    loop reads of it."""
    own = made.images()
    check_shape("what images() gives", own, images.shape)
    if own.requires_grad:
        raise Breach("what images() gives has a gradient function, it must be detached")
    check_shape("the attribute labels", getattr(made, "labels", None), labels.shape)
    check_tensors("state()", made.state())
    check_tensors("extras()", made.extras(), dotted=True)


PARAMETRISATIONS: Registry[type[Parametrisation]] = Registry(
    "parametrisation", "dd.distill.parametrisations.base:Parametrisation"
)
"""All parametrisations except pixels. A name is also the modifier in a spec (``dc+glad``)."""
