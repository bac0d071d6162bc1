"""The generator that the workflow trains itself: a convolutional autoencoder.

We chose it because it trains stably, takes minutes instead of days, needs no other data than the
dataset, and has an encoder, so that a set can start from real images. Its prior is weaker than that
of a GAN such as StyleGAN-XL (GLaD, arXiv:2305.01649): it models what patches look like, not what
objects look like.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dd.data.extent import Extent
from dd.networks.empty import made_empty
from dd.networks.init import initialise
from dd.networks.layers import GROUPS, conv3x3
from dd.networks.operations import Counter
from dd.pretrain.generators.base import Generator

PATCH = 4  # side, in pixels, of the square that one position of the code represents


def code_channels(code: int, channels: int) -> int:
    """Number of channels of the code: ``code``, or, if that is 0, a third of a patch's values.

    ``channels`` is the number of channels of the images.
    """
    return code or PATCH * PATCH * channels // 3


class Residual(nn.Module):
    """x plus the result of two 3 × 3 convolutions, each after group norm and SiLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers = []
        for _ in range(2):
            layers += [nn.GroupNorm(GROUPS, width), nn.SiLU(), conv3x3(width, width)]
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Autoencoder(nn.Module):
    """Images ``[n, C, H, W]`` to codes ``[n, k, ⌈H/4⌉, ⌈W/4⌉]`` and back.

    Images whose sides are not multiples of 4 are padded inside, with copies of their last rows and
    columns. No layer mixes images, so the code of an image and its decoding are the same in any
    batch, up to rounding.

    Args:
        channels: C.
        code: k.
        width: channels at half the size, a multiple of 4; twice as many at a quarter.
    """

    def __init__(self, channels: int, code: int, width: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2),
            conv3x3(4 * channels, width),
            Residual(width),
            conv3x3(width, 2 * width, stride=2),
            Residual(2 * width),
            conv3x3(2 * width, code),
        )
        self.decoder = nn.Sequential(
            conv3x3(code, 2 * width),
            Residual(2 * width),
            nn.Upsample(scale_factor=2),
            conv3x3(2 * width, width),
            Residual(width),
            conv3x3(width, width),
            nn.PixelShuffle(2),
            nn.SiLU(),
            conv3x3(width // 4, channels),
        )

    def encode(self, images: Tensor) -> Tensor:
        """Codes, each with mean 0 and variance 1, so that a noise level means the same for all."""
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -width % PATCH, 0, -height % PATCH), mode="replicate")
        codes = self.encoder(padded)
        return F.layer_norm(codes, codes.shape[1:])

    def decode(self, codes: Tensor, size: tuple[int, int]) -> Tensor:
        """Images ``[n, C, *size]``."""
        return self.decoder(codes)[..., : size[0], : size[1]]


def create(
    channels: int,
    code: int,
    width: int,
    generator: torch.Generator | None,
    device: torch.device | str,
) -> Autoencoder:
    """A new autoencoder; without a generator its parameters must be loaded afterwards."""
    network = made_empty(lambda: Autoencoder(channels, code, width), device)
    if generator is not None:
        initialise(network, generator)
    return network


class AutoencoderGenerator(Generator):
    """A trained autoencoder as a generator; its only latent is ``code``.

    Args:
        network: this constructor freezes it.
        channels, size: of the images.
        facts: facts that identify the generator.
    """

    rates = {"code": "lr_latent"}  # noqa: RUF012
    encodes = True

    def __init__(
        self, network: Autoencoder, channels: int, size: tuple[int, int], facts: Mapping[str, Any]
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.channels, self.size, self.facts = channels, size, dict(facts)

    @torch.no_grad()
    def latents(
        self, images: Tensor | None, labels: Tensor, stream: torch.Generator
    ) -> dict[str, Tensor]:
        """Codes of ``images``, or standard normal codes if there are none.

        Standard normal codes have the distribution of a code's values, but not their arrangement,
        so a random start is texture.
        """
        if images is not None:
            return {"code": self.network.encode(images)}
        height, width = (-(-side // PATCH) for side in self.size)
        first = self.network.decoder[0]
        assert isinstance(first, nn.Conv2d)
        shape = (len(labels), first.in_channels, height, width)
        drawn = torch.randn(shape, generator=stream)
        return {"code": drawn.to(first.weight)}

    def decode(self, latents: Mapping[str, Tensor]) -> Tensor:
        return self.network.decode(latents["code"], self.size)

    def describe(self) -> dict[str, Any]:
        return self.facts


@cache
def operations(width: int, code: int, data: Extent) -> tuple[float, float]:
    """Operations of the generator for one image: of a training step, and of decoding together with
    the gradient by the code."""
    network = create(data.channels, code_channels(code, data.channels), width, None, "meta")
    image = torch.zeros(1, data.channels, *data.size, device="meta")
    counts = []
    for wanted in ("parameters", "code"):
        with Counter() as counter:
            codes = network.encode(image)
            if wanted == "code":
                before, codes = counter.total, codes.detach().requires_grad_()
                network.requires_grad_(False)
            network.decode(codes, data.size).sum().backward()
            done = counter.total - (before if wanted == "code" else 0)
        counts.append(float(done))
    return counts[0], counts[1]
