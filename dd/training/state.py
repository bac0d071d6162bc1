"""The state of optimisers and trainings as named tensors, for checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from dd.artifacts.checkpoint import form, under
from dd.errors import DDError
from dd.training.lamb import Lamb

PREFIX = "optimizer."
# What the optimisers of this suite keep for each parameter that has moved.
_KEPT = {
    torch.optim.SGD: frozenset({"momentum_buffer"}),
    torch.optim.Adam: frozenset({"step", "exp_avg", "exp_avg_sq"}),
    Lamb: frozenset({"step", "exp_avg", "exp_avg_sq"}),
}


def step(optimizer: torch.optim.Optimizer, factor: float = 1.0) -> None:
    """One optimiser step with all learning rates multiplied by ``factor``."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * factor
    optimizer.step()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters to ``rate``."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's own tensors, as ``optimizer.<parameter's number>.<name>``."""
    return {
        f"{PREFIX}{number}.{name}": value
        for number, parameter in _numbered(optimizer)
        for name, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, torch.Tensor)
    }


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, state: Mapping[str, torch.Tensor]
) -> None:
    """Restore what :func:`optimizer_state` returned; other names in ``state`` are ignored.

    Raises:
        DDError: if that is not what such an optimiser keeps for these parameters.
    """
    parameters = dict(_numbered(optimizer))
    optimizer.state.clear()
    for key, value in state.items():
        if not key.startswith(PREFIX):
            continue
        number, name = key.removeprefix(PREFIX).split(".", 1)
        parameter = parameters[int(number)]
        shape = () if name == "step" else parameter.shape
        if value.shape != shape:
            raise DDError(f"'{key}' is {form(value)}, it must be {list(shape)}")
        # torch keeps the step count on the CPU, so leave it there
        value = value.clone() if value.ndim == 0 else value.to(parameter.device, copy=True)
        optimizer.state[parameter][name] = value
    kept = {frozenset(values) for values in optimizer.state.values()}
    wanted = next((names for kind, names in _KEPT.items() if isinstance(optimizer, kind)), None)
    if len(kept) > 1 or (wanted and not kept <= {wanted}):
        raise DDError(f"the state of the optimiser is incomplete ({PREFIX}*)")


def _numbered(optimizer: torch.optim.Optimizer) -> Iterator[tuple[int, torch.Tensor]]:
    return enumerate(p for group in optimizer.param_groups for p in group["params"])


_NETWORK = "network."


def training_state(
    network: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    """The tensors of a training: the state of its network (or ensemble) and of its optimiser."""
    return {f"{_NETWORK}{k}": v for k, v in network.items()} | optimizer_state(optimizer)


def resume_training(
    tensors: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    """Restore ``optimizer``, and return the state of the network, for its ``load_state``."""
    load_optimizer_state(optimizer, tensors)
    return under(_NETWORK, tensors)
