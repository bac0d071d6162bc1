"""Selections: real images chosen, not optimised. Random, herding, k-centre."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from dd.config.settings import setting
from dd.distill.objectives.base import OBJECTIVES, NetworkSettings, Objective, Outcome, Settings
from dd.distill.parametrisations.base import Parametrisation
from dd.networks.options import canonical
from dd.training.recipe import Recipe
from dd.training.train import embed_all, train


def herding(features: torch.Tensor, count: int) -> torch.Tensor:
    """Greedy herding (Welling 2009).

    Each pick is the point that brings the mean of all picks closest to the mean of all points.

    Args:
        features: ``[N, F]``; count: number of picks, at most N.

    Returns:
        Indices ``[count]`` in the order of the picks, on the device of the features; of equal
        points the first is picked.
    """
    mean = features.mean(0)
    free = torch.ones(len(features), dtype=torch.bool, device=features.device)
    total = torch.zeros_like(mean)
    picked = []
    for size in range(1, count + 1):
        gap = (mean - (total + features) / size).square().sum(1)
        index = gap.masked_fill(~free, torch.inf).argmin(0, keepdim=True)
        free.index_fill_(0, index, False)
        total = total + features.index_select(0, index)[0]
        picked.append(index)  # not as a number: the device need not wait
    return torch.cat(picked)


def kcenter(features: torch.Tensor, count: int) -> torch.Tensor:
    """Greedy k-centre (Sener, Savarese 2018, arXiv:1708.00489, Algorithm 1).

    The first pick is the point nearest to the mean. Each further pick is the point farthest from
    all picks so far.

    Args:
        features: ``[N, F]``; count: number of picks, at most N.

    Returns:
        Indices ``[count]`` in the order of the picks, on the device of the features; of equal
        points the first is picked.
    """
    index = (features - features.mean(0)).square().sum(1).argmin(0, keepdim=True)
    picked = [index]
    gap = torch.full((len(features),), torch.inf, device=features.device, dtype=features.dtype)
    while len(picked) < count:
        gap = torch.minimum(gap, (features - features.index_select(0, index)).square().sum(1))
        gap.index_fill_(0, torch.cat(picked), -1.0)
        index = gap.argmax(0, keepdim=True)
        picked.append(index)
    return torch.cat(picked)


@dataclass(frozen=True)
class SelectionSettings(Settings):
    """Settings of every selection."""

    iterations: int = setting("a selection has none: 0", at_least=0, at_most=0)


@OBJECTIVES.register("random")
class Random(Objective):
    """``ipc`` images of each class, drawn without replacement."""

    Settings = SelectionSettings
    optimises = False

    def start(self) -> torch.Tensor:
        return self.dataset.train.take(torch.cat([self.select(k) for k in range(self.classes)]))

    def select(self, label: int) -> torch.Tensor:
        """Indices ``[ipc]`` into the training split of images of class ``label``."""
        return self.dataset.train.sample(label, self.ipc, self.streams.start)


@OBJECTIVES.register("full")
class Full(Objective):
    """The whole training split, without any selection: the upper bound for every method."""

    Settings = SelectionSettings
    optimises = False
    takes_all = True

    def start(self) -> torch.Tensor:
        """No images: the set stores the indices of its images instead, here of all."""
        return torch.empty(0, self.dataset.channels, *self.dataset.size, device=self.device)

    def labels(self) -> torch.Tensor:
        return self.dataset.train.labels

    def outcome(self, synthetic: Parametrisation) -> Outcome:
        return Outcome(indices=torch.arange(len(self.dataset.train)))


@dataclass(frozen=True)
class FeatureSettings(SelectionSettings, NetworkSettings):
    """Settings of the network whose embeddings are compared."""

    network: str = setting("architecture of the feature network", check=canonical)

    feature_epochs: int = setting("epochs of the feature network on the real data", at_least=0)
    lr_net: float = setting("learning rate of the feature network", above=0)
    batch_train: int = setting("batch size of the feature network, images", at_least=1)


class FeatureSelection(Random, ABC):
    """A selection in the embedding space of a network trained on the real training split."""

    Settings = FeatureSettings

    @staticmethod
    @abstractmethod
    def pick(features: torch.Tensor, count: int) -> torch.Tensor:
        """The indices ``[count]`` of the selected images, from their ``features [N, F]``."""

    def start(self) -> torch.Tensor:
        split, s = self.dataset.train, self.settings
        _, self.network = self.networks.draw(0, self.streams.network)
        recipe = Recipe(
            epochs=s.feature_epochs,
            lr=s.lr_net,
            momentum=0.9,
            weight_decay=5e-4,
            batch=s.batch_train,
            augment="none",
            schedule="constant",
        )
        train([self.network], split, split.labels, recipe, [self.streams.host], "feature network")
        return super().start()

    def select(self, label: int) -> torch.Tensor:
        indices = self.dataset.train.by_class[label]
        features = embed_all(self.network, self.dataset.train, indices)
        return indices[self.pick(features, self.ipc).cpu()]


@OBJECTIVES.register("herding")
class Herding(FeatureSelection):
    """Herding: the running mean of the picks follows the class mean."""

    pick = staticmethod(herding)


@OBJECTIVES.register("kcenter")
class KCenter(FeatureSelection):
    """k-centre: the picks cover the class."""

    pick = staticmethod(kcenter)
