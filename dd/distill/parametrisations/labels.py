"""Labels that are learned together with the images, whatever those are made of."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dd.artifacts.checkpoint import form, under
from dd.contracts import check_shape
from dd.distill.parametrisations.base import Optimise, Parametrisation
from dd.errors import DDError
from dd.training.state import load_optimizer_state, optimizer_state, step


@dataclass(frozen=True)
class LearnedLabels:
    """Labels before the first iteration, and how they are learned.

    Attributes:
        start: ``[M, K]``.
        kind: one of :data:`dd.data.synthetic.LEARNED`. ``probabilities`` stay such: what moves is
            v, and the labels are softmax(v); ``start`` must be above 0. ``targets`` move freely.
        lr: the learning rate, of v or of the labels.
    """

    start: Tensor
    kind: str
    lr: float


def check_learnable(classes: int) -> None:
    """Raise a :class:`DDError` if there is nothing to learn about labels."""
    if classes < 2:
        raise DDError("labels are learned, but the dataset has one class; give at least two")


class Labelled(Parametrisation):
    """A parametrisation of images with labels that are learned.

    Args:
        canvas: the images, with or without a regulariser. It keeps its own labels, the class of
            each image, which regularisers and generators use.
        learned: the labels.
        optimise: makes the optimiser, of the kind of the images'.
    """

    def __init__(self, canvas: Parametrisation, learned: LearnedLabels, optimise: Optimise) -> None:
        self.canvas, self.kind = canvas, learned.kind
        start = learned.start.detach()
        self._values = (start.log() if self._soft else start.clone()).requires_grad_(True)
        self._optimizer = optimise([{"params": [self._values], "lr": learned.lr}])
        self._refresh()

    @property
    def _soft(self) -> bool:
        return self.kind == "probabilities"

    def _refresh(self) -> None:
        values = self._values.detach()
        self.labels = values.softmax(1) if self._soft else values.clone()

    def images(self) -> Tensor:
        return self.canvas.images()

    def update(self, gradient: Tensor, factor: float = 1.0) -> None:
        self.canvas.update(gradient, factor)

    def update_labels(self, gradient: Tensor, factor: float = 1.0) -> None:
        check_shape("the gradient of the labels", gradient, self._values.shape)
        if self._soft:  # the vector-Jacobian product of a softmax
            gradient = self.labels * (gradient - (self.labels * gradient).sum(1, keepdim=True))
        self._values.grad = gradient
        step(self._optimizer, factor)
        self._refresh()

    def metrics(self) -> dict[str, float]:
        return self.canvas.metrics()

    def state(self) -> dict[str, Tensor]:
        own = {"values": self._values.detach()} | optimizer_state(self._optimizer)
        return self.canvas.state() | {f"labels.{name}": value for name, value in own.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.canvas.load_state(state)
        own = under("labels.", state)
        if own["values"].shape != self._values.shape:
            shape = list(self._values.shape)
            raise DDError(f"'labels.values' is {form(own['values'])}, it must be {shape}")
        self._values.data.copy_(own["values"])
        load_optimizer_state(self._optimizer, own)
        self._refresh()

    def extras(self) -> dict[str, Tensor]:
        return self.canvas.extras()
