"""torch's optimisers, without what only its compiler needs, and in one pass over memory on a CPU.

torch marks some methods of an optimiser as not to be compiled, and imports its compiler for this as
soon as one of them is called, which takes almost as long as importing torch. Nothing here is
compiled, so these classes have the methods without the marks. They compute the same.

A step is bound by memory. torch takes three or more passes over each parameter unless it is told to
fuse them. On a CPU, the optimisers of networks tell it to. On a GPU the choice is torch's. Adam,
which moves images, has little to gain: it takes the same steps on both, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def _unmarked(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method that torch has wrapped into a mark."""
    return getattr(method, "__wrapped__", method)


class Optimizer(torch.optim.Optimizer):
    """An optimiser that is never compiled."""

    add_param_group = _unmarked(torch.optim.Optimizer.add_param_group)
    zero_grad = _unmarked(torch.optim.Optimizer.zero_grad)


class _Fused(Optimizer):
    """An optimiser that torch can fuse."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        on_cpu = all(parameter.device.type == "cpu" for parameter in group["params"])
        group["fused"] = True if on_cpu else None


class SGD(_Fused, torch.optim.SGD):
    """Stochastic gradient descent with momentum and weight decay."""

    step = torch.no_grad()(_unmarked(torch.optim.SGD.step))


class Adam(Optimizer, torch.optim.Adam):
    """Adam (Kingma and Ba 2015, arXiv:1412.6980)."""

    step = torch.no_grad()(_unmarked(torch.optim.Adam.step))


class AdamW(_Fused, torch.optim.AdamW):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101)."""

    step = torch.no_grad()(_unmarked(torch.optim.AdamW.step))
