"""The names of networks and their options, as in ``convnet:depth=1,norm=batch``.

This module checks a name without building the network, because a run is planned without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from dd import plugins
from dd.config import plugin_files
from dd.errors import DDError, unknown
from dd.plugins import Entry

RELU, KEPT = "relu", "none"
RECTIFY = (RELU, KEPT)
"""How class activation maps treat negative values: set to 0, or kept."""

NORMS = ("instance", "batch", "layer", "group", "none")
ACTIVATIONS = ("relu", "sigmoid", "leakyrelu", "swish")
POOLINGS = ("avg", "max", "none")


@dataclass(frozen=True)
class Option:
    """An option of a network.

    Attributes:
        default: its value in the paper's network; 0 if that depends on the size of the images.
        choices: the allowed values; empty: whole numbers from 1.
    """

    default: int | str
    choices: tuple[str, ...] = ()
    most: int = 10**5


OPTIONS: Mapping[str, Mapping[str, Option]] = {
    "alexnet": {},
    "alexnet_tv": {},
    "convnet": {
        "depth": Option(0, most=64),
        "width": Option(128),
        "growth": Option(1, most=8),
        "norm": Option("instance", NORMS),
        "activation": Option("relu", ACTIVATIONS),
        "pooling": Option("avg", POOLINGS),
    },
    "googlenet": {},
    "lenet": {},
    "mlp": {"width": Option(128)},
    "resnet18": {},
    "resnet18_ap": {},
    "resnet18_bn": {},
    "resnet18_tv": {},
    "vgg11": {},
    "vgg11_bn": {},
    "vgg11_tv": {},
    "vit": {
        "depth": Option(6, most=200),
        "width": Option(192),
        "heads": Option(3),
        "patch": Option(0),
    },
    "vit_b_16": {},
}
"""The options of each network in ``dd/networks/architectures``."""


def options_of(name: str) -> Mapping[str, Option]:
    """The options of the network called ``name``, of this suite or of a plug-in.

    Raises:
        DDError: for an unknown network, or a name that two have.
    """
    entry = plugins.find(name, ("network",), OPTIONS)
    if entry is not None:
        return _of_plugin(entry)
    if name not in OPTIONS:
        raise unknown("network", name, (*OPTIONS, *plugins.catalogue().names("network")))
    return OPTIONS[name]


@cache
def _of_plugin(entry: Entry) -> Mapping[str, Option]:
    """The options of a network of a plug-in.

    In its file, an option is its default, a whole number, or the list of its choices, the default
    first.
    """
    return {
        name: Option(given[0], tuple(given)) if isinstance(given, list) else Option(given)
        for name, given in plugin_files.described(entry).items()
    }


def parse(spec: str) -> tuple[str, dict[str, int | str]]:
    """Split ``NAME`` or ``NAME:key=value,key=value`` into the name and the given options.

    >>> parse("convnet:depth=1,norm=batch")
    ('convnet', {'depth': 1, 'norm': 'batch'})

    Raises:
        DDError: for an unknown network or option, or a value that the option does not allow.
    """
    name, colon, rest = spec.partition(":")
    known = options_of(name)
    given: dict[str, int | str] = {}
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
        given[key] = _value(spec, key, text, known[key])
    return name, given


LARGEST = 10**6  # for sides, classes and factors: a larger value must be an error


def width_factor(text: str) -> float:
    """The type of ``--width-factor`` for argparse.

    Raises:
        DDError: if it is no number, not positive, or absurdly large.
    """
    try:
        value = float(text)
    except ValueError:
        raise DDError(f"--width-factor is {text!r}, it must be a number") from None
    if not 0 < value <= LARGEST:
        raise DDError(f"width_factor is {value}, it must be positive and at most {LARGEST}")
    return value


def canonical(spec: str) -> str:
    """The canonical way to write a network: options sorted, those with default values left out.

    >>> canonical("convnet:width=64,norm=instance")
    'convnet:width=64'
    """
    name, given = parse(spec)
    known = options_of(name)
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


def _value(spec: str, key: str, text: str, option: Option) -> int | str:
    if option.choices:
        if text not in option.choices:
            raise unknown(f"{key} in '{spec}'", text, option.choices)
        return text
    if not text.isdecimal() or not text.strip("0"):
        raise DDError(f"network '{spec}': {key} is '{text}', it must be a whole number from 1")
    if len(text) > len(str(option.most)) or int(text) > option.most:  # Python reads 4300 digits
        raise DDError(f"network '{spec}': {key} is '{text}', it must be at most {option.most}")
    return int(text)
