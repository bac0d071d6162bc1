"""SRe2L's recovery: images that a trained network classifies, and that match its statistics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dd.config.settings import setting
from dd.data.transfer import moved
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
from dd.runtime import precision
from dd.training.optimizers import Adam
from dd.training.recipe import half_cosine

BETAS = (0.5, 0.9)  # decay rates of Adam's moments


@dataclass(frozen=True)
class Settings(OptimisingSettings, NetworkSettings):
    """Settings of SRe2L's recovery."""

    r_bn: float = setting("weight of the batch-norm statistics", at_least=0)
    first_bn: float = setting("factor on the first batch norm's statistics", at_least=0)
    batch_syn: int = setting("synthetic images per batch, 0: all", at_least=0)
    crop: float = setting(
        "smallest share of an image's area in a random resized crop, 1: no crop", above=0, at_most=1
    )
    flip: float = setting("probability that images are mirrored", at_least=0, at_most=1)
    jitter: int = setting("largest number of pixels by which images are rolled", at_least=0)


def statistics_distance(layer: _BatchNorm, inputs: Tensor) -> Tensor:
    """Distance between the statistics of a batch and those of ``layer`` (arXiv:2306.13092, eq. 8;
    DeepInversion): ||mean - running mean|| + ||variance - running variance||, Euclidean norms over
    the channels.

    Args:
        inputs: ``[n, C, ...]``, the input of the layer; its variance is the biased one.
    """
    axes = [axis for axis in range(inputs.ndim) if axis != 1]
    assert layer.running_mean is not None and layer.running_var is not None
    variance, mean = torch.var_mean(inputs.to(layer.running_var.dtype), axes, correction=0)
    norm = torch.linalg.vector_norm
    return norm(mean - layer.running_mean) + norm(variance - layer.running_var)


@contextmanager
def watched(network: nn.Module) -> Iterator[list[Tensor]]:
    """Collect :func:`statistics_distance` of all batch norms while the context lasts.

    The list has one entry per batch norm and forward pass, in the order of use.
    """
    distances: list[Tensor] = []

    def watch(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, _BatchNorm)
        distances.append(statistics_distance(layer, inputs[0]))

    hooks = [
        layer.register_forward_pre_hook(watch)
        for layer in network.modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None
    ]
    try:
        yield distances
    finally:
        for hook in hooks:
            hook.remove()


@OBJECTIVES.register("sre2l")
class Recovery(Objective):
    """SRe2L (Yin, Xing, Shen 2023, arXiv:2306.13092), the stage *recover* (eq. 7 and 8).

    Every iteration moves all images once, batch after batch. So memory is that of one batch, of the
    images, and of Adam's two moments of them. A batch has one image per class, or of as many
    classes as fit. The loss of a batch of b images is b / ipc times (cross-entropy + r_bn · Σ_l w_l
    (distance of the statistics of batch norm l)), where w is ``first_bn`` for the first batch norm
    and 1 for the others. So the cross-entropy part, summed over batches, is the sum over classes of
    the mean over a class's images, as in the DC family and in MetaDD. The pull on one image depends
    on neither IPC nor batch. (Adam ignores the factor; a regulariser's weight and SGD do not.)

    One crop, flip and roll is drawn for a batch, as in the public code. The public code also clips
    the images to valid pixels after each step. That is left out here, since it does not work for
    images that are decoded from latents; values outside are clipped only for viewing.
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
        return Adam(groups, betas=BETAS)

    def iteration(self, number: int, synthetic: Parametrisation) -> dict[str, float | str]:
        s = self.settings
        name, network = self.networks.draw(number - 1, self.streams.network)
        network.eval()
        images = synthetic.images()
        gradient = torch.empty_like(images)
        # image 0 of every class, image 1 of every class, ...
        order = torch.arange(len(images), device=images.device).view(self.classes, self.ipc).T
        parts = order.flatten().split(s.batch_syn or len(images))
        losses = []
        for part, view in zip(parts, self._views(len(parts)), strict=True):
            leaf = images[part].requires_grad_(True)
            with watched(network) as distances:
                logits = precision.forward(network, view.apply(leaf))
            hard = F.cross_entropy(logits, synthetic.labels[part])
            distances[:1] = [s.first_bn * first for first in distances[:1]]
            soft = torch.stack([hard.new_zeros(()), *distances]).sum()
            share = len(part) / self.ipc
            (gradient[part],) = torch.autograd.grad(share * (hard + s.r_bn * soft), leaf)
            losses.append(torch.stack([hard, soft]).detach())
        total = dict.fromkeys(("cross_entropy", "statistics"), 0.0)
        # one look at all values
        for part, pair in zip(parts, torch.stack(losses).tolist(), strict=True):
            for term, value in zip(total, pair, strict=True):
                total[term] += len(part) / self.ipc * value / self.classes
        synthetic.update(gradient, half_cosine(number - 1, s.iterations))
        loss = total["cross_entropy"] + s.r_bn * total["statistics"]
        return {"loss": loss, **total, "network": name}

    def _views(self, count: int) -> list[_View]:
        """Draw the views of ``count`` batches, on the device."""
        s, stream = self.settings, self.streams.host
        tensors, shifts = [], []
        for _ in range(count):
            tensors.append(draw_boxes(stream, 1, self.dataset.size, s.crop))
            tensors.append(torch.rand(1, generator=stream) < s.flip)
            shifts.append(torch.randint(-s.jitter, s.jitter + 1, (2,), generator=stream).tolist())
        there = moved(tensors, self.device)
        return list(map(_View, there[::2], there[1::2], shifts))


@dataclass(frozen=True)
class _View:
    """How the network sees a batch: with one crop, flip and roll for all its images.

    Attributes:
        box, flipped: see :func:`dd.data.views.resized_crops`, for one image.
        shifts: pixels by which rows and columns are rolled.
    """

    box: Tensor
    flipped: Tensor
    shifts: list[int]

    def apply(self, images: Tensor) -> Tensor:
        return resized_crops(images, self.box, self.flipped).roll(self.shifts, (2, 3))
