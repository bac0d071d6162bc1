"""LeNet-5 (LeCun et al., 1998) with ReLU and max pooling, as dataset distillation uses it."""

from __future__ import annotations

from torch import Tensor, nn

from dd.networks.base import NETWORKS, SpatialNetwork, scaled


@NETWORKS.register("lenet")
class LeNet(SpatialNetwork):
    """Two valid 5 × 5 convolutions with pooling, two hidden layers, then a linear layer."""

    def __init__(
        self, channels: int, size: tuple[int, int], classes: int, width_factor: float = 1.0
    ) -> None:
        super().__init__(size, grain=16)
        first, second, third, fourth = (scaled(w, width_factor) for w in (6, 16, 120, 84))
        self.body = nn.Sequential(
            nn.Conv2d(channels, first, 5),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 5),
            nn.ReLU(inplace=True),
        )
        self.pool = nn.MaxPool2d(2)
        height, width = (((side - 4) // 2 - 4) // 2 for side in self.padded)
        self.hidden = nn.Sequential(
            nn.Linear(second * height * width, third),
            nn.ReLU(inplace=True),
            nn.Linear(third, fourth),
            nn.ReLU(inplace=True),
        )
        self.classifier = nn.Linear(fourth, classes)

    def neck(self, maps: Tensor) -> Tensor:
        return self.hidden(super().neck(maps))
