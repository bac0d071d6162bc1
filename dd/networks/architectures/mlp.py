"""The multilayer perceptron of the cross-architecture tables."""

from __future__ import annotations

from torch import Tensor, nn

from dd.networks.base import NETWORKS, Network, scaled


@NETWORKS.register("mlp")
class MLP(Network):
    """Two hidden layers of ``width`` with ReLU, then a linear layer; it has no feature map."""

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        classes: int,
        width_factor: float = 1.0,
        *,
        width: int = 128,
    ) -> None:
        super().__init__()
        width = scaled(width, width_factor)
        self.body = nn.Sequential(
            nn.Linear(channels * size[0] * size[1], width),
            nn.ReLU(inplace=True),
            nn.Linear(width, width),
            nn.ReLU(inplace=True),
        )
        self.classifier = nn.Linear(width, classes)

    def embed(self, x: Tensor) -> Tensor:
        return self.body(x.flatten(1))
