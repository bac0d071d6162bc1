"""SRe2L's recovery: images that a trained network knows, with the statistics it was trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dd.config.settings import setting
from dd.data.views import draw_boxes, resized_crops
from dd.distill.objectives.base import (
    OBJECTIVES,
    NetworkSettings,
    Objective,
    OptimisingSettings,
)
from dd.distill.parametrisations.base import Parametrisation
from dd.errors import DDError
from dd.networks.batchnorm import has_batch_norm

BETAS = (0.5, 0.9)  # of Adam


@dataclass(frozen=True)
class Settings(OptimisingSettings, NetworkSettings):
    """Settings of SRe2L's recovery."""

    r_bn: float = setting("weight of the batch-norm statistics", at_least=0)
    first_bn: float = setting("factor on the first batch norm's statistics", at_least=0)
    batch_syn: int = setting("synthetic images a step, 0: all", at_least=0)
    crop: float = setting(
        "least share of an image's area in a random resized crop, 1: no crop", above=0, at_most=1
    )
    flip: float = setting("probability of the mirror image", at_least=0, at_most=1)
    jitter: int = setting("pixels that images are rolled by at most", at_least=0)


def statistics_distance(layer: _BatchNorm, inputs: Tensor) -> Tensor:
    """How far a batch is from what ``layer`` keeps (arXiv:2306.13092, eq. 8; DeepInversion):
    ||mean - running mean|| + ||variance - running variance||, Euclidean over the channels.

    Args:
        inputs: ``[n, C, ...]``, what enters the layer; the variance is the biased one.
    """
    axes = [axis for axis in range(inputs.ndim) if axis != 1]
    variance, mean = torch.var_mean(inputs, axes, correction=0)
    norm = torch.linalg.vector_norm
    assert layer.running_mean is not None and layer.running_var is not None
    return norm(mean - layer.running_mean) + norm(variance - layer.running_var)


@contextmanager
def watched(network: nn.Module) -> Iterator[list[Tensor]]:
    """Collect, while the context lasts, the distances of :func:`statistics_distance` of each
    forward pass, batch norm after batch norm in the order in which they are used."""
    found: list[Tensor] = []

    def watch(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, _BatchNorm)
        found.append(statistics_distance(layer, inputs[0]))

    hooks = [
        layer.register_forward_pre_hook(watch)
        for layer in network.modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@OBJECTIVES.register("sre2l")
class Recovery(Objective):
    """SRe2L (Yin, Xing, Shen 2023, arXiv:2306.13092), the stage *recover* (eq. 7 and 8).

    Every iteration moves all images once, batch after batch, so that memory is one batch's beside
    the images and Adam's two moments of them. A batch has one image a class, or as many classes as
    fit. Its loss is b / ipc times (cross-entropy + r_bn · Σ_l w_l (distance of the statistics of
    batch norm l)), b its images, w the factor ``first_bn`` for the first and 1 for the others.
    The sum over batches is thus, in its first part, the sum over classes of the mean over a
    class's images, as in the DC family and in MetaDD; how strongly one image is pulled depends on
    neither IPC nor batch. (Adam ignores the factor; a regulariser's weight and SGD do not.)

    One crop, flip and roll is drawn for a batch, as in the public code. The public code also clips
    the images to valid pixels after each step; that would not fit images that are decoded from
    latents and is left out: what lies outside is clipped where images are viewed.
    """

    Settings = Settings
    needs_pretrained = True

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        specs = self.networks.specs()
        if self.settings.r_bn and not any(has_batch_norm(self.networks.skeleton(s)) for s in specs):
            raise DDError(
                f"sre2l matches statistics of batch norms, but {', '.join(specs)} has none; use "
                "one that has (resnet18_bn, vgg11_bn, convnet:norm=batch), or set r_bn to 0"
            )

    def optimizer(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.Adam(groups, betas=BETAS)

    def iteration(self, number: int, synthetic: Parametrisation) -> dict[str, float | str]:
        s = self.settings
        name, network = self.networks.draw(number - 1, self.streams.network)
        network.eval()
        images = synthetic.images()
        gradient = torch.empty_like(images)
        # image 0 of every class, image 1 of every class, ...
        order = torch.arange(len(images), device=images.device).view(self.classes, self.ipc).T
        total = dict.fromkeys(("cross_entropy", "statistics"), 0.0)
        for part in order.flatten().split(s.batch_syn or len(images)):
            leaf = images[part].requires_grad_(True)
            with watched(network) as distances:
                logits = network(self._seen(leaf))
            hard = F.cross_entropy(logits, synthetic.labels[part])
            distances[:1] = [s.first_bn * first for first in distances[:1]]
            soft = torch.stack([hard.new_zeros(()), *distances]).sum()
            share = len(part) / self.ipc
            (gradient[part],) = torch.autograd.grad(share * (hard + s.r_bn * soft), leaf)
            total["cross_entropy"] += share * hard.item() / self.classes
            total["statistics"] += share * soft.item() / self.classes
        synthetic.update(gradient, (1 + math.cos(math.pi * (number - 1) / s.iterations)) / 2)
        loss = total["cross_entropy"] + s.r_bn * total["statistics"]
        return {"loss": loss, **total, "network": name}

    def _seen(self, images: Tensor) -> Tensor:
        """A batch as the network sees it: one crop, flip and roll for all its images."""
        s, stream = self.settings, self.streams.host
        box = draw_boxes(stream, 1, self.dataset.size, s.crop)
        flipped = torch.rand(1, generator=stream) < s.flip
        shifts = torch.randint(-s.jitter, s.jitter + 1, (2,), generator=stream).tolist()
        return resized_crops(images, box, flipped).roll(shifts, (2, 3))
