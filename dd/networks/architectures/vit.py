"""Vision transformers (Dosovitskiy et al., 2021, arXiv:2010.11929) in elementary operations.

Attention is written out, because torch's fused kernels have no second derivative, which gradient
matching needs. There is no dropout, because random numbers come from generators only.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dd.errors import DDError
from dd.networks.base import NETWORKS, TokenNetwork, padding, scaled
from dd.networks.layers import LayerNorm


class Attention(nn.Module):
    """Self-attention of ``heads`` heads: softmax(Q·Kᵀ / √d) V, with d = width / heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inputs = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, T, F]`` to the same shape."""
        parts = self.inputs(x).unflatten(-1, (3, self.heads, -1))
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)  # each [N, heads, T, d]
        scores = queries @ keys.mT / math.sqrt(queries.shape[-1])
        return self.output((scores.softmax(-1) @ values).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention, then two linear layers with GELU; each part follows a norm and has a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.first = nn.Sequential(_norm(width), Attention(width, heads))
        self.second = nn.Sequential(
            _norm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[N, T, F]`` to the same shape."""
        x = x + self.first(x)
        return x + self.second(x)


class Transformer(TokenNetwork):
    """Patches by a convolution, learned positions, ``depth`` blocks, a norm, then a linear layer.

    Images whose sides are not multiples of ``patch`` are zero-padded, centred, to the next ones.

    Args:
        patch: side of a patch in pixels.
        width: of a token; a multiple of ``heads``.
        class_token: whether the embedding is that of an extra token instead of the mean of the
            patch tokens.

    Attributes:
        padded: height and width that are cut into patches.
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        classes: int,
        *,
        patch: int,
        depth: int,
        width: int,
        heads: int,
        class_token: bool,
    ) -> None:
        super().__init__()
        self.padded, self.padding = padding(size, patch)
        self.grid = (self.padded[0] // patch, self.padded[1] // patch)
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.class_token = nn.Embedding(1, width) if class_token else None
        self.positions = nn.Embedding(self.grid[0] * self.grid[1] + class_token, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = _norm(width)
        self.classifier = nn.Linear(width, classes)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.patches(F.pad(x, self.padding) if any(self.padding) else x).flatten(2).mT
        if self.class_token is not None:
            own = self.class_token.weight.expand(len(x), 1, -1)
            tokens = torch.cat([own, tokens], 1)
        tokens = self.norm(self.blocks(tokens + self.positions.weight))
        if self.class_token is None:
            return tokens.mean(1), tokens
        return tokens[:, 0], tokens[:, 1:]


@NETWORKS.register("vit")
class ViT(Transformer):
    """A small vision transformer for small images; the embedding is the mean of the patch tokens.

    Patch 0, the default, follows the image size: the power of two nearest to an eighth of the
    smaller side, but at least 2. So it is 2 at 8 px, 4 at 32 px, 8 at 64 px.

    Raises:
        DDError: if ``width`` cannot be split into ``heads``, or ``patch`` is larger than images.
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        classes: int,
        width_factor: float = 1.0,
        *,
        depth: int = 6,
        width: int = 192,
        heads: int = 3,
        patch: int = 0,
    ) -> None:
        if width % heads:
            raise DDError(f"vit: width={width}: must be a multiple of heads={heads}")
        if patch > min(size):
            raise DDError(
                f"vit: patch={patch}: is larger than the images, which are {size[0]} × {size[1]}"
            )
        super().__init__(
            channels,
            size,
            classes,
            patch=patch or max(2, 2 ** round(math.log2(min(size) / 8))),
            depth=depth,
            width=scaled(width, width_factor, heads),
            heads=heads,
            class_token=False,
        )


@NETWORKS.register("vit_b_16")
class ViTB16(Transformer):
    """ViT-B/16, the same function as torchvision's, with patches that suit small images.

    A patch has 16 × 16 pixels if that leaves at least 14 patches per side (224 px). Otherwise its
    side is the largest power of two that does: 8 at 128 px, 4 at 64 px, 2 at 32 px; 1 below 27 px.
    The embedding is the class token. ``width_factor`` scales the width to a multiple of the 12
    heads.
    """

    def __init__(
        self, channels: int, size: tuple[int, int], classes: int, width_factor: float = 1.0
    ) -> None:
        super().__init__(
            channels,
            size,
            classes,
            patch=next((p for p in (16, 8, 4, 2) if min(size) > 13 * p), 1),
            depth=12,
            width=scaled(768, width_factor, 12),
            heads=12,
            class_token=True,
        )


def _norm(width: int) -> LayerNorm:
    return LayerNorm(width, eps=1e-6)
