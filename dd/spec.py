"""Names of methods and of evaluation protocols, as they stand in tables and in paths.

A method is ``<objective>[+<modifier>...]`` (``dc``, ``dc+pool-various``); a protocol is
``<name>[@<option>=<value>,...]`` (``hard``, ``kd@temperature=0.5``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from dd.errors import DDError, unknown
from dd.recipes import objectives


@dataclass(frozen=True)
class Spec:
    """A method: the objective, and the choices that differ from the default.

    Attributes:
        objective: ``dc``, ``dm``, ...
        pool: the pool that networks are drawn from, or None: the dataset's ConvNet alone.
    """

    objective: str
    pool: str | None = None

    def __str__(self) -> str:
        return "+".join(part for part in (self.objective, self.pool) if part)


def parse(text: str, pools: Collection[str] = ()) -> Spec:
    """The method called ``text``.

    Args:
        text: ``<objective>[+<modifier>...]``.
        pools: the names of the pools there are; a modifier that is one of them is the network
            source.

    Raises:
        DDError: for an unknown objective or modifier, or two network sources.
    """
    objective, *modifiers = text.split("+")
    if objective not in objectives():
        raise unknown("objective", objective, objectives())
    for modifier in modifiers:
        if modifier not in pools:
            raise unknown(f"modifier of spec '{text}'", modifier, pools)
    if len(modifiers) > 1:
        raise DDError(f"spec '{text}': it names {len(modifiers)} network sources, at most one fits")
    return Spec(objective, *modifiers)


@dataclass(frozen=True)
class Protocol:
    """An evaluation protocol: its canonical name and the options of ``python -m dd evaluate``."""

    name: str
    options: Mapping[str, Any]

    def __str__(self) -> str:
        return self.name


def parse_protocol(
    text: str, protocols: Mapping[str, Mapping[str, Any]], **overrides: Any
) -> Protocol:
    """The protocol called ``text``, with further ``overrides`` of its options.

    The canonical name lists, in alphabetical order, only the options that differ from the
    definition: ``kd@temperature=3`` is ``kd`` where 3 is what ``kd`` has anyway.

    Args:
        text: ``<name>[@<option>=<value>,...]``.
        protocols: the definitions by name (``workflow/config/protocols.yaml``).

    Raises:
        DDError: for an unknown protocol or option, or a value of another type.
    """
    name, _, tail = text.partition("@")
    if name not in protocols:
        raise unknown("protocol", name, protocols)
    defaults = protocols[name]
    given: dict[str, Any] = {}
    for part in filter(None, tail.split(",")):
        option, equals, value = part.partition("=")
        if not equals:
            raise DDError(f"protocol '{text}': '{part}' must be OPTION=VALUE")
        given[option] = value
    options = dict(defaults)
    for option, value in (given | overrides).items():
        if option not in defaults:
            raise unknown(f"option of protocol '{name}'", option, defaults)
        options[option] = _like(defaults[option], value, f"protocol '{text}': {option}")
    changed = [
        f"{option}={format_value(options[option])}"
        for option in sorted(options)
        if options[option] != defaults[option]
    ]
    return Protocol("@".join(filter(None, (name, ",".join(changed)))), options)


def format_value(value: Any) -> str:
    """A value as it stands in paths and tables: 3.0 is ``3``."""
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _like(default: Any, value: Any, what: str) -> Any:
    if not isinstance(default, (int, float)):
        return str(value)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise DDError(f"{what} is {value!r}, it must be a number") from None
