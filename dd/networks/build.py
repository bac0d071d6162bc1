"""Build a network from a spec such as ``convnet:depth=1,norm=batch``."""

from __future__ import annotations

import torch

from dd.errors import DDError
from dd.networks.architectures import NETWORKS
from dd.networks.base import Network
from dd.networks.empty import made_empty
from dd.networks.init import initialise
from dd.networks.options import LARGEST, parse


def create(
    spec: str,
    channels: int,
    size: tuple[int, int],
    classes: int,
    *,
    generator: torch.Generator | None,
    width_factor: float = 1.0,
    device: torch.device | str | None = None,
) -> Network:
    """Build a network and draw its parameters.

    Args:
        spec: see :func:`dd.networks.options.parse`.
        channels, size, classes: of the images ``[N, channels, *size]`` and their labels.
        generator: source of the initial parameters. ``None`` leaves all parameters 0, for a
            network whose parameters are only counted, or are loaded later.
        width_factor: scales every hidden width (rounded, at least 8 or the paper's own width if
            that is less); 1 gives the paper's network.
        device: device of the parameters; by default that of the generator.

    Raises:
        DDError: for a bad spec, or a number that is not positive and finite.
    """
    name, options = parse(spec)
    for what, value in {
        "channels": channels,
        "height": size[0],
        "width": size[1],
        "classes": classes,
        "width_factor": width_factor,
    }.items():
        if not 0 < value <= LARGEST:
            raise DDError(
                f"network '{spec}': {what} is {value}, it must be positive and at most {LARGEST}"
            )
    if device is None:
        device = "cpu" if generator is None else generator.device

    def make() -> Network:
        network = NETWORKS[name](channels, size, classes, width_factor, **options)
        if not isinstance(network, Network):
            raise DDError(f"network '{spec}': is no dd.networks.base.Network, but {type(network)}")
        return network

    network = made_empty(make, device)
    if generator is None:
        for tensor in network.state_dict().values():
            tensor.zero_()
    else:
        initialise(network, generator)
    return network
