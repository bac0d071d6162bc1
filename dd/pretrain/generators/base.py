"""What a generator is to a distillation: latents to start from, and their way to images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch

RATES = ("lr_latent", "lr_style")  # the settings that give latents their learning rates


class Generator(ABC):
    """A trained, frozen generator.

    Images are in normalised units of the dataset; those of an adapter's generator are pixels in
    [0, 1], which :func:`dd.pretrain.generators.load_generator` wraps.

    Attributes:
        channels, size: of the images ``[n, channels, *size]``.
        rates: for each latent the setting that is its learning rate, one of :data:`RATES`:
            ``lr_latent`` for codes and feature maps, ``lr_style`` for style vectors (w+).
        encodes: whether latents can start from images.
    """

    channels: int
    size: tuple[int, int]
    rates: Mapping[str, str]
    encodes: bool = False

    @abstractmethod
    def latents(
        self, images: torch.Tensor | None, labels: torch.Tensor, stream: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Latents to start from, ``[n, ...]`` each.

        Args:
            images: ``[n, C, H, W]`` to encode; None for a random start (always, unless
                ``encodes``).
            labels: ``[n]`` classes of the images, for a generator that knows classes.
            stream: on the CPU; what is random comes from it.
        """

    @abstractmethod
    def decode(self, latents: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Images ``[n, C, H, W]``, differentiable by all latents; an image depends on its own
        latents alone."""

    def describe(self) -> dict[str, Any]:
        """Which generator it is, for provenance."""
        return {}
