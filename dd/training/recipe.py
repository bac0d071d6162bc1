"""Recipes: how a network is trained (epochs, rates, optimiser, augmentation)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dd.config.settings import setting
from dd.data.augment import MEANING, check_strategy
from dd.training.optimizers import SGD, AdamW


def half_cosine(step: int, steps: int, floor: float = 0.0) -> float:
    """The share of a learning rate in step ``step`` of ``steps``: it falls from 1 along half a
    cosine, and would be ``floor`` after the last step."""
    return floor + (1 - floor) * (1 + math.cos(math.pi * step / steps)) / 2


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained."""

    epochs: int = setting("epochs on the training images", at_least=0)
    lr: float = setting("learning rate at the start", above=0)
    optimizer: str = setting("sgd or adamw", choices=("sgd", "adamw"), default="sgd")
    momentum: float = setting("SGD momentum, 0 to 1", at_least=0, at_most=1)
    weight_decay: float = setting("weight decay", at_least=0)
    batch: int = setting("batch size, images", at_least=1)
    augment: str = setting(MEANING, check=check_strategy)
    schedule: str = setting(
        "learning rate over time: paper (x 0.1 halfway), released (as in the DC family's code: one "
        "more epoch, x 0.1 after epoch index epochs // 2 + 1, where momentum is lost), "
        "cosine (changes every epoch, towards 0) or constant",
        choices=("paper", "released", "cosine", "constant"),
    )
    decayed: str = setting(
        "parameters with weight decay: all, or matrices (those of more than one dimension)",
        choices=("all", "matrices"),
        default="all",
    )

    def phases(self) -> list[tuple[int, float, bool]]:
        """The phases of training: ``(epochs, learning rate, whether the optimiser is new)``."""
        half = self.epochs // 2
        if self.schedule == "constant" or not self.epochs:
            return [(self.epochs, self.lr, True)]
        if self.schedule == "cosine":
            shares = [half_cosine(epoch, self.epochs) for epoch in range(self.epochs)]
            return [(1, self.lr * share, epoch == 0) for epoch, share in enumerate(shares)]
        if self.schedule == "paper":
            return [(half, self.lr, True), (self.epochs - half, self.lr * 0.1, False)]
        # the public loop runs `range(epochs + 1)` and rebuilds the optimiser when it drops the rate
        before = min(half + 2, self.epochs + 1)
        return [(before, self.lr, True), (self.epochs + 1 - before, self.lr * 0.1, True)]

    def rates(self) -> list[tuple[float, bool]]:
        """For each epoch its learning rate, and whether it starts with a new optimiser."""
        rates, anew = [], False
        for epochs, lr, fresh in self.phases():
            anew |= fresh  # a phase without epochs passes this on to the next one
            for _ in range(epochs):
                rates.append((lr, anew))
                anew = False
        return rates

    def new_optimizer(
        self, parameters: Sequence[torch.Tensor], stacked: bool = False
    ) -> torch.optim.Optimizer:
        """A new optimiser of ``parameters``; if ``stacked``, their first axis counts networks."""
        groups: list[dict[str, Any]] = [{"params": list(parameters)}]
        if self.decayed == "matrices":
            matrices = [p for p in parameters if p.ndim - stacked > 1]
            others = [p for p in parameters if p.ndim - stacked <= 1]
            groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
        if self.optimizer == "adamw":
            return AdamW(groups, self.lr, weight_decay=self.weight_decay)
        return SGD(groups, self.lr, self.momentum, weight_decay=self.weight_decay)


@dataclass(frozen=True, kw_only=True)
class WarmRecipe(Recipe):
    """A recipe whose rate rises linearly from 0, and then falls along a half cosine.

    Attributes:
        warmup: epochs in which it rises, at most half of all.
        floor: the rate at the end, relative to ``lr``.
    """

    warmup: int = 0
    floor: float = 0.0

    def rates(self) -> list[tuple[float, bool]]:
        rising = min(self.warmup, self.epochs // 2)
        falling = self.epochs - rising
        shares = [epoch / rising for epoch in range(rising)]
        shares += [half_cosine(epoch, falling, self.floor) for epoch in range(falling)]
        return [(self.lr * share, epoch == 0) for epoch, share in enumerate(shares)]
