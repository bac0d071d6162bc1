"""Train networks, several at once if that is faster.

One function serves the inner loop of DC, evaluation, feature networks and teachers. The networks
have the same architecture and are trained on the same images, each with its own random stream. They
are trained one after the other, or stacked into one vectorised pass. Both ways compute the same.

One network for whose batch a GPU is too small computes its gradient in parts, or, if a batch norm
needs the whole batch, computes activations again (:func:`train_step`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn

from dd.contracts import Breach, check_shape
from dd.data import augment
from dd.data.dataset import Split
from dd.errors import DDError
from dd.networks.base import Network
from dd.networks.memory import CPU_PIECE, test_piece
from dd.runtime import precision
from dd.runtime.memory import Fitting, in_pieces
from dd.runtime.progress import Progress
from dd.training.ensemble import Ensemble, ensemble
from dd.training.recipe import Recipe
from dd.training.resume import epochs

Criterion = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None, int], torch.Tensor]
Loss = Callable[[torch.Tensor, slice], torch.Tensor]


class Feed(Protocol):
    """Where training batches come from."""

    def batches(
        self, generators: Sequence[torch.Generator], size: int, epoch: int
    ) -> Iterator[torch.Tensor]:
        """Indices ``[N, b]`` of each batch of an epoch, on the device of the images.

        Args:
            generators: one per network, on the CPU.
            size: images per batch.
            epoch: number of the epoch, from 0.
        """
        ...

    def batch(
        self, indices: torch.Tensor, generators: Sequence[torch.Generator], epoch: int
    ) -> torch.Tensor:
        """Images ``[N, b, C, H, W]`` at ``indices [N, b]``, as the N networks see them.

        Args:
            indices: of the images, for each network.
            generators: one per network, on the CPU, for random numbers of this batch.
            epoch: number of the epoch, from 0.
        """
        ...


class Guide(Protocol):
    """What networks learn from besides their labels."""

    def at(self, indices: torch.Tensor, batch: torch.Tensor, epoch: int) -> torch.Tensor:
        """Logits ``[N, b, K]`` for ``batch [N, b, C, H, W]``, the images at ``indices [N, b]``."""
        ...


def cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, teacher: torch.Tensor | None, epoch: int
) -> torch.Tensor:
    """Mean cross-entropy of ``logits [B, K]`` with hard ``[B]`` or soft ``[B, K]`` labels."""
    return F.cross_entropy(logits, labels)


@dataclass(frozen=True)
class Augmented:
    """Images with a new random augmentation for each batch and each network.

    Attributes:
        take: maps indices ``[n]`` to normalised images ``[n, C, H, W]``.
        count: number of images.
        strategy: see :mod:`dd.data.augment`.
        device: of the images.
    """

    take: Callable[[torch.Tensor], torch.Tensor]
    count: int
    strategy: str
    device: torch.device

    def batches(
        self, generators: Sequence[torch.Generator], size: int, epoch: int
    ) -> Iterator[torch.Tensor]:
        """See :class:`Feed`."""
        return shuffled(generators, self.count, size, self.device)

    def batch(
        self, indices: torch.Tensor, generators: Sequence[torch.Generator], epoch: int
    ) -> torch.Tensor:
        """See :class:`Feed`."""
        images = self.take(indices.flatten()).unflatten(0, indices.shape)
        if self.strategy == "none":
            return images
        size = tuple(images.shape[-2:])
        count = indices.shape[1]
        drawn = [augment.draw(self.strategy, g, count, size) for g in generators]
        transforms, _ = augment.moved(drawn, self.device)
        return torch.stack(
            [augment.apply(t, own) for t, own in zip(transforms, images, strict=True)]
        )


def augmented(images: torch.Tensor | Split, strategy: str) -> Augmented:
    """A feed of ``images`` (``[M, C, H, W]`` or a split), augmented by ``strategy``."""
    if isinstance(images, Split):
        return Augmented(images.take, len(images), strategy, images.labels.device)
    return Augmented(images.__getitem__, len(images), strategy, images.device)


def train(
    networks: Sequence[nn.Module],
    images: torch.Tensor | Split | Feed,
    labels: torch.Tensor,
    recipe: Recipe,
    generators: Sequence[torch.Generator],
    name: str | None = None,
    *,
    criterion: Criterion = cross_entropy,
    teachers: Sequence[nn.Module] | None = None,
    guide: Guide | None = None,
    together: bool = False,
    strict: bool = True,
) -> None:
    """Train ``networks`` (of one architecture) in place and leave them in evaluation mode.

    Args:
        networks: modules on the device of the images.
        images: ``[M, C, H, W]`` normalised, or a split of a dataset; both are augmented by the
            strategy of the recipe. Or a feed, which augments by itself.
        labels: ``[M]`` int64 or ``[M, K]`` probabilities.
        recipe: how networks are trained.
        generators: one per network, on the CPU, for the order of the images and augmentation.
        name: shown with the progress; None: show no progress.
        criterion: ``(logits, labels, teacher logits or None, epoch) -> loss``, the mean over the
            images of what depends on one image.
        teachers: one per network; their logits are the third argument of the criterion.
        guide: gives this argument for all networks, instead of teachers; one of the two at most.
        together: stack the networks, or train one after the other (:mod:`dd.runtime.stacking`).
        strict: whether a loss that becomes NaN or infinite is an error. If not, the network is left
            with NaN parameters.

    Raises:
        TrainingDiverged: if a loss becomes NaN or infinite and ``strict`` is true.
        Breach: if there are teachers and a guide.
    """
    if teachers and guide is not None:
        raise Breach("teachers and a guide are given, but the loss gets the logits of one of them")
    if isinstance(images, torch.Tensor | Split):
        feed: Feed = augmented(images, recipe.augment)
    else:
        feed = images
    groups = [list(range(len(networks)))] if together else [[n] for n in range(len(networks))]
    count = len(recipe.rates())
    progress = Progress(name, count * len(groups), "epochs") if name else None
    for network in networks:
        network.train()  # gradient matching passes networks whose batch norms are in eval mode
    for group in groups:
        students = ensemble([networks[n] for n in group])
        if teachers:
            taught = ensemble([teachers[n] for n in group])
            fixed = isinstance(feed, Augmented) and feed.strategy == "none"
            guide = Teachers(taught, feed if fixed else None, len(labels))
        own = [generators[n] for n in group]
        for epoch, optimizer in epochs(students, recipe):
            losses = train_epoch(
                students, optimizer, feed, labels, recipe, own, criterion, guide, epoch
            )
            if progress:
                progress.update()
        if strict and count:
            check_losses(losses, recipe, count)
        students.finish()


def train_epoch(
    students: Ensemble,
    optimizer: torch.optim.Optimizer,
    feed: Feed,
    labels: torch.Tensor,
    recipe: Recipe,
    generators: Sequence[torch.Generator],
    criterion: Criterion = cross_entropy,
    guide: Guide | None = None,
    epoch: int = 0,
) -> torch.Tensor:
    """Train N networks for one epoch, each with its own order of the images.

    Args:
        students: the networks.
        optimizer: of their parameters.
        feed: gives the batches.
        labels: of all images, ``[M]`` or ``[M, K]``.
        recipe: gives the size of a batch.
        generators: one per network, on the CPU.
        criterion: see :func:`train`.
        guide: gives the criterion its third argument.
        epoch: the fourth argument of the criterion.

    Returns:
        The losses ``[N]`` of the last batch.
    """
    for indices in feed.batches(generators, recipe.batch, epoch):
        batch = feed.batch(indices, generators, epoch)
        guidance = None if guide is None else guide.at(indices, batch, epoch)
        target = labels[indices]

        def loss(logits: torch.Tensor, part: slice) -> torch.Tensor:
            own = None if guidance is None else guidance[:, part]  # noqa: B023  # called at once
            return _losses(criterion, logits, target[:, part], own, epoch)  # noqa: B023

        losses = train_step(students, optimizer, batch, loss)
    return losses


def train_step(
    students: Ensemble, optimizer: torch.optim.Optimizer, batch: torch.Tensor, loss: Loss
) -> torch.Tensor:
    """One step of N networks.

    If the memory of a GPU is too small for one network (stacked networks raise this as an error),
    the gradient is the sum of those of parts of the batch: the same up to rounding. A network with
    batch norm does not keep all activations, but computes them again on the way back: the same.
    ``students`` remember it, so that the next step begins so.

    Args:
        students: the networks.
        optimizer: of their parameters.
        batch: ``[N, b, C, H, W]``.
        loss: ``(logits [N, n, K], which n images) -> losses [N]``, means over these images.

    Returns:
        The losses ``[N]``, detached.
    """

    def gradient(size: int) -> torch.Tensor:
        optimizer.zero_grad()
        count, found = batch.shape[1], []
        for start in range(0, count, size):
            part = slice(start, min(start + size, count))
            losses = loss(precision.forward(students.forward, batch[:, part]), part)
            if size < count:
                losses = losses * ((part.stop - start) / count)  # its share of the mean
            losses.sum().backward()
            found.append(losses.detach())
        return torch.stack(found).sum(0) if size < count else found[0]

    losses = students.fitting(gradient, batch.shape[1])
    optimizer.step()
    return losses


class TrainingDiverged(DDError):
    """The loss of a network in training became NaN or infinite."""


def check_losses(losses: torch.Tensor, recipe: Recipe, epochs: int) -> float:
    """The mean of ``losses`` after ``epochs``.

    Raises:
        TrainingDiverged: if one of them is NaN or infinite.
    """
    mean = losses.mean().item()  # it is finite only if all are
    if not math.isfinite(mean):
        raise TrainingDiverged(
            f"training diverged: the loss is {mean} after {epochs} epochs at "
            f"learning rate {recipe.lr}; use a smaller one"
        )
    return mean


class Teachers:
    """Logits of teachers, one teacher per student.

    Args:
        teachers: N networks.
        fixed: a feed whose images never change, so that their logits are computed only once; None
            if the images change.
        size: number of images.
    """

    def __init__(self, teachers: Ensemble, fixed: Feed | None, size: int) -> None:
        self.teachers = teachers
        self.fitting = Fitting(size, "images before a teacher")
        self.cached: torch.Tensor | None = None
        if fixed is not None:
            device = teachers.parameters[0].device
            each = torch.arange(size, device=device).expand(len(teachers.networks), -1)
            batches = [fixed.batch(part, [], 0) for part in each.split(CPU_PIECE, 1)]
            self.cached = torch.cat([self._logits(images) for images in batches], 1)

    def at(self, indices: torch.Tensor, batch: torch.Tensor, epoch: int) -> torch.Tensor:
        """See :class:`Guide`."""
        if self.cached is None:
            return self._logits(batch)
        return torch.stack([c[i] for c, i in zip(self.cached, indices, strict=True)])

    @torch.no_grad()
    def _logits(self, images: torch.Tensor) -> torch.Tensor:
        def logits(part: torch.Tensor) -> torch.Tensor:
            return precision.forward(self.teachers.forward, part.transpose(0, 1))

        pieces = self.fitting.pieces(images.transpose(0, 1), logits)
        return torch.cat([piece for _, piece in pieces], 1)


@torch.no_grad()
def accuracy(network: nn.Module, split: Split) -> float:
    """Percentage of ``split`` that is classified correctly. The network must be in eval mode."""

    def hits(where: torch.Tensor) -> torch.Tensor:
        predicted = precision.forward(network, split.take(where)).argmax(1)
        return (predicted == split.labels[where]).sum()

    device = split.labels.device
    each = torch.arange(len(split), device=device)
    right = torch.zeros((), dtype=torch.int64, device=device)
    for _, found in in_pieces(each, test_piece(device, split.shape, network), hits, "test images"):
        right += found
    return 100.0 * int(right) / len(split)


@torch.no_grad()
def embed_all(network: Network, split: Split, indices: torch.Tensor) -> torch.Tensor:
    """Embeddings ``[n, F]`` of the images at ``indices [n]`` (on any device); the network must be
    in eval mode.

    They are float32 in any precision: selections compare distances that are almost equal.
    """
    device = split.labels.device
    pieces = in_pieces(
        indices.to(device),
        test_piece(device, split.shape, network),
        lambda part: network.embed(split.take(part)),
        "images",
    )
    return torch.cat([embedded for _, embedded in pieces])


def shuffled(
    generators: Sequence[torch.Generator],
    count: int,
    size: int,
    device: torch.device | str = "cpu",
) -> Iterator[torch.Tensor]:
    """Indices ``[N, b]`` of the batches of one epoch over ``count`` images, ``size`` per batch.

    Each network has its own random order. All orders go to ``device`` by one copy.
    """
    orders = torch.stack([torch.randperm(count, generator=g) for g in generators])
    yield from orders.to(device).split(size, dim=1)


def _losses(
    criterion: Criterion,
    logits: torch.Tensor,
    labels: torch.Tensor,
    guide: torch.Tensor | None,
    epoch: int,
) -> torch.Tensor:
    """One loss per network, ``[N]``, from logits ``[N, b, K]``.

    Raises:
        Breach: if a loss is not one number.
    """
    losses = [
        criterion(own, target, None if guide is None else guide[n], epoch)
        for n, (own, target) in enumerate(zip(logits, labels, strict=True))
    ]
    check_shape("the loss", losses[0], ())
    return torch.stack(losses)
