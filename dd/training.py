"""Training networks, several side by side where that is faster.

One function serves the inner loop of DC, evaluation, feature networks and teachers: the networks
of one architecture are trained on the same images, each with its own random stream, either one
after the other or stacked into one vectorised pass. Both ways compute the same thing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from dd.data import augment as augmentation
from dd.data.augment import check_strategy
from dd.data.dataset import Split
from dd.errors import DDError
from dd.progress import Progress
from dd.settings import setting

TEST_PIECE = {"cpu": 256, "cuda": 2048}

Criterion = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None, int], torch.Tensor]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: SGD, and what the field reports with it."""

    epochs: int = setting("epochs on the training images", at_least=0)
    lr: float = setting("learning rate at the start", above=0)
    momentum: float = setting("SGD momentum, 0 to 1", at_least=0, at_most=1)
    weight_decay: float = setting("SGD weight decay", at_least=0)
    batch: int = setting("images a step", at_least=1)
    augment: str = setting("DSA operations joined by _, or none", check=check_strategy)
    schedule: str = setting(
        "learning rate over time: paper (x 0.1 at half time), released (as the DC family's code "
        "runs it: one epoch more, x 0.1 after epoch index epochs // 2 + 1, momentum lost there) "
        "or constant",
        choices=("paper", "released", "constant"),
    )

    def phases(self) -> list[tuple[int, float, bool]]:
        """Phases ``(epochs, learning rate, fresh optimiser?)``."""
        half = self.epochs // 2
        if self.schedule == "constant" or not self.epochs:
            return [(self.epochs, self.lr, True)]
        if self.schedule == "paper":
            return [(half, self.lr, True), (self.epochs - half, self.lr * 0.1, False)]
        # the public loop runs `range(epochs + 1)` and rebuilds the optimiser when it drops the rate
        before = min(half + 2, self.epochs + 1)
        return [(before, self.lr, True), (self.epochs + 1 - before, self.lr * 0.1, True)]


def cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, teacher: torch.Tensor | None, epoch: int
) -> torch.Tensor:
    """Mean cross-entropy of ``logits [B, K]`` with hard ``[B]`` or soft ``[B, K]`` labels."""
    return F.cross_entropy(logits, labels)


def train(
    networks: Sequence[nn.Module],
    images: torch.Tensor | Split,
    labels: torch.Tensor,
    recipe: Recipe,
    generators: Sequence[torch.Generator],
    name: str | None = None,
    *,
    criterion: Criterion = cross_entropy,
    teachers: Sequence[nn.Module] | None = None,
    together: bool | None = None,
    strict: bool = True,
) -> None:
    """Train ``networks`` (of one architecture) in place and leave them in evaluation mode.

    Args:
        networks: modules on the device of the images.
        images: ``[M, C, H, W]`` normalised, or a split of a dataset.
        labels: ``[M]`` int64 or ``[M, K]`` probabilities.
        recipe: how.
        generators: one a network, on the CPU: order of the images and augmentation.
        name: shown with progress; None for silence.
        criterion: ``(logits, labels, teacher logits or None, epoch) -> mean loss``.
        teachers: one a network, giving the criterion its third argument.
        together: stack the networks (True), take them in turn (False), or (None) stack them on a
            GPU (expected to pay, not measured yet) and take them in turn on the CPU, where
            stacking gains only on tiny batches of tiny images (benchmarks/README.md).
        strict: whether a loss that becomes NaN or infinite is an error; if not, the network stays
            as it is, its parameters NaN.

    Raises:
        DDError: if a loss becomes NaN or infinite and ``strict`` holds.
    """
    take = images.take if isinstance(images, Split) else images.__getitem__
    size = len(labels)
    if together is None:
        together = len(networks) > 1 and labels.device.type == "cuda"
    groups = [list(range(len(networks)))] if together else [[n] for n in range(len(networks))]
    total = recipe.epochs * len(groups)
    progress = Progress(name, total, "epochs") if name else None
    for network in networks:
        network.train()  # gradient matching hands over networks whose batch norms are frozen
    for group in groups:
        learner = _Stack if len(group) > 1 else _Single
        student = learner([networks[n] for n in group])
        teacher = learner([teachers[n] for n in group]) if teachers else None
        cached = (
            _pieces(teacher, take, size, len(group))
            if teacher and recipe.augment == "none"
            else None
        )
        epoch = 0
        for epochs, lr, fresh in recipe.phases():
            if fresh:
                optimizer = torch.optim.SGD(
                    student.parameters, lr, recipe.momentum, weight_decay=recipe.weight_decay
                )
            optimizer.param_groups[0]["lr"] = lr
            for _ in range(epochs):
                own = [generators[n] for n in group]
                for indices in _batches(own, size, recipe.batch):
                    batch = _augmented(take, indices, recipe.augment, own)
                    target = labels[indices.to(labels.device)]
                    guide = None
                    if cached is not None:
                        index = indices.to(cached.device)
                        guide = torch.stack([c[i] for c, i in zip(cached, index, strict=True)])
                    elif teacher is not None:
                        with torch.no_grad():
                            guide = teacher.forward(batch)
                    losses = _losses(criterion, student.forward(batch), target, guide, epoch)
                    optimizer.zero_grad()
                    losses.sum().backward()
                    optimizer.step()
                epoch += 1
                if progress:
                    progress.update()
        if strict and epoch and not torch.isfinite(losses).all():
            raise DDError(
                f"training diverged: the loss is {losses.detach().mean().item()} after {epoch} "
                f"epochs at learning rate {recipe.lr}; use a smaller one"
            )
        student.finish()


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
def embed_all(network: nn.Module, split: Split, indices: torch.Tensor) -> torch.Tensor:
    """Embeddings ``[n, F]`` of the images at ``indices``; the network must be in eval mode."""
    piece = TEST_PIECE.get(split.labels.device.type, 256)
    return torch.cat([network.embed(split.take(part)) for part in indices.split(piece)])


def _batches(
    generators: Sequence[torch.Generator], size: int, batch: int
) -> Iterator[torch.Tensor]:
    """Indices ``[N, b]`` of one epoch, every network in an order of its own."""
    orders = torch.stack([torch.randperm(size, generator=g) for g in generators])
    yield from orders.split(batch, dim=1)


def _augmented(
    take: Callable, indices: torch.Tensor, strategy: str, generators: Sequence[torch.Generator]
) -> torch.Tensor:
    """Images ``[N, b, C, H, W]`` at ``indices [N, b]``, each network's with its own draw."""
    images = take(indices.flatten()).unflatten(0, indices.shape)
    if strategy == "none":
        return images
    size = tuple(images.shape[-2:])
    count = indices.shape[1]
    return torch.stack(
        [
            augmentation.apply(augmentation.draw(strategy, g, count, size), own)
            for g, own in zip(generators, images, strict=True)
        ]
    )


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


def _pieces(learner: _Single | _Stack, take: Callable, size: int, networks: int) -> torch.Tensor:
    """Logits ``[N, M, K]`` of every network on every image (the same images for all)."""
    with torch.no_grad():
        pieces = [
            learner.forward(take(part).expand(networks, *[-1] * 4))
            for part in torch.arange(size).split(256)
        ]
    return torch.cat(pieces, 1)


class _Single:
    """One network behind the interface of a stack."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        (self.network,) = networks
        self.parameters = list(self.network.parameters())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``[1, B, C, H, W]`` to ``[1, B, K]``."""
        return self.network(images[0]).unsqueeze(0)

    def finish(self) -> None:
        self.network.eval()


class _Stack:
    """N networks of one architecture as one vectorised function of stacked parameters."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self.networks = networks
        self.states, self.buffers = stack_module_state(list(networks))
        self.parameters = list(self.states.values())
        self.skeleton = copy.deepcopy(networks[0]).to("meta")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``[N, B, C, H, W]`` to ``[N, B, K]``, network n on images[n]."""

        def one(parameters: dict, buffers: dict, own: torch.Tensor) -> torch.Tensor:
            return functional_call(self.skeleton, (parameters, buffers), (own,))

        return vmap(one)(self.states, self.buffers, images)

    @torch.no_grad()
    def finish(self) -> None:
        for stacked in (self.states, self.buffers):
            for name, values in stacked.items():
                for network, value in zip(self.networks, values, strict=True):
                    network.get_parameter(name).copy_(value) if stacked is self.states else (
                        network.get_buffer(name).copy_(value)
                    )
        for network in self.networks:
            network.eval()
