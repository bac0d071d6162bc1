"""How far gradients err if networks compute in bf16, against float64.

The gradients are those of distillation, on smooth random images of 32 x 32 pixels, with networks
at their initial weights. Each is computed in float32, as ``--precision bf16`` computes it, and with
everything in bf16. The program writes one JSON file, and ``python -m benchmarks.report`` puts it
into the README. These numbers are the reason for what stays in float32 (``docs/architecture.md``).
"""

from __future__ import annotations

import copy
import os
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.speed import opening, parser
from dd.artifacts.text import save_json
from dd.data.augment import Transform
from dd.distill.gradients import match_apart, mean_gradient
from dd.distill.objectives.dm import mean_distance
from dd.distill.student import Student
from dd.networks.build import create
from dd.networks.flat import flat, parameters_of
from dd.rng import generator
from dd.runtime import precision
from dd.runtime.precision import BF16, FLOAT32
from dd.runtime.process import setup

SIZE, CLASSES, STEPS = (32, 32), 10, 10
IPCS = (1, 10)
NETWORKS = {"convnet": 128, "resnet18": 32, "vgg11": 128}  # with the real images of a batch


class Lowered(nn.Module):
    """A network that is in the chosen precision also where the suite calls it in float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return precision.forward(self.network, images)

    def embed(self, images: Tensor) -> Tensor:
        return precision.forward(self.network.embed, images)


def smooth(count: int, seed: int, size: int = 32) -> Tensor:
    """Random images ``[count, 3, size, size]`` whose neighbouring pixels are alike."""
    coarse = torch.randn(count, 3, size // 4, size // 4, generator=generator(seed))
    return 1.5 * F.interpolate(coarse, (size, size), mode="bilinear")


def apart(one: Sequence[Tensor], other: Sequence[Tensor]) -> tuple[float, float]:
    """1 − the cosine, and the ratio of the norms, of two lists of tensors, in float64."""
    a, b = (flat([t.detach().double() for t in of]) for of in (one, other))
    return 1 - float(a @ b / (a.norm() * b.norm())), float(a.norm() / b.norm())


Gradient = Callable[[nn.Module, torch.dtype], list[Tensor]]
"""A gradient, given a network and the type of the images."""


def of_real(seed: int, count: int) -> Gradient:
    """By the parameters, on ``count`` real images of a class."""
    images, labels = smooth(count, seed), torch.full((count,), 3)
    return lambda network, dtype: mean_gradient(network, images.to(dtype), labels)


def of_matching(seed: int, count: int, ipc: int) -> Gradient:
    """DC's, by ``ipc`` synthetic images of a class, whose gradient is matched with that above."""
    real, synthetic = smooth(count, seed), smooth(ipc, seed + 1000)

    def gradient(network: nn.Module, dtype: torch.dtype) -> list[Tensor]:
        return match_apart(network, [real.to(dtype)], [synthetic.to(dtype)])[1]

    return gradient


def of_means(seed: int, count: int, ipc: int) -> Gradient:
    """DM's, by ``ipc`` synthetic images of a class."""
    real, synthetic = smooth(count, seed), smooth(ipc, seed + 1000)

    def gradient(network: Any, dtype: torch.dtype) -> list[Tensor]:
        leaf = synthetic.to(dtype).requires_grad_()
        with torch.no_grad():
            embedded = precision.forward(network.embed, real.to(dtype))
        distance = mean_distance(embedded[None], network.embed(leaf)[None])
        return [*torch.autograd.grad(distance, leaf)]

    return gradient


def of_unrolling(seed: int) -> Gradient:
    """MTT's, by one image of each class, through :data:`STEPS` steps."""
    images, labels = smooth(CLASSES, seed), torch.arange(CLASSES)
    indices, transforms = [labels] * STEPS, [Transform("none")] * STEPS

    def gradient(network: nn.Module, dtype: torch.dtype) -> list[Tensor]:
        start = parameters_of(network)
        student = Student(network, images.to(dtype), labels, indices, transforms)
        walk = student.walk(start, 0.01)
        return [student.gradients(walk, 0.01, walk.end - start)[0]]

    return gradient


Case = Callable[[int], Gradient]
"""A gradient to measure, by the seed of its images."""


def cases() -> dict[tuple[str, str], Case]:
    """What is measured, by what it is of and the network."""
    made: dict[tuple[str, str], Case] = {}
    for spec, count in NETWORKS.items():
        made["a real batch, by parameters", spec] = lambda seed, n=count: of_real(seed, n)
        for ipc in IPCS:
            made[f"DC, IPC {ipc}", spec] = lambda seed, n=count, k=ipc: of_matching(seed, n, k)
            made[f"DM, IPC {ipc}", spec] = lambda seed, n=count, k=ipc: of_means(seed, n, k)
    made[f"MTT, {STEPS} steps, IPC 1", "convnet:width=64"] = of_unrolling
    return made


def measure(case: Case, spec: str, seed: int) -> dict[str, tuple[float, float]]:
    """For each way of computing, how far the gradient is from that in float64."""
    device = torch.device("cpu")
    network = create(spec, 3, SIZE, CLASSES, generator=generator(seed, "weights")).train()
    gradient = case(seed)
    precision.choose(FLOAT32, device)
    exact = gradient(copy.deepcopy(network).double(), torch.float64)
    found = {FLOAT32: gradient(network, torch.float32)}
    precision.choose(BF16, device)
    found[BF16] = gradient(network, torch.float32)
    found["all"] = gradient(Lowered(network), torch.float32)
    precision.choose(FLOAT32, device)
    return {way: apart(computed, exact) for way, computed in found.items()}


def main() -> None:
    """Measure and write."""
    own = parser("rounding", __doc__)
    own.set_defaults(repeats=3)
    options = own.parse_args()
    device = setup("cpu", options.threads)
    facts = opening("rounding", options, device) | {"real": NETWORKS, "rows": []}
    for (what, spec), case in cases().items():
        seeds = [measure(case, spec, seed) for seed in range(options.repeats)]
        medians = {
            way: {
                "angle": statistics.median(seed[way][0] for seed in seeds),
                "norm": statistics.median(seed[way][1] for seed in seeds),
            }
            for way in seeds[0]
        }
        facts["rows"].append({"gradient": what, "network": spec, **medians})
        print(f"{what}, {spec}: {medians}", flush=True)
    facts["load_after"] = [round(load, 2) for load in os.getloadavg()]
    save_json(options.out, facts)


if __name__ == "__main__":
    main()
