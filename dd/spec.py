"""Names of methods and of evaluation protocols, as they stand in tables and in paths.

A method is ``<objective>[@<setting>=<value>,...][+<modifier>...]`` (``dc``, ``dc+pool-various``,
``iadd@weights=raw``); a protocol is ``<name>[@<option>=<value>,...]`` (``hard``,
``kd@temperature=0.5``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from dd.errors import DDError, unknown
from dd.recipes import objectives, resolve


@dataclass(frozen=True)
class Spec:
    """A method: the objective, and the choices that differ from the default.

    Attributes:
        objective: ``dc``, ``dm``, ...
        pool: the pool that networks are drawn from, or None: the dataset's ConvNet alone.
        settings: of the objective, where they differ from the run's.
    """

    objective: str
    pool: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        chosen = ",".join(f"{k}={format_value(v)}" for k, v in sorted(self.settings.items()))
        method = f"{self.objective}@{chosen}" if chosen else self.objective
        return f"{method}+{self.pool}" if self.pool else method


def parse(text: str, pools: Collection[str] = ()) -> Spec:
    """The method called ``text``.

    Args:
        text: ``<objective>[@<setting>=<value>,...][+<modifier>...]``.
        pools: the names of the pools there are; a modifier that is one of them is the network
            source.

    Raises:
        DDError: for an unknown objective, setting or modifier, or two network sources.
    """
    method, *modifiers = text.split("+")
    objective, _, tail = method.partition("@")
    if objective not in objectives():
        raise unknown("objective", objective, objectives())
    for modifier in modifiers:
        if modifier not in pools:
            raise unknown(f"modifier of spec '{text}'", modifier, pools)
    if len(modifiers) > 1:
        raise DDError(f"spec '{text}': it names {len(modifiers)} network sources, at most one fits")
    known = resolve(objective, "", 1)  # names and types: those of any dataset and IPC
    given = _assignments(tail, f"spec '{text}'")
    for name, value in given.items():
        if name not in known:
            raise unknown(f"setting of {objective}", name, known)
        given[name] = _like(known[name], value, f"spec '{text}': {name}")
    return Spec(objective, *modifiers, settings=given)


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
    given = _assignments(tail, f"protocol '{text}'")
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


def _assignments(text: str, where: str) -> dict[str, Any]:
    """``NAME=VALUE,...`` as a mapping."""
    given: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not equals:
            raise DDError(f"{where}: '{part}' must be NAME=VALUE")
        given[name] = value
    return given


def _like(default: Any, value: Any, what: str) -> Any:
    """``value`` as the type of ``default``, where whole numbers may stand for any (3 for 3.0)."""
    if not isinstance(default, (int, float)):
        return str(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise DDError(f"{what} is {value!r}, it must be a number") from None
    return int(number) if isinstance(default, int) and number.is_integer() else number
