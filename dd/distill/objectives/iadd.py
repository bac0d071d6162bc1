"""IADD: trajectory matching in which parameters count by weights that are learned with the data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dd.config.settings import setting
from dd.distill.importance import RATES
from dd.distill.objectives import mtt
from dd.distill.objectives.base import OBJECTIVES, Outcome
from dd.distill.parametrisations.base import Parametrisation
from dd.errors import Divergence
from dd.networks.inert import inert
from dd.pretrain.trajectories import Segment, layout

WEIGHTS = (*RATES, "prune", "none")


@dataclass(frozen=True)
class Settings(mtt.Settings):
    """Settings of importance-aware trajectory matching."""

    weights: str = setting(
        "raw (W itself, the paper's formula), normalised (W = P softmax(v), mean 1), layer "
        "(normalised, one for each parameter tensor), prune (0 where the relative difference is "
        "above prune_above, else 1) or none (MTT)",
        choices=WEIGHTS,
    )
    lr_weights: float = setting("raw: learning rate of W, for its plain gradient", at_least=0)
    lr_softmax: float = setting(
        "normalised: learning rate of v, for its gradient times the number of v", at_least=0
    )
    lr_layer: float = setting("layer: the same, of its few v", at_least=0)
    prune_above: float = setting(
        "prune: relative difference |student - expert| / |expert|", above=0
    )


@OBJECTIVES.register("iadd")
class ImportanceAware(mtt.TrajectoryMatching):
    """IADD (Li et al. 2024, arXiv:2401.15863).

    L = ‖W ⊙ θ_J − W ⊙ θ*_{t+M}‖² / ‖θ*_t − θ*_{t+M}‖², with W, one weight for each parameter,
    optimised together with the images and the student's rate: ``raw`` is this formula, with W = 1
    at the start and steps W ← W − lr_weights ∂L/∂W. Nothing keeps such a W from shrinking, and L
    with it. In the other readings the weights have mean 1: v = 0 at the start, and a step is the
    gradient times ``lr_softmax`` (or ``lr_layer``) and the number of v, so that the pace does not
    depend on it.

    In all of them parameters that have no gradient (:func:`dd.networks.inert.inert`), which
    student and expert agree on by themselves, keep the weight 1 and are no part of that mean.
    """

    Settings = Settings

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.spread = 1.0, 1.0  # least and largest weight of the last iteration
        self.sizes: dict[str, Tensor] = {}  # how many parameters each tensor has
        self.inert: dict[str, Tensor] = {}  # which parameters take no part
        self.learned: dict[str, Tensor] = {}  # a raw W, or v; empty where nothing is learned
        self.moved: dict[str, Tensor] = {}  # what the iteration under way will make of it
        mode = self.settings.weights
        for spec in self.networks.specs():
            network = self.networks.skeleton(spec)
            shapes = [math.prod(shape) for _, shape in layout(network)]
            self.sizes[spec] = torch.tensor(shapes, device=self.device)
            if mode != "none":
                mask = inert(network, self.dataset.channels, self.dataset.size)
                self.inert[spec] = mask.to(self.device)
            count = {"layer": len(shapes), "prune": 0, "none": 0}.get(mode, sum(shapes))
            start = torch.zeros(count, device=self.device)
            self.learned[spec] = start + 1 if mode == "raw" else start

    def iteration(self, number: int, synthetic: Parametrisation) -> dict[str, float | str]:
        values = super().iteration(number, synthetic)
        self.learned |= self.moved  # only now: an iteration that diverges changes nothing
        low, high = self.spread
        return values | {"weight_low": low, "weight_high": high}

    def compare(self, network: str, end: Tensor, segment: Segment) -> tuple[float, Tensor]:
        """The weighted loss and its derivative by ``end``; the weights' step goes to ``moved``."""
        if self.settings.weights == "none":
            return super().compare(network, end, segment)
        learned = self.learned[network].detach().requires_grad_()
        end = end.detach().requires_grad_()
        weights = self.weights(network, learned, end.detach(), segment.target)
        scale = (segment.start - segment.target).square().sum()
        loss = (weights * (end - segment.target)).square().sum() / scale
        cotangent, gradient = torch.autograd.grad(loss, [end, learned], materialize_grads=True)
        moved = (learned - self.pace(network) * gradient).detach()
        low, high = float(weights.detach().min()), float(weights.detach().max())
        if end.isfinite().all() and not (loss.isfinite() and moved.isfinite().all()):
            rate = RATES[self.settings.weights]
            raise Divergence(
                f"the weights ran away (from {low:.3g} to {high:.3g}); try a smaller "
                f"--{rate.replace('_', '-')}"
            )
        self.moved, self.spread = {network: moved}, (low, high)
        return float(loss.detach()), cotangent

    def pace(self, network: str) -> float:
        """What the gradient by a raw W, or by v, is multiplied by to make a step."""
        match self.settings.weights:
            case "raw":
                return self.settings.lr_weights
            case "normalised":
                return self.settings.lr_softmax * int((~self.inert[network]).sum())
            case "layer":
                parts = self.inert[network].split(self.sizes[network].tolist())
                return self.settings.lr_layer * sum(not bool(part.all()) for part in parts)
        return 0.0  # nothing is learned

    def weights(self, network: str, learned: Tensor, end: Tensor, target: Tensor) -> Tensor:
        """W ``[P]`` of ``network``.

        Args:
            learned: a raw W ``[P]``; v ``[P]``, or one value a tensor for ``layer``; empty for the
                others.
            end, target: where student and expert ended, ``[P]``; what ``prune`` goes by.
        """
        still, mode = self.inert[network], self.settings.weights
        if mode == "prune":
            weights = ((end - target).abs() <= self.settings.prune_above * target.abs()).to(end)
        elif mode == "raw":
            weights = learned
        else:
            if mode == "layer":
                learned = learned.repeat_interleave(self.sizes[network])
            share = learned.masked_fill(still, -math.inf).softmax(0)
            weights = (~still).sum() * share
        return weights.where(~still, 1.0)

    def outcome(self, synthetic: Parametrisation) -> Outcome:
        """For the weights that are learned, ``importance.<network>`` [P] in addition, and
        ``weighted.<network>`` [2]: ``matching`` under them."""
        found = super().outcome(synthetic)
        for spec, learned in self.learned.items():
            if len(learned):
                weights = self.weights(spec, learned, learned, learned)
                found.extras[f"importance.{spec}"] = weights
                now = found.extras[f"difference.{spec}"]
                found.extras[f"weighted.{spec}"] = self.losses(spec, now, weights)
        return found

    def state(self) -> dict[str, Tensor]:
        return super().state() | {f"weights.{spec}": v for spec, v in self.learned.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        super().load_state(state)
        for spec in self.learned:
            self.learned[spec] = state[f"weights.{spec}"].to(self.device)
