"""Build a network from a spec such as ``convnet:depth=1,norm=batch``."""

from __future__ import annotations

from inspect import Parameter, signature

import torch

from dd import plugins
from dd.errors import DDError
from dd.networks.architectures import NETWORKS
from dd.networks.base import Network
from dd.networks.empty import made_empty
from dd.networks.init import initialise
from dd.networks.options import LARGEST, OPTIONS, options_of, parse
from dd.plugins import Entry


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
        DDError: for a bad spec, a number that is not positive and finite, or a network of a
            plug-in whose class has other options than its file.
    """
    name, options = parse(spec)
    if entry := plugins.find(name, ("network",), OPTIONS):
        check_options(entry)
        # said, because a class that takes any options may leave the defaults to the file
        options = {key: known.default for key, known in options_of(name).items()} | options
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


def check_options(entry: Entry) -> None:
    """Raise a :class:`DDError` if the class of a plug-in's network has other options than its file.

    A spec without an option stands for the default of the file, so two defaults would be two
    networks of one name.
    """
    parameters = [*signature(NETWORKS[entry.name]).parameters.values()]
    positional = [one for one in parameters if one.kind in _POSITIONAL]
    given = [one.name for one in positional[:4]]  # channels, size, classes, width_factor
    own = [*positional[4:], *(one for one in parameters if one.kind is Parameter.KEYWORD_ONLY)]
    any_other = any(one.kind is Parameter.VAR_KEYWORD for one in parameters)
    taken = {one.name: one.default for one in own}
    known = options_of(entry.name)
    for key, option in known.items():
        if key not in taken:
            if any_other and key not in given:
                continue
            have = f"its options are {', '.join(taken)}" if taken else "it has no options"
            raise DDError(f"{entry}: '{key}' is an option in its file, not in its class; {have}")
        if taken[key] not in (Parameter.empty, option.default):
            raise DDError(
                f"{entry}: the default of '{key}' is {option.default} in its file, {taken[key]} "
                "in its class"
            )
    for key, default in taken.items():
        if key not in known and default is Parameter.empty:
            raise DDError(f"{entry}: its class needs '{key}', which is no option in its file")


_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
