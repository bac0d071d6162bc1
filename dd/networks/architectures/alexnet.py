"""AlexNet (Krizhevsky et al., 2012) reduced for 32 × 32 images, as in dataset distillation."""

from __future__ import annotations

from torch import nn

from dd.networks.base import NETWORKS, SpatialNetwork, scaled


@NETWORKS.register("alexnet")
class AlexNet(SpatialNetwork):
    """Five convolutions with ReLU, pooling after the first, second and last; a linear layer."""

    def __init__(
        self, channels: int, size: tuple[int, int], classes: int, width_factor: float = 1.0
    ) -> None:
        super().__init__(size, grain=8)
        first, second, third = (scaled(width, width_factor) for width in (128, 192, 256))
        self.body = nn.Sequential(
            nn.Conv2d(channels, first, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(second, third, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(third, second, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(second, second, 3, padding=1),
            nn.ReLU(inplace=True),
        )
        self.pool = nn.MaxPool2d(2)
        height, width = (side // 8 for side in self.padded)
        self.classifier = nn.Linear(second * height * width, classes)
