"""DC and DSA: match the gradients of a network on real and on synthetic images."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from dd.config.settings import setting
from dd.data import augment
from dd.distill.gradients import match_apart, match_together
from dd.distill.objectives.base import OBJECTIVES, ImageSettings, NetworkSettings, Objective
from dd.distill.parametrisations.base import Parametrisation
from dd.networks.batchnorm import freeze_batch_statistics, has_batch_norm
from dd.training.recipe import Recipe
from dd.training.train import train

# One vectorised pass over all classes, or one pass per class? On the CPU one pass for all is faster
# only up to this many pixels per image and for narrow networks. On a GPU it is faster, but takes
# six to eight times the memory, so the limit is the size of a real batch of all classes: this is
# CIFAR-10's at 256 images per class (both are measured in benchmarks/README.md).
TOGETHER_PIXELS = 8 * 8
TOGETHER_VALUES = 10 * 256 * 3 * 32 * 32
BATCH_NORM_IMAGES = 16


@dataclass(frozen=True)
class Settings(ImageSettings, NetworkSettings):
    """Settings of gradient matching (papers' names in brackets)."""

    batch_real: int = setting("real images per class and matching step", at_least=1)
    outer: int = setting("matching steps per network [outer loop T]", at_least=1)
    inner: int = setting("epochs on the synthetic set between them [inner loop]", at_least=0)
    lr_net: float = setting("learning rate of the matched network", above=0)
    batch_train: int = setting("batch size of the inner loop, images", at_least=1)


@OBJECTIVES.register("dc")
class GradientMatching(Objective):
    """DC (Zhao, Mopuri, Bilen 2021, arXiv:2006.05929, Algorithm 1).

    Each iteration draws a network. Then, ``outer`` times, it moves the images so that their
    gradients come closer to those of real images, class by class. Between these steps it trains
    the network on the synthetic set for ``inner`` epochs. With ``augment``, real and synthetic
    images of a class get the same random operation: DSA (Zhao, Bilen 2021, arXiv:2102.08259).
    """

    Settings = Settings

    def iteration(self, number: int, synthetic: Parametrisation) -> dict[str, float | str]:
        s = self.settings
        name, network = self.networks.draw(number - 1, self.streams.network)
        losses = []
        for step in range(s.outer):
            losses.append(self._match(network, synthetic))
            if step < s.outer - 1 and s.inner:
                self._train(network, synthetic)
        total = 0.0
        for loss in torch.stack(losses).tolist():  # the only look at a value
            total += loss
        return {"loss": total / (s.outer * self.classes), "network": name}

    def _match(self, network: nn.Module, synthetic: Parametrisation) -> torch.Tensor:
        """One matching step over all classes; returns the summed distance."""
        s = self.settings
        network.train()
        normalised = has_batch_norm(network)
        statistics = [self.real_batch(BATCH_NORM_IMAGES).flatten()] if normalised else []
        real = self.real_batch(s.batch_real)
        transforms, (real, *statistics) = augment.moved(
            [
                augment.draw(s.augment, self.streams.host, 1, self.dataset.size, shared=True)
                for _ in range(self.classes)
            ],
            self.device,
            real,
            *statistics,
        )
        for indices in statistics:
            freeze_batch_statistics(network, self.dataset.train.take(indices))
        images = synthetic.images().unflatten(0, (self.classes, self.ipc))
        leaf = images.clone().requires_grad_(True)
        augmented = [augment.apply(t, x) for t, x in zip(transforms, leaf, strict=True)]
        batches = (
            augment.apply(t, self.dataset.train.take(indices))
            for t, indices in zip(transforms, real, strict=True)
        )
        gradients: Iterable[torch.Tensor]
        if self._together(real.numel()):
            loss, gradients = match_together(
                network, torch.stack(list(batches)), torch.stack(augmented)
            )
        else:
            loss, gradients = match_apart(network, batches, augmented)
        (gradient,) = torch.autograd.grad(augmented, leaf, list(gradients))
        synthetic.update(gradient.flatten(0, 1))
        return loss

    def _together(self, real_images: int) -> bool:
        pixels = math.prod(self.dataset.size)
        if self.device.type == "cpu":
            return pixels <= TOGETHER_PIXELS
        return real_images * self.dataset.channels * pixels <= TOGETHER_VALUES

    def _train(self, network: nn.Module, synthetic: Parametrisation) -> None:
        s = self.settings
        recipe = Recipe(
            epochs=s.inner,
            lr=s.lr_net,
            momentum=0.0,
            weight_decay=0.0,
            batch=s.batch_train,
            augment=s.augment,
            schedule="constant",
        )
        train([network], synthetic.images(), synthetic.labels, recipe, [self.streams.host])


@OBJECTIVES.register("dsa")
class SiameseGradientMatching(GradientMatching):
    """DSA: DC with a recipe that starts from real images and augments (arXiv:2102.08259, eq. 3)."""
