"""Training networks, several side by side where that is faster.

One function serves the inner loop of DC, evaluation, feature networks and teachers: the networks
of one architecture are trained on the same images, each with its own random stream, either one
after the other or stacked into one vectorised pass. Both ways compute the same thing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn

from dd.data import augment
from dd.data.dataset import Split
from dd.errors import DDError
from dd.networks.base import Network
from dd.runtime.progress import Progress
from dd.training.ensemble import Ensemble, ensemble
from dd.training.recipe import Recipe
from dd.training.resume import epochs

TEST_PIECE = {"cpu": 256, "cuda": 2048}

Criterion = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None, int], torch.Tensor]


class Feed(Protocol):
    """Where training batches come from."""

    def batches(
        self, generators: Sequence[torch.Generator], size: int, epoch: int
    ) -> Iterator[torch.Tensor]:
        """Indices ``[N, b]`` of every batch of an epoch.

        Args:
            generators: one a network, on the CPU.
            size: images a batch.
            epoch: of the training, from 0.
        """
        ...

    def batch(
        self, indices: torch.Tensor, generators: Sequence[torch.Generator], epoch: int
    ) -> torch.Tensor:
        """Images ``[N, b, C, H, W]`` at ``indices [N, b]`` for N networks, as they are to be seen.

        Args:
            generators: one a network, on the CPU, for what is drawn at each batch.
            epoch: of the training, from 0.
        """
        ...


class Guide(Protocol):
    """What networks learn from beside their labels."""

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
    """Images augmented anew at each batch, each network's with its own draw.

    Attributes:
        take: indices ``[n]`` to normalised images ``[n, C, H, W]``.
        count: how many images there are.
        strategy: see :mod:`dd.data.augment`.
    """

    take: Callable[[torch.Tensor], torch.Tensor]
    count: int
    strategy: str

    def batches(
        self, generators: Sequence[torch.Generator], size: int, epoch: int
    ) -> Iterator[torch.Tensor]:
        """See :class:`Feed`."""
        return shuffled(generators, self.count, size)

    def batch(
        self, indices: torch.Tensor, generators: Sequence[torch.Generator], epoch: int
    ) -> torch.Tensor:
        """See :class:`Feed`."""
        images = self.take(indices.flatten()).unflatten(0, indices.shape)
        if self.strategy == "none":
            return images
        size = tuple(images.shape[-2:])
        count = indices.shape[1]
        return torch.stack(
            [
                augment.apply(augment.draw(self.strategy, g, count, size), own)
                for g, own in zip(generators, images, strict=True)
            ]
        )


def augmented(images: torch.Tensor | Split, strategy: str) -> Augmented:
    """The feed of ``images``, ``[M, C, H, W]`` or a split, under ``strategy``."""
    take = images.take if isinstance(images, Split) else images.__getitem__
    return Augmented(take, len(images), strategy)


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
    together: bool | None = None,
    strict: bool = True,
) -> None:
    """Train ``networks`` (of one architecture) in place and leave them in evaluation mode.

    Args:
        networks: modules on the device of the images.
        images: ``[M, C, H, W]`` normalised, or a split of a dataset, augmented as the recipe says;
            or a feed of its own.
        labels: ``[M]`` int64 or ``[M, K]`` probabilities.
        recipe: how.
        generators: one a network, on the CPU: order of the images and augmentation.
        name: shown with progress; None for silence.
        criterion: ``(logits, labels, teacher logits or None, epoch) -> mean loss``.
        teachers: one a network, giving the criterion its third argument.
        guide: gives it, for all networks, in place of teachers.
        together: stack the networks (True), take them in turn (False), or (None) stack them on a
            GPU (expected to pay, not measured yet) and take them in turn on the CPU, where
            stacking gains only on tiny batches of tiny images (benchmarks/README.md).
        strict: whether a loss that becomes NaN or infinite is an error; if not, the network stays
            as it is, its parameters NaN.

    Raises:
        TrainingDiverged: if a loss becomes NaN or infinite and ``strict`` holds.
    """
    if isinstance(images, torch.Tensor | Split):
        feed: Feed = augmented(images, recipe.augment)
    else:
        feed = images
    if together is None:
        together = len(networks) > 1 and labels.device.type == "cuda"
    groups = [list(range(len(networks)))] if together else [[n] for n in range(len(networks))]
    count = len(recipe.rates())
    progress = Progress(name, count * len(groups), "epochs") if name else None
    for network in networks:
        network.train()  # gradient matching hands over networks whose batch norms are frozen
    for group in groups:
        students = ensemble([networks[n] for n in group])
        if teachers:
            taught = ensemble([teachers[n] for n in group])
            guide = Teachers(taught, feed if recipe.augment == "none" else None, len(labels))
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
    """One epoch of N networks, each in an order of its own; returns the last losses ``[N]``.

    Args:
        labels: of all images, ``[M]`` or ``[M, K]``.
        generators: one a network, on the CPU.
        guide: gives the criterion its third argument.
        epoch: its fourth.
    """
    for indices in feed.batches(generators, recipe.batch, epoch):
        batch = feed.batch(indices, generators, epoch)
        guidance = None if guide is None else guide.at(indices, batch, epoch)
        target = labels[indices.to(labels.device)]
        losses = _losses(criterion, students.forward(batch), target, guidance, epoch)
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
    return losses.detach()


class TrainingDiverged(DDError):
    """The loss of a network in training became NaN or infinite."""


def check_losses(losses: torch.Tensor, recipe: Recipe, epochs: int) -> None:
    """Raise :class:`TrainingDiverged` if one of ``losses`` after ``epochs`` is NaN or infinite."""
    if not torch.isfinite(losses).all():
        raise TrainingDiverged(
            f"training diverged: the loss is {losses.mean().item()} after {epochs} epochs at "
            f"learning rate {recipe.lr}; use a smaller one"
        )


class Teachers:
    """Logits of teachers, one a student.

    Args:
        teachers: N networks.
        fixed: images that are the same whenever they are seen, so that the teachers need look at
            them once; or None.
        size: how many images there are.
    """

    def __init__(self, teachers: Ensemble, fixed: Feed | None, size: int) -> None:
        self.teachers = teachers
        self.cached: torch.Tensor | None = None
        if fixed is not None:
            each = torch.arange(size).expand(len(teachers.networks), -1)
            seen = [fixed.batch(part, [], 0) for part in each.split(256, 1)]
            self.cached = torch.cat([self._logits(images) for images in seen], 1)

    def at(self, indices: torch.Tensor, batch: torch.Tensor, epoch: int) -> torch.Tensor:
        """See :class:`Guide`."""
        if self.cached is None:
            return self._logits(batch)
        index = indices.to(self.cached.device)
        return torch.stack([c[i] for c, i in zip(self.cached, index, strict=True)])

    @torch.no_grad()
    def _logits(self, images: torch.Tensor) -> torch.Tensor:
        return self.teachers.forward(images)


@torch.no_grad()
def accuracy(network: nn.Module, split: Split) -> float:
    """Share of ``split`` classified correctly, in percent. The network must be in eval mode."""
    piece = TEST_PIECE.get(split.labels.device.type, 256)
    right = torch.zeros((), dtype=torch.int64, device=split.labels.device)
    for indices in torch.arange(len(split)).split(piece):
        where = indices.to(split.labels.device)
        right += (network(split.take(where)).argmax(1) == split.labels[where]).sum()
    return 100.0 * int(right) / len(split)


@torch.no_grad()
def embed_all(network: Network, split: Split, indices: torch.Tensor) -> torch.Tensor:
    """Embeddings ``[n, F]`` of the images at ``indices``; the network must be in eval mode."""
    piece = TEST_PIECE.get(split.labels.device.type, 256)
    return torch.cat([network.embed(split.take(part)) for part in indices.split(piece)])


def shuffled(
    generators: Sequence[torch.Generator], count: int, size: int
) -> Iterator[torch.Tensor]:
    """Indices ``[N, b]`` of one epoch of ``count`` images, ``size`` a batch, every network in an
    order of its own."""
    orders = torch.stack([torch.randperm(count, generator=g) for g in generators])
    yield from orders.split(size, dim=1)


def _losses(
    criterion: Criterion,
    logits: torch.Tensor,
    labels: torch.Tensor,
    guide: torch.Tensor | None,
    epoch: int,
) -> torch.Tensor:
    """One loss a network, ``[N]``, from logits ``[N, b, K]``."""
    return torch.stack(
        [
            criterion(own, target, None if guide is None else guide[n], epoch)
            for n, (own, target) in enumerate(zip(logits, labels, strict=True))
        ]
    )
