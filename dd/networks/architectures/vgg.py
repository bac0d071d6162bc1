"""VGG11 (Simonyan and Zisserman, 2015) with norms and a single linear layer, for small images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from dd.networks.base import NETWORKS, SpatialNetwork, scaled
from dd.networks.layers import conv3x3, instance_norm

STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))


class VGG11(SpatialNetwork):
    """Eight blocks of 3 × 3 convolution, norm and ReLU; max pooling after every stage."""

    def __init__(
        self,
        norm: Callable[[int], nn.Module],
        channels: int,
        size: tuple[int, int],
        classes: int,
        width_factor: float = 1.0,
    ) -> None:
        super().__init__(size, grain=32)
        layers: list[nn.Module] = []
        for stage in STAGES:
            for width in (scaled(width, width_factor) for width in stage):
                layers += [conv3x3(channels, width), norm(width), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.pool = layers.pop()
        height, breadth = (side // 32 for side in self.padded)
        self.body = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels * height * breadth, classes)


NETWORKS.register("vgg11")(partial(VGG11, instance_norm))
NETWORKS.register("vgg11_bn")(partial(VGG11, nn.BatchNorm2d))
