"""The ConvNet of dataset distillation (Gidaris and Komodakis, 2018; used since DC)."""

from __future__ import annotations

import math

from torch import nn

from dd.errors import DDError
from dd.networks import layers
from dd.networks.base import NETWORKS, SpatialNetwork, scaled
from dd.networks.layers import GROUPS, Activation, Norm, Pooling


@NETWORKS.register("convnet")
class ConvNet(SpatialNetwork):
    """``depth`` blocks of 3 × 3 convolution, norm, activation and 2 × 2 pooling; a linear layer.

    The variants are those of Model Pool (arXiv:2402.13007, Table 3), and with ``growth`` 2 the
    widths of FRePo (arXiv:2206.00719): each block has ``growth`` times the filters of the one
    before it. Depth 0, the default, follows
    the image size, as is usual in the field: the last map is 4 × 4, so the depth is 3 at 32 px, 4
    at 64 px, 5 at 128 px. Images are padded to multiples of 8 at any depth, because DC's code pads
    28 px to 32 at any depth.

    Raises:
        DDError: if ``width`` cannot be split into the groups of group norm, or if ``depth`` halves
            the images to less than one position (images below 32 × 32 count as 32 × 32).
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        classes: int,
        width_factor: float = 1.0,
        *,
        depth: int = 0,
        width: int = 128,
        growth: int = 1,
        norm: Norm = "instance",
        activation: Activation = "relu",
        pooling: Pooling = "avg",
    ) -> None:
        depth = depth or max(1, round(math.log2(min(size) / 4)))
        grain = 1 if pooling == "none" else 2**depth
        if grain > max(*size, 32):
            raise DDError(
                f"convnet: depth={depth}: halves the map {depth} times, which needs images of "
                f"{grain} × {grain}; these are {size[0]} × {size[1]}"
            )
        super().__init__(size, max(grain, 8))
        groups = GROUPS if norm == "group" else 1
        if width % groups:
            raise DDError(f"convnet: width={width}: norm=group needs a multiple of {groups}")
        height, breadth = self.padded
        blocks, filters = [], channels
        for index in range(depth):
            before, filters = filters, scaled(width * growth**index, width_factor, groups)
            blocks += [
                layers.conv3x3(before, filters),
                layers.normalisation(norm, filters, (height, breadth)),
                layers.activation(activation),
                layers.pooling(pooling),
            ]
            if pooling != "none":
                height, breadth = height // 2, breadth // 2
        self.pool = blocks.pop()
        self.body = nn.Sequential(*blocks)
        self.classifier = nn.Linear(filters * height * breadth, classes)
