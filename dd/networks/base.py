"""The interface of networks: an embedding from a feature map, logits from the embedding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from dd.registry import Registry
from dd.runtime.precision import precisely

NETWORKS: Registry[Callable[..., Network]] = Registry("network")
"""Factories ``(channels, size, classes, width_factor, *, options) -> Network``, by name.

The keyword-only parameters are the options of a spec. They are annotated ``int`` (at least 1) or
``Literal``, and their defaults give the paper's network.
"""


Deviations = Mapping[type[nn.Module], Callable[[Tensor], float]]
"""By type of layer, from its weight to the deviation that the weight is drawn with."""


class Network(nn.Module, ABC):
    """A classifier of images: ``classifier(embed(x))``.

    Attributes:
        deviations: of layers that are not drawn as torch does, see :mod:`dd.networks.init`.
    """

    classifier: nn.Linear
    deviations: ClassVar[Deviations] = {}

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """The input of the classifier: ``[N, C, H, W]`` to ``[N, F]``."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits: ``[N, C, H, W]`` to ``[N, classes]``."""
        return self.classify(self.embed(x))

    def classify(self, embedding: Tensor) -> Tensor:
        """Logits from embeddings: ``[N, F]`` to ``[N, classes]``, in the type of the classifier.

        They are never bfloat16: its 8 bits would make the two best classes of many images equal.
        """
        return precisely(self.classifier, embedding, self.classifier.weight)


def padding(
    size: tuple[int, int], grain: int, minimum: int = 1
) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """The padded size of images of ``size``, and the argument of ``F.pad`` that pads them, centred.

    The padded height and width are the next multiples of ``grain`` that are at least ``minimum``.
    """
    height, width = (-(-max(side, minimum) // grain) * grain for side in size)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return (height, width), (left, width - size[1] - left, top, height - size[0] - top)


class SpatialNetwork(Network):
    """A network whose ``body`` makes a feature map, which a ``neck`` flattens for the classifier.

    Images whose size does not fit are zero-padded, centred, to the next height and width that are
    multiples of ``grain`` (usually the product of the strides) and at least ``minimum``. As in
    DC's code, 28 × 28 becomes 32 × 32 for all its networks except ResNet18 and the MLP.

    Attributes:
        padded: height and width that the body sees.
        pool: the last pooling, between the last feature map and its flattening; or the identity.
        averages: whether the embedding is the mean of the map over its positions.
    """

    body: nn.Module
    averages: bool = False

    def __init__(self, size: tuple[int, int], grain: int, minimum: int = 1) -> None:
        super().__init__()
        self.padded, self.padding = padding(size, grain, minimum)
        self.pool: nn.Module = nn.Identity()

    def features(self, x: Tensor) -> Tensor:
        """The last feature map: ``[N, C, H, W]`` to ``[N, K, h, w]``."""
        return self.body(self.fitted(x))

    def fitted(self, x: Tensor) -> Tensor:
        """Images padded to the size that the body sees."""
        return F.pad(x, self.padding) if any(self.padding) else x

    def neck(self, maps: Tensor) -> Tensor:
        """From the last feature map to the embedding: ``[N, K, h, w]`` to ``[N, F]``."""
        return self.pool(maps).flatten(1)

    def head(self, maps: Tensor) -> Tensor:
        """Logits from the last feature map: ``[N, K, h, w]`` to ``[N, classes]``."""
        return self.classify(self.neck(maps))

    def embed(self, x: Tensor) -> Tensor:
        return self.neck(self.features(x))


class TokenNetwork(Network):
    """A transformer: patches of the image become tokens.

    Attributes:
        grid: rows and columns of patches.
    """

    grid: tuple[int, int]

    @abstractmethod
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``[N, C, H, W]`` to the embedding ``[N, F]`` and the patch tokens ``[N, T, F]``.

        The tokens are row by row of the grid. Both are after the last norm, so the classifier can
        be applied to either.
        """

    def embed(self, x: Tensor) -> Tensor:
        return self.encode(x)[0]


NARROWEST = 8  # channels: no width is scaled below it


def scaled(width: int, factor: float, multiple: int = 1) -> int:
    """``width · factor``, rounded to a multiple of ``multiple``.

    The result is at least ``NARROWEST``, or ``width`` if that is less: results of a LeNet with one
    channel would say nothing about LeNet.
    """
    least = -(-min(width, NARROWEST) // multiple)
    return max(round(width * factor / multiple), least) * multiple


def count_parameters(module: nn.Module) -> int:
    """The number of values that training changes."""
    return sum(parameter.numel() for parameter in module.parameters())
