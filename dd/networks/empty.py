"""Networks whose tensors have no values yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Module = TypeVar("Module", bound=nn.Module)


def made_empty(make: Callable[[], Module], device: torch.device | str) -> Module:
    """What ``make`` makes, on ``device``, with arbitrary values in all parameters and buffers.

    It is made on torch's device ``meta``, where layers draw nothing from the global state, and then
    given memory. To draw normal values there, or to use ``nn.Module.to_empty``, would import
    torch's compiler or a library for symbols, and slow down the start of each job.
    """
    with torch.device("meta"), _NoValues():
        network = make()
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            own = nn.Parameter(_like(parameter, device), requires_grad=parameter.requires_grad)
            setattr(module, name, own)
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, _like(buffer, device))
    return network


class _NoValues(TorchFunctionMode):
    """Layers set no initial values."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def _like(tensor: Tensor, device: torch.device | str) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
