"""Floating-point operations of networks, counted by torch on tensors without data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dd.networks.build import create
from dd.pretrain.generators.autoencoder import create as create_generator


@dataclass(frozen=True)
class Data:
    """The size of a dataset."""

    train: int
    test: int
    classes: int
    side: int
    channels: int = 3

    @property
    def values(self) -> int:
        """The number of values of one image."""
        return self.channels * self.side**2


DATA = {
    "cifar10": Data(50_000, 10_000, 10, 32),
    "cifar100": Data(50_000, 10_000, 100, 32),
    "tiny_imagenet": Data(100_000, 10_000, 200, 64),
    "imagenette": Data(9_469, 3_925, 10, 128),
    "imagewoof": Data(9_025, 3_929, 10, 128),
}


@cache
def _network(spec: str, data: Data) -> torch.nn.Module:
    size = (data.side, data.side)
    return create(spec, data.channels, size, data.classes, generator=None, device="meta").eval()


class Counter(TorchDispatchMode):
    """Adds up the floating-point operations of everything computed under it, by torch's own rules.

    (torch's FlopCounterMode uses hooks of modules, and gradients by an input do not call them.)
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        rule = flop_registry.get(function._overloadpacket)
        if rule:
            self.total += rule(*args, **(kwargs or {}), out_val=result)
        return result


@cache
def operations(way: str, spec: str, data: Data) -> float:
    """Floating-point operations for one image and one network, by torch's own counter.

    Args:
        way: ``forward``; ``train``: gradient by the parameters; ``images``: gradient only by the
            image; ``match``: gradient by the image of a function of the gradient by the parameters
            (dc); ``unroll``: a step of a student, and the backward pass through it (mtt).
        spec: the network.
        data: gives the shape of its input.
    """
    network = _network(spec, data)
    parameters = list(network.parameters())
    image = torch.zeros(1, data.channels, data.side, data.side, device="meta")
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
                torch.autograd.grad(sum(g.square().sum() for g in first), wanted, allow_unused=True)
    return float(counter.total)


def _with_respect_to(
    network: torch.nn.Module,
    parameters: list[torch.Tensor],
    image: torch.Tensor,
    wanted: list[torch.Tensor],
    graph: bool,
) -> tuple[torch.Tensor, ...]:
    """Gradient of the sum of the log-softmax of the logits of ``image`` by ``wanted``."""
    for tensor in parameters:
        tensor.requires_grad_(any(tensor is other for other in wanted))
    for tensor in wanted:
        tensor.requires_grad_(True)
    loss = torch.nn.functional.log_softmax(network(image), 1).sum()
    return torch.autograd.grad(loss, wanted, create_graph=graph)


def parameters(spec: str, data: Data) -> int:
    """The number of parameters of a network."""
    return sum(p.numel() for p in _network(spec, data).parameters())


@cache
def autoencoder(width: int, code: int, data: Data) -> tuple[float, float]:
    """Operations of the generator for one image: of a training step, and of decoding together with
    the gradient by the code."""
    network = create_generator(data.channels, code or 16 * data.channels // 3, width, None, "meta")
    image = torch.zeros(1, data.channels, data.side, data.side, device="meta")
    counts = []
    for wanted in ("parameters", "code"):
        with Counter() as counter:
            codes = network.encode(image)
            if wanted == "code":
                before, codes = counter.total, codes.detach().requires_grad_()
                network.requires_grad_(False)
            network.decode(codes, (data.side, data.side)).sum().backward()
            done = counter.total - (before if wanted == "code" else 0)
        counts.append(float(done))
    return counts[0], counts[1]
