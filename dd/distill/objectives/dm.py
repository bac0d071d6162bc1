"""DM: match the mean embeddings of real and synthetic images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dd.config.settings import setting
from dd.data import augment
from dd.distill.gradients import CHUNK
from dd.distill.objectives.base import OBJECTIVES, ImageSettings, NetworkSettings, Objective
from dd.distill.parametrisations.base import Parametrisation
from dd.networks.base import Network
from dd.networks.batchnorm import has_batch_norm
from dd.runtime import precision


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
    """

    Settings = Settings

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
        real = [
            augment.apply(transform, self.dataset.train.take(indices))
            for transform, indices in zip(transforms, chosen, strict=True)
        ]
        augmented = [augment.apply(t, piece) for t, piece in zip(transforms, pieces, strict=True)]
        with torch.no_grad():
            real_embeddings = _embed(network, real)
        embeddings = network.embed(torch.cat(augmented)).unflatten(0, (self.classes, self.ipc))
        loss = mean_distance(real_embeddings, embeddings)
        (gradient,) = torch.autograd.grad(loss, leaf)
        synthetic.update(gradient)
        return {"loss": loss.item() / self.classes, "network": name}


def _embed(network: Network, batches: Sequence[torch.Tensor]) -> torch.Tensor:
    """Embeddings ``[K, B, F]`` of one batch per class; in pieces, unless there is a batch norm."""
    images = torch.cat(list(batches))
    piece = len(images) if has_batch_norm(network) else CHUNK
    embedded = torch.cat([precision.forward(network.embed, part) for part in images.split(piece)])
    return embedded.unflatten(0, (len(batches), -1))
