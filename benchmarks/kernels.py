"""Where the time of a step goes on a device, and what remains of it as one CUDA graph.

A GPU may wait for Python between kernels. A graph repeats the kernels of a step without Python, so
its time is that of the kernels alone; the profile says which they are, and how much of the step
they fill.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

from benchmarks.choices import CLASSES, compare, wait
from dd.distill.student import Model
from dd.distill.unroll import pull_back, unroll
from dd.networks.build import create
from dd.networks.flat import parameters_of
from dd.rng import generator
from dd.runtime.cuda_graphs import capture, warm
from dd.training.ensemble import ensemble
from dd.training.train import cross_entropy, train_step

NETWORKS = 10
SHOWN = 8  # kernels of a profile, those that take most

Work = Callable[[], Any]


def with_graph(
    ways: Mapping[str, Callable[[], object]],
    last: tuple[str, Callable[[], Tensor]],
    repeats: int,
    device: torch.device,
) -> dict[str, Any]:
    """Seconds of the same work in several ways, and of the last way as one CUDA graph on a GPU.

    Args:
        ways: all ways but the last, by name.
        last: name and work; it gives the same tensor each time.
        repeats: rounds; the median counts.
        device: the device.

    Returns:
        ``seconds`` by way, and ``graph_error``: of the graph's tensor, relative to its norm; None
        on the CPU.
    """
    name, work = last
    all_ways, error = {**ways, name: work}, None
    if device.type == "cuda":
        warm(work)
        captured = capture(work)
        expected = work()
        captured.replay()
        error = float((captured.made - expected).norm() / expected.norm())
        all_ways["graph"] = captured.replay
    return {"seconds": compare(all_ways, repeats, device), "graph_error": error}


def unrolled(device: torch.device, ipc: int, steps: int) -> Callable[[], Tensor]:
    """The images' gradient through ``steps`` steps of a student, all graphs kept."""
    network = network_of(0, device)
    model, start = Model(network), parameters_of(network)
    labels = torch.arange(CLASSES * ipc, device=device) % CLASSES
    batches = [images_of(step, CLASSES * ipc, device) for step in range(steps)]

    def loss(leaves: Any, batch: Any, step: int) -> Tensor:
        return model.loss(leaves, batch, labels)

    def work() -> Tensor:
        walk = unroll(loss, model.shapes, start, 0.01, batches, keep=steps)
        return torch.cat(
            pull_back(loss, model.shapes, walk, 0.01, batches, torch.ones_like(start)).inputs
        )

    return work


def trained(device: torch.device, images: int) -> Callable[[], Tensor]:
    """The gradient of a training step of stacked networks, at a rate of zero."""
    students = ensemble([network_of(n, device) for n in range(NETWORKS)])
    sgd = torch.optim.SGD(students.parameters, lr=0.0, momentum=0.9)
    batch = images_of(0, images, device).expand(NETWORKS, -1, -1, -1, -1)
    labels = torch.arange(images, device=device) % CLASSES

    def loss(logits: Tensor, part: slice) -> Tensor:
        own = labels[part]
        return torch.stack([cross_entropy(one, own, None, 0) for one in logits.unbind()])

    def work() -> Tensor:
        train_step(students, sgd, batch, loss)
        return torch.cat([parameter.grad.flatten() for parameter in students.parameters])

    return work


def profile(work: Work, device: torch.device) -> dict[str, Any]:
    """Which kernels ``work`` spends its time in; on the CPU, which operations.

    Returns:
        ``seconds``: of one call without the profiler; ``busy``: the share of them in which kernels
        ran; ``launches``: the number of kernels; ``kernels``: name and share of the kernels' time
        of those that take most.
    """
    work()  # in which MTT's steps become CUDA graphs
    wait(device)
    started = time.perf_counter()
    work()
    wait(device)
    seconds = time.perf_counter() - started
    on_gpu = device.type == "cuda"
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with torch.profiler.profile(activities=kinds) as profiler:
        work()
        wait(device)
    place = DeviceType.CUDA if on_gpu else DeviceType.CPU
    found = {}
    for event in profiler.key_averages():
        if event.device_type == place:
            spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            found[event.key] = (spent / 1e6, event.count)  # of microseconds
    total = sum(spent for spent, _ in found.values())
    most = sorted(found, key=lambda name: -found[name][0])[:SHOWN]
    return {
        "seconds": round(seconds, 5),
        "busy": round(total / seconds, 3),
        "launches": sum(count for _, count in found.values()),
        "kernels": [[name[:100], round(found[name][0] / total, 3)] for name in most],
    }


def network_of(seed: int, device: torch.device) -> nn.Module:
    """A new ConvNet for images of 32 × 32."""
    return create("convnet", 3, (32, 32), CLASSES, generator=generator(seed), device=device)


def images_of(seed: int, count: int, device: torch.device) -> Tensor:
    """Images at random, ``[count, 3, 32, 32]``."""
    draw = generator(seed, "images", device=device)
    return torch.randn((count, 3, 32, 32), generator=draw, device=device)
