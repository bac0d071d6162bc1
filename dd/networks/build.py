"""Build a network from a spec such as ``convnet:depth=1,norm=batch``."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Literal, get_args, get_origin

import torch

from dd.errors import DDError, unknown
from dd.networks.architectures import NETWORKS
from dd.networks.base import Network
from dd.networks.init import initialise

Option = int | str

LARGEST = 10**6  # for sides, classes and factors: a larger value must be an error


def parse(spec: str) -> tuple[str, dict[str, Option]]:
    """Split ``NAME`` or ``NAME:key=value,key=value`` into the name and the given options.

    >>> parse("convnet:depth=1,norm=batch")
    ('convnet', {'depth': 1, 'norm': 'batch'})

    Raises:
        DDError: for an unknown network or option, or a value that the option does not allow.
    """
    name, colon, rest = spec.partition(":")
    known = _options(NETWORKS[name])
    given: dict[str, Option] = {}
    for item in rest.split(",") if colon else []:
        key, equals, text = item.partition("=")
        if not equals or not text:
            raise DDError(f"network '{spec}': '{item}' should read key=value")
        if key not in known:
            if not known:
                raise DDError(f"network '{spec}': {name} has no options, write '{name}'")
            raise unknown(f"option of {name}", key, known)
        if key in given:
            raise DDError(f"network '{spec}': {key} is given twice")
        given[key] = _value(spec, key, text, known[key].annotation)
    return name, given


def canonical(spec: str) -> str:
    """The canonical way to write a network: options sorted, those with default values left out.

    >>> canonical("convnet:width=64,norm=instance")
    'convnet:width=64'
    """
    name, given = parse(spec)
    known = _options(NETWORKS[name])
    kept = [f"{key}={given[key]}" for key in sorted(given) if given[key] != known[key].default]
    return f"{name}:{','.join(kept)}" if kept else name


def auxiliaries(joined: str) -> list[str]:
    """The canonical specs in a list joined by dots, such as ``convnet.resnet18_bn``.

    Raises:
        DDError: for a network that is unknown or named twice.
    """
    specs = [canonical(spec) for spec in joined.split(".")]
    for spec in specs:
        if specs.count(spec) > 1:
            raise DDError(f"networks '{joined}': {spec} is named twice, once is enough")
    return specs


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
        spec: see :func:`parse`.
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
    with torch.device("meta"):  # on "meta" layers draw nothing from the global state
        network = NETWORKS[name](channels, size, classes, width_factor, **options)
    if device is None:
        device = "cpu" if generator is None else generator.device
    network.to_empty(device=device)
    if generator is None:
        for tensor in network.state_dict().values():
            tensor.zero_()
    else:
        initialise(network, generator)
    return network


@cache
def _options(network: type[Network]) -> dict[str, inspect.Parameter]:
    """A network's keyword-only parameters by name (cached, since a plan asks for them often)."""
    parameters = inspect.signature(network, eval_str=True).parameters.values()
    return {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def _value(spec: str, key: str, text: str, annotation: type) -> Option:
    if get_origin(annotation) is Literal:
        if text not in get_args(annotation):
            raise unknown(f"{key} in '{spec}'", text, get_args(annotation))
        return text
    if not text.isdecimal() or int(text) < 1:
        raise DDError(f"network '{spec}': {key} is '{text}', it must be a whole number from 1")
    return int(text)
