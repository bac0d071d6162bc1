"""Floating-point operations of networks, counted by torch on tensors without data."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry

from dd.data.extent import KNOWN, Extent
from dd.networks.build import create
from dd.runtime.watching import Watching


@cache
def _network(spec: str, data: Extent, width_factor: float) -> torch.nn.Module:
    shape = (data.channels, data.size, data.classes)
    network = create(spec, *shape, generator=None, width_factor=width_factor, device="meta")
    return network.eval()


class Counter(Watching):
    """Adds up the floating-point operations of everything computed under it, by torch's own rules.

    (torch's FlopCounterMode uses hooks of modules, and gradients by an input do not call them.)
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        rule = flop_registry.get(function._overloadpacket)
        if rule:
            self.total += rule(*args, **(kwargs or {}), out_val=result)
        return result


@cache
def operations(way: str, spec: str, data: Extent, width_factor: float = 1.0) -> float:
    """Floating-point operations for one image and one network, by torch's own counter.

    Args:
        way: ``forward``; ``train``: gradient by the parameters; ``images``: gradient only by the
            image; ``match``: gradient by the image of a function of the gradient by the parameters
            (dc); ``unroll``: a step of a student, and the backward pass through it (mtt, dd).
        spec: the network.
        data: gives the shape of its input.
        width_factor: scales its widths.
    """
    network = _network(spec, data, width_factor)
    parameters = list(network.parameters())
    image = torch.zeros(1, data.channels, *data.size, device="meta")
    with Counter() as counter:
        if way == "forward":
            with torch.no_grad():
                network(image)
        elif way == "images":
            _with_respect_to(network, parameters, image, [image], graph=False)
        else:
            if way in ("train", "unroll"):
                _with_respect_to(network, parameters, image, parameters, graph=False)
            if way in ("match", "unroll"):
                image.requires_grad_(True)
                first = _with_respect_to(network, parameters, image, parameters, graph=True)
                wanted = [image, *parameters] if way == "unroll" else [image]
                distance = torch.stack([g.square().sum() for g in first]).sum()
                torch.autograd.grad(distance, wanted, allow_unused=True)
    return float(counter.total)


def _with_respect_to(
    network: torch.nn.Module,
    parameters: Sequence[torch.Tensor],
    image: torch.Tensor,
    wanted: Sequence[torch.Tensor],
    graph: bool,
) -> tuple[torch.Tensor, ...]:
    """Gradient of the sum of the log-softmax of the logits of ``image`` by ``wanted``."""
    for tensor in parameters:
        tensor.requires_grad_(any(tensor is other for other in wanted))
    for tensor in wanted:
        tensor.requires_grad_(True)
    loss = torch.nn.functional.log_softmax(network(image), 1).sum()
    return torch.autograd.grad(loss, wanted, create_graph=graph)


def rate(device: torch.device, repeats: int = 5) -> float:
    """Floating-point operations a second of ``device`` in training steps of the ConvNet.

    The median of ``repeats`` gradients of 128 images of 32 x 32 pixels, after a first one.
    """
    data, count = KNOWN["cifar10"], 128
    network = create("convnet", data.channels, data.size, data.classes, generator=None)
    network = network.to(device)
    images = torch.zeros(count, data.channels, *data.size, device=device)
    seconds = []
    for _ in range(1 + repeats):
        started = time.monotonic()
        gradients = torch.autograd.grad(network(images).square().sum(), list(network.parameters()))
        float(gradients[-1].sum())  # waits for a GPU
        seconds.append(time.monotonic() - started)
    return count * operations("train", "convnet", data) / statistics.median(seconds[1:])


def parameters(spec: str, data: Extent, width_factor: float = 1.0) -> int:
    """The number of parameters of a network."""
    return sum(p.numel() for p in _network(spec, data, width_factor).parameters())
