"""IADD: trajectory matching with a weight on each parameter, learned together with the images."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
        "(normalised, one weight per parameter tensor), prune (0 where the relative difference is "
        "above prune_above, else 1) or none (MTT)",
        choices=WEIGHTS,
    )
    lr_weights: float = setting("raw: learning rate of W, for its plain gradient", at_least=0)
    lr_softmax: float = setting(
        "normalised: learning rate of v, for its gradient times the number of v", at_least=0
    )
    lr_layer: float = setting("layer: like lr_softmax, for one v per tensor", at_least=0)
    prune_above: float = setting(
        "prune: relative difference |student - expert| / |expert|", above=0
    )


@OBJECTIVES.register("iadd")
class ImportanceAware(mtt.TrajectoryMatching):
    """IADD (Li et al. 2024, arXiv:2401.15863).

    L = ‖W ⊙ θ_J − W ⊙ θ*_{t+M}‖² / ‖θ*_t − θ*_{t+M}‖². W has one weight for each parameter and is
    optimised together with the images and the student's rate. ``raw`` is this formula, with W = 1
    at the start and steps W ← W − lr_weights ∂L/∂W. Nothing prevents such a W, and L with it, from
    shrinking. In the other readings the weights have mean 1: v = 0 at the start, and a step is the
    gradient times ``lr_softmax`` (or ``lr_layer``) and the number of v, so that the pace does not
    depend on this number.

    In all readings, parameters without a gradient (:func:`dd.networks.inert.inert`) keep the
    weight 1 and are left out of that mean. Student and expert agree on them without any learning.
    """

    Settings = Settings

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.spread = 1.0, 1.0  # smallest and largest weight of the last iteration
        self.sizes: dict[str, Tensor] = {}  # number of parameters of each tensor
        self.inert: dict[str, Tensor] = {}  # mask of the parameters without a gradient
        self.paces: dict[str, float] = {}  # factor on the gradient of what is learned
        self.learned: dict[str, Tensor] = {}  # a raw W, or v; empty if nothing is learned
        self.moved: dict[str, Tensor] = {}  # the next value of it, until the iteration succeeds
        mode = self.settings.weights
        for spec in self.networks.specs():
            network = self.networks.skeleton(spec)
            shapes = [math.prod(shape) for _, shape in layout(network)]
            self.sizes[spec] = torch.tensor(shapes, device=self.device)
            if mode != "none":
                mask = inert(network, self.dataset.channels, self.dataset.size)
                self.paces[spec] = self._pace([~part for part in mask.split(shapes)])
                self.inert[spec] = mask.to(self.device)
            count = {"layer": len(shapes), "prune": 0, "none": 0}.get(mode, sum(shapes))
            start = torch.zeros(count, device=self.device)
            self.learned[spec] = start + 1 if mode == "raw" else start

    def iteration(self, number: int, synthetic: Parametrisation) -> dict[str, float | str]:
        values = super().iteration(number, synthetic)
        self.learned |= (
            self.moved
        )  # only after success: an iteration that diverges must change nothing
        low, high = self.spread
        return values | {"weight_low": low, "weight_high": high}

    def compare(self, network: str, end: Tensor, segment: Segment) -> tuple[float, Tensor]:
        """The weighted loss and its derivative by ``end``. The next weights go to ``moved``."""
        if self.settings.weights == "none":
            return super().compare(network, end, segment)
        learned = self.learned[network].detach().requires_grad_()
        end = end.detach().requires_grad_()
        weights = self.weights(network, learned, end.detach(), segment.target)
        scale = (segment.start - segment.target).square().sum()
        loss = (weights * (end - segment.target)).square().sum() / scale
        cotangent, gradient = torch.autograd.grad(loss, [end, learned], materialize_grads=True)
        moved = (learned - self.paces[network] * gradient).detach()
        looked = [loss, weights.min(), weights.max(), end.isfinite().all(), moved.isfinite().all()]
        # one look at all values
        value, low, high, arrived, sound = torch.stack(
            [x.detach().to(loss) for x in looked]
        ).tolist()
        if self.settings.weights in RATES and arrived and not (math.isfinite(value) and sound):
            plain, _ = super().compare(network, end.detach(), segment)
            if not (math.isfinite(value) or math.isfinite(plain)):
                return value, cotangent  # nor is it finite without weights: they are not the cause
            rate = RATES[self.settings.weights]
            raise Divergence(
                f"the weights ran away (from {low:.3g} to {high:.3g}); try a smaller "
                f"--{rate.replace('_', '-')}"
            )
        self.moved, self.spread = {network: moved}, (low, high)
        return value, cotangent

    def _pace(self, moving: Sequence[Tensor]) -> float:
        """The factor on the gradient by a raw W, or by v, that makes a step.

        ``moving`` are masks of the parameters that have a gradient, one for each tensor.
        """
        match self.settings.weights:
            case "raw":
                return self.settings.lr_weights
            case "normalised":
                return self.settings.lr_softmax * sum(int(part.sum()) for part in moving)
            case "layer":
                return self.settings.lr_layer * sum(bool(part.any()) for part in moving)
        return 0.0  # nothing is learned

    def weights(self, network: str, learned: Tensor, end: Tensor, target: Tensor) -> Tensor:
        """W ``[P]`` of ``network``.

        Args:
            learned: a raw W ``[P]``; or v ``[P]``; or, for ``layer``, v with one value per tensor;
                empty for the other readings.
            end, target: where student and expert ended, ``[P]``; only ``prune`` uses them.
        """
        still, mode = self.inert[network], self.settings.weights
        if mode == "prune":
            weights = ((end - target).abs() <= self.settings.prune_above * target.abs()).to(end)
        elif mode == "raw":
            weights = learned
        else:
            if mode == "layer":
                each = self.sizes[network]
                learned = learned.repeat_interleave(each, output_size=len(still))
            share = learned.masked_fill(still, -math.inf).softmax(0)
            weights = (~still).sum() * share
        return weights.where(~still, 1.0)

    def outcome(self, synthetic: Parametrisation) -> Outcome:
        """MTT's outcome; for learned weights also ``importance.<network>`` [P], the weights, and
        ``weighted.<network>`` [2], ``matching`` under these weights."""
        made = super().outcome(synthetic)
        for spec, learned in self.learned.items():
            if len(learned):
                weights = self.weights(spec, learned, learned, learned)
                made.extras[f"importance.{spec}"] = weights
                now = made.extras[f"difference.{spec}"]
                made.extras[f"weighted.{spec}"] = self.losses(spec, now, weights)
        return made

    def state(self) -> dict[str, Tensor]:
        return super().state() | {f"weights.{spec}": v for spec, v in self.learned.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        super().load_state(state)
        for spec in self.learned:
            self.learned[spec] = state[f"weights.{spec}"].to(self.device)
