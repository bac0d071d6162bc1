"""IADD: trajectory matching in which parameters count by weights that are learned with the data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dd.objectives import mtt
from dd.objectives.base import OBJECTIVES, Outcome
from dd.parametrize.base import Parametrisation
from dd.settings import setting
from dd.trajectory import Segment, layout

WEIGHTS = ("normalised", "raw", "layer", "prune", "none")


@dataclass(frozen=True)
class Settings(mtt.Settings):
    """Settings of importance-aware trajectory matching."""

    weights: str = setting(
        "normalised (W = P softmax(v), mean 1), raw (W itself, unconstrained), layer (normalised, "
        "one for each parameter tensor), prune (0 where the relative difference is above "
        "prune_above, else 1) or none (MTT)",
        choices=WEIGHTS,
    )
    lr_weights: float = setting("learning rate of the weights", at_least=0)
    prune_above: float = setting(
        "prune: relative difference |student - expert| / |expert|", above=0
    )


@OBJECTIVES.register("iadd")
class ImportanceAware(mtt.TrajectoryMatching):
    """IADD (Li et al. 2024, arXiv:2401.15863).

    L = ‖W ⊙ θ_J − W ⊙ θ*_{t+M}‖² / ‖θ*_t − θ*_{t+M}‖², with W, one weight for each parameter,
    optimised together with the images and the student's rate. The paper does not say how W starts,
    what constrains it or how fast it learns: here it starts at 1, is kept at mean 1 unless ``raw``,
    and what is learned (v, or a raw W) moves by its gradient times ``lr_weights`` and times the
    number of weights, so that the pace does not depend on the network's size.
    """

    Settings = Settings

    def __init__(self, *arguments, **keywords) -> None:
        super().__init__(*arguments, **keywords)
        self.spread = 1.0, 1.0  # least and largest weight of the last iteration
        self.sizes: dict[str, Tensor] = {}  # how many parameters each tensor has
        self.learned: dict[str, Tensor] = {}  # v, or a raw W; empty where nothing is learned
        self.moved: dict[str, Tensor] = {}  # what the iteration under way will make of it
        for spec in self.networks.specs():
            shapes = [shape for _, shape in layout(self.networks.skeleton(spec))]
            sizes = torch.tensor([math.prod(shape) for shape in shapes], device=self.device)
            count = {"layer": len(sizes), "prune": 0, "none": 0}
            start = torch.zeros(
                count.get(self.settings.weights, int(sizes.sum())), device=self.device
            )
            self.sizes[spec] = sizes
            self.learned[spec] = start + 1 if self.settings.weights == "raw" else start

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
        step = self.settings.lr_weights * len(learned)
        self.moved = {network: (learned - step * gradient).detach()}
        self.spread = float(weights.detach().min()), float(weights.detach().max())
        return float(loss.detach()), cotangent

    def weights(self, network: str, learned: Tensor, end: Tensor, target: Tensor) -> Tensor:
        """W ``[P]`` of ``network``.

        Args:
            learned: v ``[P]``, or one value a tensor for ``layer``; a raw W; empty for the others.
            end, target: where student and expert ended, ``[P]``; what ``prune`` goes by.
        """
        sizes = self.sizes[network]
        match self.settings.weights:
            case "normalised":
                return len(learned) * learned.softmax(0)
            case "layer":
                logits = learned + sizes.to(learned).log()
                return (sizes.sum() * logits.softmax(0) / sizes).repeat_interleave(sizes)
            case "raw":
                return learned
            case "prune":
                return ((end - target).abs() <= self.settings.prune_above * target.abs()).to(end)
            case other:
                raise ValueError(f"no weights in mode {other}")

    def outcome(self, synthetic: Parametrisation) -> Outcome:
        """``importance.<network>`` [P] in addition, for the weights that are learned."""
        found = super().outcome(synthetic)
        for spec, learned in self.learned.items():
            if len(learned):
                found.extras[f"importance.{spec}"] = self.weights(spec, learned, learned, learned)
        return found

    def state(self) -> dict[str, Tensor]:
        return super().state() | {f"weights.{spec}": v for spec, v in self.learned.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        super().load_state(state)
        for spec in self.learned:
            self.learned[spec] = state[f"weights.{spec}"].to(self.device)
