"""How a network is trained, as one declaration: epochs, rates, optimiser, augmentation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dd.config.settings import setting
from dd.data.augment import MEANING, check_strategy


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained, and what the field reports with it."""

    epochs: int = setting("epochs on the training images", at_least=0)
    lr: float = setting("learning rate at the start", above=0)
    optimizer: str = setting("sgd or adamw", choices=("sgd", "adamw"), default="sgd")
    momentum: float = setting("SGD momentum, 0 to 1", at_least=0, at_most=1)
    weight_decay: float = setting("weight decay", at_least=0)
    batch: int = setting("images a step", at_least=1)
    augment: str = setting(MEANING, check=check_strategy)
    schedule: str = setting(
        "learning rate over time: paper (x 0.1 at half time), released (as the DC family's code "
        "runs it: one epoch more, x 0.1 after epoch index epochs // 2 + 1, momentum lost there), "
        "cosine (from epoch to epoch, towards 0) or constant",
        choices=("paper", "released", "cosine", "constant"),
    )
    decayed: str = setting(
        "which parameters weight decay pulls: all, or matrices (those of more than one dimension)",
        choices=("all", "matrices"),
        default="all",
    )

    def phases(self) -> list[tuple[int, float, bool]]:
        """Phases ``(epochs, learning rate, fresh optimiser?)``."""
        half = self.epochs // 2
        if self.schedule == "constant" or not self.epochs:
            return [(self.epochs, self.lr, True)]
        if self.schedule == "cosine":
            shares = [(1 + math.cos(math.pi * e / self.epochs)) / 2 for e in range(self.epochs)]
            return [(1, self.lr * share, epoch == 0) for epoch, share in enumerate(shares)]
        if self.schedule == "paper":
            return [(half, self.lr, True), (self.epochs - half, self.lr * 0.1, False)]
        # the public loop runs `range(epochs + 1)` and rebuilds the optimiser when it drops the rate
        before = min(half + 2, self.epochs + 1)
        return [(before, self.lr, True), (self.epochs + 1 - before, self.lr * 0.1, True)]

    def rates(self) -> list[tuple[float, bool]]:
        """For each epoch its learning rate, and whether the optimiser starts anew with it."""
        told, anew = [], False
        for epochs, lr, fresh in self.phases():
            anew |= fresh  # also where the phase that asks for it has no epoch
            for _ in range(epochs):
                told.append((lr, anew))
                anew = False
        return told

    def new_optimizer(
        self, parameters: Sequence[torch.Tensor], stacked: bool = False
    ) -> torch.optim.Optimizer:
        """A new optimiser of ``parameters``, those of several networks if ``stacked``."""
        groups: list[dict[str, Any]] = [{"params": list(parameters)}]
        if self.decayed == "matrices":
            matrices = [p for p in parameters if p.ndim - stacked > 1]
            others = [p for p in parameters if p.ndim - stacked <= 1]
            groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
        if self.optimizer == "adamw":
            return torch.optim.AdamW(groups, self.lr, weight_decay=self.weight_decay)
        return torch.optim.SGD(groups, self.lr, self.momentum, weight_decay=self.weight_decay)
