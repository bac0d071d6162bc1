"""A network that is trained on the synthetic set, and derivatives of where it ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from dd.data import augment
from dd.data.augment import Drawn
from dd.distill.unroll import Batch, Gradients, Rate, Walk, graph_bytes, pull_back, unroll


class SetGradients(NamedTuple):
    """Derivatives of a loss of θ_J.

    Attributes:
        images: ``[M, C, H, W]``.
        labels: ``[M, K]``; None if they are no variables.
        rates: by the rate of each step, ``[J]``.
    """

    images: Tensor
    labels: Tensor | None
    rates: Tensor


class Model:
    """A network as a function of its parameters.

    Args:
        network: in training mode; its own parameters are not used.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.names = [name for name, _ in network.named_parameters()]
        self.shapes = [p.shape for p in network.parameters()]

    def logits(self, parameters: Sequence[Tensor], images: Tensor) -> Tensor:
        """``[n, K]`` of ``images [n, C, H, W]`` under ``parameters``."""
        named = dict(zip(self.names, parameters, strict=True))
        return functional_call(self.network, named, (images,))

    def loss(self, parameters: Sequence[Tensor], images: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy on images ``[n, C, H, W]`` with labels ``[n]`` or ``[n, K]``."""
        return F.cross_entropy(self.logits(parameters, images), labels)


class Student:
    """A network that is trained on the synthetic set, as a function of a flat parameter vector.

    Args:
        network: in training mode; its own parameters are not used.
        images: the synthetic images ``[M, C, H, W]``; labels: ``[M]`` or ``[M, K]``.
        indices: the images of each step, ``[b]`` per step, on the images' device.
        transforms: their augmentation, one per step.
        by_labels: whether derivatives by the labels ``[M, K]`` are wanted, too.
    """

    def __init__(
        self,
        network: nn.Module,
        images: Tensor,
        labels: Tensor,
        indices: Sequence[Tensor],
        transforms: Sequence[Drawn],
        by_labels: bool = False,
    ) -> None:
        self.model, self.transforms = Model(network), transforms
        self.indices = indices
        self.labels = [labels[part] for part in self.indices]
        self.shown = [images[part] for part in self.indices]
        self.inputs: Sequence[Batch] = self.shown
        if by_labels:
            self.inputs = list(zip(self.shown, self.labels, strict=True))
        self.like, self.like_labels = images, labels if by_labels else None

    def loss(self, parameters: Sequence[Tensor], batch: Batch, step: int) -> Tensor:
        """Mean cross-entropy of step ``step`` on its images ``[b, C, H, W]``, or on the pair of its
        images and labels ``[b, K]``."""
        images, labels = batch if isinstance(batch, tuple) else (batch, self.labels[step])
        return self.model.loss(parameters, self.seen(step, images), labels)

    def seen(self, step: int, images: Tensor) -> Tensor:
        """What the network sees of the images ``[b, C, H, W]`` of a step."""
        return augment.apply(self.transforms[step], images)

    def through(self, step: int, by_seen: Tensor) -> Tensor:
        """The derivative by the images of a step from that by what the network sees of them."""
        leaf = self.shown[step].detach().requires_grad_()
        return torch.autograd.grad(self.seen(step, leaf), leaf, by_seen)[0]

    def walk(self, start: Tensor, rate: Rate, keep: int = 0) -> Walk:
        """SGD from θ_0 = ``start`` with learning rate ``rate``; ``keep`` graphs are kept."""
        return unroll(self.loss, self.model.shapes, start, rate, self.inputs, keep)

    def graph_bytes(self, start: Tensor) -> int:
        """The bytes of the graph of a step."""
        return graph_bytes(self.loss, self.model.shapes, start, self.inputs[0])

    def keepable(self, start: Tensor, room: float) -> int:
        """How many graphs of steps fit into ``room`` bytes.

        Two more graphs must fit, for what the way back computes with one.
        """
        fitting = int(room // self.graph_bytes(start)) - 2
        return max(0, min(fitting, len(self.indices)))

    def gradients(self, walk: Walk, rate: float, cotangent: Tensor) -> tuple[Tensor, float]:
        """The derivatives of a loss of θ_J by the images ``[M, C, H, W]`` and by the rate.

        Args:
            walk, rate: those of :meth:`walk`.
            cotangent: the derivative of the loss by θ_J, ``[P]``.
        """
        found = self._pulled(walk, rate, cotangent)
        return self.gathered(found.inputs), float(found.rate)

    def set_gradients(self, walk: Walk, rate: Rate, cotangent: Tensor) -> SetGradients:
        """The derivatives of a loss of θ_J by all that the set holds; see :meth:`gradients`."""
        found = self._pulled(walk, rate, cotangent)
        if self.like_labels is None:
            return SetGradients(self.gathered(found.inputs), None, found.rates)
        images, labels = zip(*found.inputs, strict=True)
        return SetGradients(
            self.gathered(images),
            self.gathered(labels, self.like_labels),
            found.rates,
        )

    def _pulled(self, walk: Walk, rate: Rate, cotangent: Tensor) -> Gradients:
        return pull_back(self.loss, self.model.shapes, walk, rate, self.inputs, cotangent)

    def gathered(self, by_step: Iterable[Tensor], like: Tensor | None = None) -> Tensor:
        """The sum over steps of what each says about its images, in their shape or that of
        ``like``."""
        total = torch.zeros_like(self.like if like is None else like)
        for indices, part in zip(self.indices, by_step, strict=True):
            total.index_add_(0, indices, part)
        return total
