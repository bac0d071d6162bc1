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
    """A dataset's size."""

    train: int
    test: int
    classes: int
    side: int
    channels: int = 3

    @property
    def values(self) -> int:
        """Of one image."""
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
    """Adds up the floating-point operations of all that is computed under it, by torch's own rules.

    (torch's FlopCounterMode follows modules by hooks, which gradients by an input do not pass.)
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        rule = flop_registry.get(function._overloadpacket)
        if rule:
            self.total += rule(*args, **(kwargs or {}), out_val=found)
        return found


@cache
def operations(way: str, spec: str, data: Data) -> float:
    """Floating-point operations for one image and one network, by torch's own counter.

    Args:
        way: ``forward``; ``train``: gradient by the parameters; ``images``: by the image alone;
            ``match``: gradient by the image of a function of the gradient by the parameters (dc);
            ``unroll``: a student's step, and the way back through it (mtt).
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
                found = _with_respect_to(network, parameters, image, parameters, graph=True)
                wanted = [image, *parameters] if way == "unroll" else [image]
                torch.autograd.grad(sum(g.square().sum() for g in found), wanted, allow_unused=True)
    return float(counter.total)


def _with_respect_to(
    network: torch.nn.Module,
    parameters: list[torch.Tensor],
    image: torch.Tensor,
    wanted: list[torch.Tensor],
    graph: bool,
) -> tuple[torch.Tensor, ...]:
    """Gradient of the sum of the logits of ``image`` by ``wanted``."""
    for tensor in parameters:
        tensor.requires_grad_(any(tensor is one for one in wanted))
    for tensor in wanted:
        tensor.requires_grad_(True)
    loss = torch.nn.functional.log_softmax(network(image), 1).sum()
    return torch.autograd.grad(loss, wanted, create_graph=graph)


def parameters(spec: str, data: Data) -> int:
    """How many values a network has."""
    return sum(p.numel() for p in _network(spec, data).parameters())


@cache
def autoencoder(width: int, code: int, data: Data) -> tuple[float, float]:
    """Operations of the training step of the generator on one image, and of decoding one and the
    gradient by its code."""
    network = create_generator(data.channels, code or 16 * data.channels // 3, width, None, "meta")
    image = torch.zeros(1, data.channels, data.side, data.side, device="meta")
    found = []
    for wanted in ("parameters", "code"):
        with Counter() as counter:
            codes = network.encode(image)
            if wanted == "code":
                before, codes = counter.total, codes.detach().requires_grad_()
                network.requires_grad_(False)
            network.decode(codes, (data.side, data.side)).sum().backward()
            done = counter.total - (before if wanted == "code" else 0)
        found.append(float(done))
    return found[0], found[1]
