"""Settings of a method: dataclasses whose fields give their meaning and allowed values.

:func:`setting` makes a field. The command line, the recipes and the provenance all read this one
declaration, so a new method declares its settings once, in its own file.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_type_hints

from dd.errors import DDError, unknown

S = TypeVar("S")


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
    """A dataclass field with its explanation (with unit) and its allowed values."""
    rules = {"at_least": at_least, "above": above, "at_most": at_most, "choices": choices}
    return dataclasses.field(default=default, metadata={"help": help, "check": check, **rules})


def build(cls: type[S], values: Mapping[str, Any], where: str) -> S:
    """An instance of the settings dataclass ``cls`` from ``values``.

    Args:
        cls: the dataclass; its type hints (int, float, str) are enforced.
        values: a value for each field.
        where: what the values belong to, for messages (``dc``, a file name).

    Raises:
        DDError: names a value that is unknown, missing, of a wrong type or not allowed.
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


def _checked(where: str, name: str, value: Any, kind: type[Any], rules: Mapping[str, Any]) -> Any:
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


def add_options(
    parser: Any, fields: Mapping[str, tuple[dataclasses.Field, str]], skip: tuple[str, ...] = ()
) -> None:
    """Add command-line options for settings. An option that is not given is not in the namespace.

    Args:
        parser: an argparse parser or group.
        fields: for each setting name a field, which gives the type, and the help text.
        skip: settings for which the command line has another option.
    """
    for name, (field, text) in sorted(fields.items()):
        if name not in skip:
            parser.add_argument(
                "--" + name.replace("_", "-"),
                type=kind_of(field),
                default=argparse.SUPPRESS,
                help=text,
            )


_LARGEST = 3.4e38  # of float32, the type of images and parameters; NaN fails this test, too
_TYPES = {"int": int, "float": float, "str": str}
_KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
