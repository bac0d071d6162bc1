"""Settings of a method: dataclasses whose fields say what they mean and what is allowed.

A field is made by :func:`setting`; the command line, the recipes and the provenance all read the
same declaration, so a new method declares its settings once, in its own file.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, get_type_hints

from dd.errors import DDError, unknown

S = TypeVar("S")

Declared = dict[str, tuple[dataclasses.Field, str]]
"""Settings by name: a field that has the type, and what the setting means."""


def setting(
    help: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    choices: tuple[str, ...] = (),
    check: Callable[[Any], Any] | None = None,
    default: Any = dataclasses.MISSING,
) -> Any:
    """A dataclass field with its explanation (unit included) and the values it may take."""
    rules = {"at_least": at_least, "above": above, "at_most": at_most, "choices": choices}
    return dataclasses.field(default=default, metadata={"help": help, "check": check, **rules})


def build(cls: type[S], values: Mapping[str, Any], where: str) -> S:
    """An instance of the settings dataclass ``cls`` from ``values``.

    Args:
        cls: the dataclass; its type hints (int, float, str) are enforced.
        values: one value a field.
        where: what the values belong to, for messages (``dc``, a file name).

    Raises:
        DDError: for an unknown, missing, wrongly typed or disallowed value, naming it.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            raise unknown(f"setting of {where}", name, fields)
    hints = get_type_hints(cls)
    checked = {}
    for name, field in fields.items():
        if name not in values:
            if field.default is not dataclasses.MISSING:
                continue
            raise DDError(f"{where}: setting '{name}' is missing ({field.metadata['help']})")
        checked[name] = _checked(where, name, values[name], hints[name], field.metadata)
    return cls(**checked)


def _checked(where: str, name: str, value: Any, kind: type, rules: Mapping[str, Any]) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is float and number:
        value = float(value)
    if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
        raise DDError(f"{where}: {name} is {value!r}, it must be {_KINDS[kind]}")
    if kind is float and not abs(value) <= _LARGEST:
        raise DDError(f"{where}: {name} is {value!r}, it must be a number that float32 can hold")
    for rule, broken, text in (
        ("at_least", lambda limit: not value >= limit, "at least"),
        ("above", lambda limit: not value > limit, "above"),
        ("at_most", lambda limit: not value <= limit, "at most"),
    ):
        if rules.get(rule) is not None and broken(rules[rule]):
            raise DDError(f"{where}: {name} is {value!r}, it must be {text} {rules[rule]}")
    if rules.get("choices") and value not in rules["choices"]:
        raise unknown(f"{name} of {where}", value, rules["choices"])
    if rules.get("check"):
        rules["check"](value)
    return value


def kind_of(field: dataclasses.Field) -> type:
    """The type of a field made by :func:`setting`: int, float or str."""
    return _TYPES[str(field.type)]


def declared(cls: type) -> Declared:
    """The settings of the dataclass ``cls``."""
    return {field.name: (field, field.metadata["help"]) for field in dataclasses.fields(cls)}


def add_recipe_options(
    parser: argparse.ArgumentParser, fields: Declared, skip: tuple[str, ...] = ()
) -> None:
    """:func:`add_options` of a stage whose settings come from its recipe where not given."""
    group = parser.add_argument_group("settings (default: the recipe's, dd/config/recipes.yaml)")
    add_options(group, fields, skip)


def add_options(
    parser: argparse._ActionsContainer, fields: Declared, skip: tuple[str, ...] = ()
) -> None:
    """Command-line options for settings, left out of the namespace where not given.

    Args:
        skip: names that the command line says otherwise.
    """
    for name, (field, text) in sorted(fields.items()):
        if name not in skip:
            parser.add_argument(
                "--" + name.replace("_", "-"),
                type=kind_of(field),
                default=argparse.SUPPRESS,
                help=text,
            )


def given_settings(names: Iterable[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the settings ``names`` that are among the ``options`` of a command line."""
    return {name: options[name] for name in names if name in options}


_LARGEST = 3.4e38  # of float32, the type of images and parameters; NaN is not below it either
_TYPES = {"int": int, "float": float, "str": str}
_KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
