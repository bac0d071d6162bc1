"""GLaD: latents of a generator as the optimised variables (arXiv:2305.01649)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dd.config.settings import setting
from dd.contracts import check_shape
from dd.distill.parametrisations.base import (
    GRADIENT,
    PARAMETRISATIONS,
    Optimise,
    Parametrisation,
)
from dd.pretrain.generators.base import Generator
from dd.training.state import load_optimizer_state, optimizer_state, step


@dataclass(frozen=True)
class GladSettings:
    """Settings of the latents. Momentum and kind of optimiser are those of the objective."""

    start: str = setting(
        "images (codes of the objective's initial images, if the generator has an encoder) or "
        "random (drawn by the generator)",
        choices=("images", "random"),
    )
    lr_latent: float = setting("learning rate of codes and feature maps", above=0)
    lr_style: float = setting("learning rate of style vectors (w+)", above=0)
    layer: int = setting(
        "intermediate layer that is optimised, for an adapter's generator; 0: its own choice",
        at_least=0,
    )
    piece: int = setting("images decoded at once, which bounds the memory", at_least=1)


@PARAMETRISATIONS.register("glad")
class Latents(Parametrisation):
    """Synthetic images that are decoded from latents, which the objective's optimiser moves.

    The objective never sees the latents: d loss / d latents is the vector-Jacobian product of the
    decoder with d loss / d images. It is computed piece by piece, so that only the graph of one
    piece is in memory at a time.

    Args:
        generator: frozen, in normalised units.
        images: ``[M, C, H, W]``, the objective's initial images in normalised units.
        labels: ``[M]`` int64, fixed.
        settings: see :class:`GladSettings`.
        optimise: makes the optimiser.
        stream: on the CPU; a random start is drawn from it, for all images at once, so that it
            does not depend on the size of a piece.
    """

    Settings = GladSettings
    needs_generator = True

    def __init__(
        self,
        generator: Generator,
        images: torch.Tensor,
        labels: torch.Tensor,
        settings: GladSettings,
        optimise: Optimise,
        stream: torch.Generator,
    ) -> None:
        self.generator, self.labels, self.settings = generator, labels, settings
        encoded = settings.start == "images" and generator.encodes
        with torch.no_grad():
            pieces = (
                [generator.latents(images[p], labels[p], stream) for p in self._pieces()]
                if encoded
                else [generator.latents(None, labels, stream)]
            )
        self._latents = {
            name: torch.cat([piece[name] for piece in pieces]).detach().requires_grad_(True)
            for name in sorted(pieces[0])
        }
        self._optimizer = optimise(
            [
                {"params": [latent], "lr": getattr(settings, generator.rates[name])}
                for name, latent in self._latents.items()
            ]
        )
        self._images: torch.Tensor | None = None
        self._shape = images.shape

    def images(self) -> torch.Tensor:
        if self._images is None:
            with torch.no_grad():
                decoded = [self.generator.decode(self._part(rows)) for rows in self._pieces()]
            self._images = torch.cat(decoded)
        return self._images

    def update(self, gradient: torch.Tensor, factor: float = 1.0) -> None:
        check_shape(GRADIENT, gradient, self._shape)
        latents = list(self._latents.values())
        gradients = [torch.empty_like(latent) for latent in latents]
        for rows in self._pieces():
            part = {name: latent.requires_grad_(True) for name, latent in self._part(rows).items()}
            images = self.generator.decode(part)
            slopes = torch.autograd.grad(images, list(part.values()), gradient[rows])
            for whole, own in zip(gradients, slopes, strict=True):
                whole[rows] = own
        for latent, whole in zip(latents, gradients, strict=True):
            latent.grad = whole
        step(self._optimizer, factor)
        self._images = None

    def state(self) -> dict[str, torch.Tensor]:
        return self.extras() | optimizer_state(self._optimizer)

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        for name, latent in self._latents.items():
            latent.data.copy_(state[f"latent.{name}"])
        load_optimizer_state(self._optimizer, state)
        self._images = None

    def extras(self) -> dict[str, torch.Tensor]:
        """The latents, so that the set can be decoded again: ``latent.<name>``."""
        return {f"latent.{name}": latent.detach() for name, latent in self._latents.items()}

    def _pieces(self) -> list[slice]:
        size, count = self.settings.piece, len(self.labels)
        return [slice(first, first + size) for first in range(0, count, size)]

    def _part(self, rows: slice) -> dict[str, torch.Tensor]:
        return {name: latent.detach()[rows] for name, latent in self._latents.items()}
