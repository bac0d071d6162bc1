"""ResNet18 (He et al., 2016) for small images: a 3 × 3 stem at full resolution, no max pooling."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from dd.networks.base import NETWORKS, SpatialNetwork, scaled
from dd.networks.layers import AveragePool, conv3x3, instance_norm

WIDTHS = (64, 128, 256, 512)
"""Channels of the four stages, two blocks each; every stage after the first halves the map."""


class Block(nn.Module):
    """Two 3 × 3 convolutions and a shortcut.

    Args:
        halve: whether the block halves the map.
        average: halve by 2 × 2 average pooling instead of a stride of 2.
    """

    def __init__(
        self,
        norm: Callable[[int], nn.Module],
        inputs: int,
        outputs: int,
        halve: bool,
        average: bool,
    ) -> None:
        super().__init__()
        stride = 2 if halve and not average else 1
        pool = [AveragePool()] if halve and average else []
        self.residual = nn.Sequential(
            conv3x3(inputs, outputs, stride, bias=False),
            norm(outputs),
            nn.ReLU(inplace=True),
            *pool,
            conv3x3(outputs, outputs, bias=False),
            norm(outputs),
        )
        self.shortcut = nn.Sequential()
        if halve or inputs != outputs:
            shrink = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(shrink, *pool, norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual(x).add_(self.shortcut(x)), inplace=True)


class ResNet18(SpatialNetwork):
    """Stem, eight blocks, global average pooling, then a linear layer.

    With ``average`` (``resnet18_ap``) average pooling replaces strides, and the classifier reads
    the whole last map instead of its mean, as in DC's code. Also as in that code, images of 28 × 28
    are not padded: the last map is 4 × 4 with strides, 3 × 3 with average pooling.
    """

    def __init__(
        self,
        norm: Callable[[int], nn.Module],
        average: bool,
        channels: int,
        size: tuple[int, int],
        classes: int,
        width_factor: float = 1.0,
    ) -> None:
        super().__init__(size, grain=1, minimum=16)  # instance norm needs more than one position
        widths = [scaled(width, width_factor) for width in WIDTHS]
        layers = [
            conv3x3(channels, widths[0], bias=False),
            norm(widths[0]),
            nn.ReLU(inplace=True),
        ]
        for stage, width in enumerate(widths):
            before = widths[max(stage - 1, 0)]
            layers.append(Block(norm, before, width, halve=stage > 0, average=average))
            layers.append(Block(norm, width, width, halve=False, average=average))
        self.body = nn.Sequential(*layers)
        self.averages = not average
        self.pool = nn.Identity() if average else nn.AdaptiveAvgPool2d(1)
        positions = (self.padded[0] // 8) * (self.padded[1] // 8) if average else 1
        self.classifier = nn.Linear(widths[-1] * positions, classes)


NETWORKS.register("resnet18")(partial(ResNet18, instance_norm, False))
NETWORKS.register("resnet18_bn")(partial(ResNet18, nn.BatchNorm2d, False))
NETWORKS.register("resnet18_ap")(partial(ResNet18, instance_norm, True))
