"""The interface of generators: initial latents, and the decoder from latents to images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch

RATES = ("lr_latent", "lr_style")  # the settings that are learning rates of latents


class Generator(ABC):
    """A trained, frozen generator.

    Images are in normalised units of the dataset. A generator that an adapter returns has pixels in
    [0, 1] instead; :func:`dd.pretrain.generators.load_generator` converts these.

    Attributes:
        channels, size: of the images ``[n, channels, *size]``.
        rates: for each latent the setting that is its learning rate, from :data:`RATES`:
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
        """Initial latents, each ``[n, ...]``.

        Args:
            images: ``[n, C, H, W]`` to encode; None for a random start (always, unless
                ``encodes``).
            labels: ``[n]`` classes of the images, for a class-conditional generator.
            stream: the stream of all random draws, on the CPU.
        """

    @abstractmethod
    def decode(self, latents: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Images ``[n, C, H, W]``, differentiable with respect to all latents. An image must depend
        on its own latents alone."""

    def describe(self) -> dict[str, Any]:
        """Facts that identify the generator, for provenance."""
        return {}
