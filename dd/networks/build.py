"""Build a network from a spec such as ``convnet:depth=1,norm=batch``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING
from functools import cache
from inspect import Parameter, signature

import torch

from dd import plugins
from dd.config import plugin_files
from dd.contracts import Breach, blame, check_call, check_shape, said, within
from dd.errors import DDError, is_out_of_memory
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
            plug-in whose class has other options than its file, or gives other logits.
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
            raise Breach(f"is no dd.networks.base.Network, but {type(network)}")
        if not hasattr(network, "classifier"):
            raise Breach(f"{type(network).__name__} must set self.classifier, a linear layer")
        return network

    with within(str(entry) if entry else f"network '{spec}'"):
        network = made_empty(make, device)
        if entry:
            chosen = tuple(options.items())
            _check_logits(NETWORKS[name], channels, size, classes, width_factor, chosen)
        if generator is None:
            _clear(network)
        else:
            initialise(network, generator)
    return network


def check_options(entry: Entry) -> None:
    """Raise a :class:`DDError` if the class of a plug-in's network does not take what a network
    takes, or has other options than its file."""
    make = NETWORKS[entry.name]
    parameters = [*signature(make).parameters.values()]
    positional = [one for one in parameters if one.kind in _POSITIONAL]
    given = [one.name for one in positional[:4]]
    own = [*positional[4:], *(one for one in parameters if one.kind is Parameter.KEYWORD_ONLY)]
    any_other = any(one.kind is Parameter.VAR_KEYWORD for one in parameters)
    known = {name: option.default for name, option in options_of(entry.name).items()}
    taken = {one.name: MISSING if one.default is Parameter.empty else one.default for one in own}
    plugin_files.check_defaults(entry, known, taken, lambda key: any_other and key not in given)
    with within(str(entry)):
        check_call("its class", make, _GIVEN, known)


@cache
def _check_logits(
    make: Callable[..., Network],
    channels: int,
    size: tuple[int, int],
    classes: int,
    width_factor: float,
    options: tuple[tuple[str, int | str], ...],
) -> None:
    """Raise a :class:`Breach` unless networks give logits ``[N, classes]``: one whose parameters
    are 0 does, in a small batch on the CPU. It is tried once, and nothing is drawn."""
    network = made_empty(
        lambda: make(channels, size, classes, width_factor, **dict(options)), "cpu"
    ).eval()
    _clear(network)
    images = torch.zeros(2, channels, *size)
    try:
        with torch.no_grad():
            logits = network(images)
    except DDError:
        raise
    except Exception as error:
        # of its own code the author needs the traceback
        if is_out_of_memory(error) or blame(error):
            raise
        raise Breach(f"it fails on images {list(images.shape)}: {said(error)}") from None
    check_shape("its answer to 2 images, their logits,", logits, (2, classes))


def _clear(network: Network) -> None:
    for tensor in network.state_dict().values():
        tensor.zero_()


_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_GIVEN = ("channels", "size", "classes", "width_factor")
