"""The precision in which networks compute: float32, bfloat16 or TF32.

It belongs to the process, like the number of threads: a stage chooses it once, before it computes
(:func:`dd.runtime.process.setup`). Whatever it is, parameters, gradients by parameters, states of
optimisers, losses and sums are float32.

- ``float32``: every operation. TF32 is off; torch's own default has it on in cuDNN's convolutions.
- ``bf16``: what goes through :func:`forward` (autocast: convolutions and matrix products of
  bfloat16 values, summed in float32), and its way back. These are networks that are trained or
  tested, that see real images in a distillation, that give soft labels, and SRe2L's recovery. What
  does not go through it stays float32, above all the matching of synthetic images, whose gradients
  would err most (``docs/architecture.md``).
- ``tf32``: on an NVIDIA GPU, all float32 convolutions and matrix products round their inputs to a
  mantissa of 10 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dd.errors import DDError, unknown

FLOAT32, BF16, TF32 = PRECISIONS = "float32", "bf16", "tf32"
_AMPERE = (8, 0)  # compute capability of the first GPUs with TF32

_chosen = FLOAT32


def choose(precision: str, device: torch.device) -> None:
    """Let this process compute in ``precision`` from now on.

    Raises:
        DDError: if it is not one of :data:`PRECISIONS`, or is ``tf32`` and ``device`` has none.
    """
    global _chosen
    if precision not in PRECISIONS:
        raise unknown("--precision", precision, PRECISIONS)
    if precision == TF32 and not _has_tf32(device):
        raise DDError(
            f"--precision tf32: only NVIDIA GPUs since Ampere have it, this stage computes on "
            f"{device}; use float32 or bf16"
        )
    _chosen = precision
    _allow_tf32(precision == TF32)
    # cuBLAS may otherwise add parts of a bfloat16 product in bfloat16
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False


def chosen() -> str:
    """The precision in which this process computes, one of :data:`PRECISIONS`."""
    return _chosen


def forward(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """``function(*inputs)`` in the chosen precision.

    Args:
        function: a network, or a function that calls one.
        inputs: its arguments, float32; the first one's device is that of the computation.

    Returns:
        float32 (of ``bf16``), or what the function returns.
    """
    if not _lowered(inputs[0].device):
        return function(*inputs)
    # Without its cache of converted parameters: it would return parameters that were converted
    # without a graph where one is needed, and every parameter is used once anyway.
    autocast = torch.autocast(inputs[0].device.type, torch.bfloat16, cache_enabled=False)
    with autocast, _Convolutions():
        return function(*inputs).float()


def _lowered(device: torch.device) -> bool:
    """Whether networks compute in bfloat16 on ``device``.

    Never on the meta device, where memory is counted as of float32: torch 2.11 does not even
    answer there whether autocast is on.
    """
    return _chosen == BF16 and device.type != "meta"


class _Convolutions(TorchFunctionMode):
    """Converts the arguments of convolutions to bfloat16 where autocast is on.

    Within ``torch.func.vmap`` autocast does not do so on the CPU (seen in torch 2.14). Elsewhere
    it comes to the same.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.conv2d and torch.is_autocast_enabled(args[0].device.type):
            args = [x.bfloat16() if _is_float32(x) else x for x in args]
        return func(*args, **(kwargs or {}))


def _is_float32(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.float32


def precisely(function: Callable[[Tensor], Tensor], values: Tensor, like: Tensor) -> Tensor:
    """``function(values)`` in the type of ``like``, within :func:`forward`, too."""
    if not _lowered(values.device) or not torch.is_autocast_enabled(values.device.type):
        return function(values)
    with torch.autocast(values.device.type, enabled=False):
        return function(values.to(like.dtype))


@contextmanager
def without_tf32() -> Iterator[None]:
    """Full float32 products while the context lasts, for what is no network."""
    if _chosen != TF32:
        yield
        return
    _allow_tf32(False)
    try:
        yield
    finally:
        _allow_tf32(True)


def _has_tf32(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= _AMPERE


def _allow_tf32(allowed: bool) -> None:
    """Whether float32 operations of CUDA may compute in TF32.

    torch 2.9 brought a second interface for this. Reading either raises an error if the two
    contradict each other, so both are set, the older one first.
    """
    cudnn: Any = torch.backends.cudnn  # torch's types lack what these modules have
    matmul: Any = torch.backends.cuda.matmul
    cudnn.allow_tf32 = matmul.allow_tf32 = allowed
    for part in (matmul, cudnn.conv, cudnn.rnn):
        part.fp32_precision = TF32 if allowed else "ieee"
