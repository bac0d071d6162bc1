"""LAMB: Adam whose step is as long as the parameter, times the learning rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from dd.training.optimizers import Optimizer


class Lamb(Optimizer):
    """LAMB (You et al. 2020, arXiv:1904.00962, Algorithm 2), without weight decay.

    A tensor p moves by lr · (‖p‖ / ‖u‖) · u, where u is Adam's step at rate 1, and ‖p‖ and ‖u‖ are
    Euclidean norms of the whole tensor. If one of them is 0, the factor is 1.

    Args:
        groups: parameter groups, each with ``params`` and ``lr``.
        betas: decay rates of the moments.
        eps: added to the root of the second moment.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
    ) -> None:
        super().__init__(groups, {"betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step; ``closure`` must be None."""
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                gradient, state = parameter.grad, self.state[parameter]
                if gradient is None:
                    continue
                if not state:
                    state["step"] = torch.zeros(())
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                state["step"] += 1
                count = state["step"].item()  # on the CPU, as torch keeps it
                state["exp_avg"].lerp_(gradient, 1 - first)
                state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
                mean = state["exp_avg"] / (1 - first**count)
                spread = (state["exp_avg_sq"] / (1 - second**count)).sqrt() + group["eps"]
                update = mean / spread
                size, length = parameter.norm(), update.norm()
                factor = torch.where((size > 0) & (length > 0), size / length, 1.0)
                parameter.sub_(group["lr"] * factor * update)
