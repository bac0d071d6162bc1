"""torchvision's AlexNet, GoogLeNet, VGG11 and ResNet18, untrained, for images of any size.

From 128 px on they are as published. On smaller images the stem is changed, so that it keeps the
detail: its first convolution has stride 1, and some pools are left out, as each network says. The
last linear layer has one output per class of the dataset. There are no auxiliary heads. There is no
dropout, because random numbers come from generators only, and networks stacked by
``torch.func.vmap`` cannot use it. ``width_factor`` does not change these networks.

The feature map of AlexNet and VGG11 is that of the last convolution, before the last pooling.
Initial parameters have the distributions of torchvision (``deviations``, see
:func:`dd.networks.init.initialise`), except in the hidden layers and in AlexNet as a whole.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dd.networks.base import NETWORKS, Deviations, SpatialNetwork
from dd.networks.layers import conv3x3

SMALL = 128
"""Images whose smaller side has fewer pixels than this get the stem for small images."""

HIDDEN = 4096
"""Width of the two hidden layers of AlexNet and VGG11."""


def _torchvision(name: str) -> Callable[..., Any]:
    """A network of torchvision, imported late: the import takes two seconds, like some jobs."""
    return getattr(importlib.import_module("torchvision.models"), name)


def _fan_out(weight: Tensor) -> float:
    """√(2 / fan_out) (He et al., 2015) for the weight ``[out, in, ...]``."""
    return math.sqrt(2 / weight[:, 0].numel())


def _fan_in(weight: Tensor) -> float:
    """√(2 / fan_in) (He et al., 2015) for the weight ``[out, in, ...]``."""
    return math.sqrt(2 / weight[0].numel())


def _constant(weight: Tensor) -> float:
    return 0.01


class _Hidden(SpatialNetwork):
    """Convolutions, pooling, two hidden layers with ReLU, then a linear layer; no norms.

    Without norms the signal can fade from layer to layer, which stops training on the small sets of
    dataset distillation. So the weights of linear layers have He's standard deviation.
    torchvision's VGG11 has 0.01, which is about the same for the 25,088 inputs at 224 px, but not
    for the 512 at 32 px. Its AlexNet has torch's uniform distribution, with which a layer with ReLU
    keeps only a sixth of the variance.
    """

    deviations: ClassVar[Deviations] = {nn.Conv2d: _fan_out, nn.Linear: _fan_in}

    def _assemble(self, layers: list[nn.Module], channels: int, most: int, classes: int) -> None:
        """Build all parts.

        Args:
            layers: torchvision's convolutions, the last layer a pooling.
            most: largest height and width of the map before the hidden layers. A larger map is
                averaged down to it. (torchvision also enlarges a smaller one, by repeating values.)
        """
        *body, self.pool = layers
        self.body = nn.Sequential(*body)
        with torch.no_grad():
            maps = self.pool(self.body(torch.zeros(1, channels, *self.padded)))
        height, width = (min(side, most) for side in maps.shape[-2:])
        self.average = nn.AdaptiveAvgPool2d((height, width))
        self.hidden = nn.Sequential(
            nn.Linear(maps.shape[1] * height * width, HIDDEN),
            nn.ReLU(inplace=True),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(inplace=True),
        )
        self.classifier = nn.Linear(HIDDEN, classes)

    def neck(self, maps: Tensor) -> Tensor:
        return self.hidden(self.average(self.pool(maps)).flatten(1))


@NETWORKS.register("alexnet_tv")
class AlexNet(_Hidden):
    """AlexNet (Krizhevsky, 2014, arXiv:1404.5997).

    On small images the first convolution is 5 × 5 with stride 1 instead of 11 × 11 with stride 4;
    below 32 px the first pool is left out. The map is 13 × 13 at 224 px, 15 × 15 at 64 px, 7 × 7
    at 32 px.
    """

    def __init__(
        self, channels: int, size: tuple[int, int], classes: int, width_factor: float = 1.0
    ) -> None:
        super().__init__(size, grain=1, minimum=16)
        first, *layers = _torchvision("alexnet")().features
        first = nn.Conv2d(channels, 64, 11, stride=4, padding=2)
        if min(size) < SMALL:
            first = nn.Conv2d(channels, 64, 5, padding=2)
        if min(size) < 32:
            del layers[1]
        self._assemble([first, *layers], channels, 6, classes)


@NETWORKS.register("vgg11_tv")
class VGG11(_Hidden):
    """VGG11 without norms (Simonyan and Zisserman, 2015); the same layers at all sizes.

    The map is 14 × 14 at 224 px, 4 × 4 at 64 px, 2 × 2 at 32 px.
    """

    def __init__(
        self, channels: int, size: tuple[int, int], classes: int, width_factor: float = 1.0
    ) -> None:
        super().__init__(size, grain=32)
        _, *layers = _torchvision("vgg11")(init_weights=False).features
        self._assemble([conv3x3(channels, 64), *layers], channels, 7, classes)


class _Averaged(SpatialNetwork):
    """Convolutions, the mean of the last map, then a linear layer."""

    averages = True

    def neck(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))


@NETWORKS.register("resnet18_tv")
class ResNet18(_Averaged):
    """ResNet18 with batch norm (He et al., 2016).

    On small images the first convolution is 3 × 3 with stride 1 and there is no first pool. It is
    then the same network as ``resnet18_bn``, except for its initial parameters. The map is 7 × 7 at
    224 px, 8 × 8 at 64 px, 4 × 4 at 32 px.
    """

    deviations: ClassVar[Deviations] = {nn.Conv2d: _fan_out}

    def __init__(
        self, channels: int, size: tuple[int, int], classes: int, width_factor: float = 1.0
    ) -> None:
        super().__init__(size, grain=1, minimum=16)
        parts = _torchvision("resnet18")()
        stem = [nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False), parts.bn1, parts.relu]
        if min(size) < SMALL:
            stem[0] = conv3x3(channels, 64, bias=False)
        else:
            stem.append(parts.maxpool)
        stages = [parts.layer1, parts.layer2, parts.layer3, parts.layer4]
        self.body = nn.Sequential(*stem, *stages)
        self.classifier = nn.Linear(parts.fc.in_features, classes)


@NETWORKS.register("googlenet")
class GoogLeNet(_Averaged):
    """GoogLeNet with batch norm (Szegedy et al., 2015).

    On small images the first convolution is 3 × 3 with stride 1 and there is no first pool. The
    map is 7 × 7 at 224 px, 8 × 8 at 64 px, 4 × 4 at 32 px.
    """

    deviations: ClassVar[Deviations] = {nn.Conv2d: _constant, nn.Linear: _constant}

    def __init__(
        self, channels: int, size: tuple[int, int], classes: int, width_factor: float = 1.0
    ) -> None:
        super().__init__(size, grain=1, minimum=16)
        parts = dict(
            _torchvision("googlenet")(aux_logits=False, init_weights=False).named_children()
        )
        stem = parts.pop("conv1")
        stem.conv = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        if min(size) < SMALL:
            stem.conv = conv3x3(channels, 64, bias=False)
            del parts["maxpool1"]
        end = list(parts).index("avgpool")
        self.body = nn.Sequential(stem, *list(parts.values())[:end])
        self.classifier = nn.Linear(parts["fc"].in_features, classes)
