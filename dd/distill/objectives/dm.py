"""DM: match the mean embeddings of real and synthetic images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from dd.config.settings import setting
from dd.data import augment
from dd.distill.gradients import CHUNK
from dd.distill.objectives.base import OBJECTIVES, ImageSettings, NetworkSettings, Objective
from dd.distill.parametrisations.base import Parametrisation
from dd.networks.base import Network
from dd.networks.batchnorm import has_batch_norm
from dd.networks.memory import embedding_bytes, piece_of
from dd.runtime import precision
from dd.runtime.memory import Fitting


@dataclass(frozen=True)
class Settings(ImageSettings, NetworkSettings):
    """Settings of distribution matching."""

    batch_real: int = setting("real images per class and iteration", at_least=1)


def mean_distance(real: torch.Tensor, synthetic: torch.Tensor) -> torch.Tensor:
    """Squared distance of class means (arXiv:2110.04181, eq. 4), summed over classes.

    Args:
        real: embeddings ``[K, B, F]``; synthetic: ``[K, ipc, F]``.
    """
    return (real.mean(1) - synthetic.mean(1)).square().sum()


@OBJECTIVES.register("dm")
class DistributionMatching(Objective):
    """DM (Zhao, Bilen 2023, arXiv:2110.04181, Algorithm 1).

    Each iteration draws a new random network and matches mean embeddings, taken before the
    classifier. The real and synthetic images of a class get the same DSA operation. Only the
    embeddings of the real images are in the chosen precision (:mod:`dd.runtime.precision`).

    Images go through the network in pieces, so the memory that it takes does not grow with their
    number, unless a batch norm needs all of them together.
    """

    Settings = Settings

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.real = Fitting(CHUNK, "real images")  # in a pass
        self.synthetic: dict[str, Fitting] = {}  # images in a pass with a gradient, by network

    def iteration(self, number: int, synthetic: Parametrisation) -> dict[str, float | str]:
        s = self.settings
        name, network = self.networks.draw(number - 1, self.streams.network)
        network.train()
        leaf = synthetic.images().clone().requires_grad_(True)
        pieces = leaf.unflatten(0, (self.classes, self.ipc)).unbind()
        drawn = [
            augment.draw(s.augment, self.streams.host, 1, self.dataset.size, shared=True)
            for _ in range(self.classes)
        ]
        transforms, (chosen,) = augment.moved(drawn, self.device, self.real_batch(s.batch_real))
        real = (
            augment.apply(transform, self.dataset.train.take(indices))
            for transform, indices in zip(transforms, chosen, strict=True)
        )
        augmented = [augment.apply(t, piece) for t, piece in zip(transforms, pieces, strict=True)]
        with torch.no_grad():
            targets = self._embed(network, real).unflatten(0, chosen.shape)
        loss, slopes = self._match(name, network, targets, torch.cat(augmented).detach())
        (gradient,) = torch.autograd.grad(augmented, leaf, list(slopes.split(self.ipc)))
        synthetic.update(gradient)
        return {"loss": loss.item() / self.classes, "network": name}

    def _embed(self, network: Network, batches: Iterable[torch.Tensor]) -> torch.Tensor:
        """Embeddings ``[N, F]`` of the images of all batches.

        They are made and embedded in pieces, unless there is a batch norm, which needs all of them.
        """
        if has_batch_norm(network):
            return precision.forward(network.embed, torch.cat(list(batches)))

        def embedded(part: torch.Tensor) -> torch.Tensor:
            return precision.forward(network.embed, part)

        found: list[torch.Tensor] = []
        for images in _pieces(batches, self.real.size):
            found += [result for _, result in self.real.pieces(images, embedded)]
        return torch.cat(found)

    def _match(
        self, name: str, network: Network, real: torch.Tensor, images: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """:func:`match`, in pieces whose size follows from their bytes, unless there is a batch
        norm."""
        if has_batch_norm(network):
            return match(network, real, images, len(images))
        if name not in self.synthetic:
            each = embedding_bytes(network, self.dataset.train.shape)
            self.synthetic[name] = Fitting(piece_of(each, self.device), "synthetic images")
        result, _ = self.synthetic[name].once(
            lambda size: match(network, real, images, size), len(images)
        )
        return result


def match(
    network: Network, real: torch.Tensor, images: torch.Tensor, piece: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`mean_distance` of synthetic images, and its gradient by them.

    If there are more than ``piece`` images, a first pass computes their embeddings without a graph,
    and then the derivative of the distance by them. A second pass carries it back through the
    network, piece by piece. This is the same gradient, and autograd never holds more than the graph
    of one piece.

    Args:
        network: images must not influence each other, if there is more than one piece.
        real: embeddings ``[K, B, F]``.
        images: ``[K * ipc, C, H, W]``, class after class.
        piece: images in one pass.

    Returns:
        The distance, and its gradient with the shape of ``images``.
    """
    if piece >= len(images):
        leaf = images.detach().requires_grad_(True)
        loss = mean_distance(real, network.embed(leaf).unflatten(0, (len(real), -1)))
        (gradient,) = torch.autograd.grad(loss, leaf)
        return loss.detach(), gradient
    with torch.no_grad():
        embedded = torch.cat([network.embed(part) for part in images.split(piece)])
    embedded.requires_grad_(True)
    loss = mean_distance(real, embedded.unflatten(0, (len(real), -1)))
    (slopes,) = torch.autograd.grad(loss, embedded)
    gradient = torch.empty_like(images)
    for start in range(0, len(images), piece):
        part = slice(start, start + piece)
        leaf = images[part].detach().requires_grad_(True)
        (gradient[part],) = torch.autograd.grad(network.embed(leaf), leaf, slopes[part])
    return loss.detach(), gradient


def _pieces(batches: Iterable[torch.Tensor], size: int) -> Iterator[torch.Tensor]:
    """The images of all batches in pieces of ``size``, the last one perhaps smaller."""
    kept: list[torch.Tensor] = []
    room = size
    for batch in batches:
        while len(batch):
            kept.append(batch[:room])
            batch = batch[room:]
            room -= len(kept[-1])
            if not room:
                yield torch.cat(kept)
                kept, room = [], size
    if kept:
        yield torch.cat(kept)
