"""Settings of a method: dataclasses whose fields give their meaning and allowed values.

:func:`setting` makes a field. The command line, the recipes and the provenance all read this one
declaration, so a new method declares its settings once, in its own file.

This module alone says what type a setting has and which values it may take. The type comes from the
dataclass (:func:`type_of`) or, where a document gives defaults, from the default. A value comes
from a document (:func:`as_type`) or, as text, from a command line or a method's name
(:func:`from_text`).
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import UnionType
from typing import Any, TypeVar

from dd.errors import DDError, unknown

S = TypeVar("S")

NUMBER = int | float
Type = type | UnionType
"""The type of a setting: ``int``, ``float``, ``str`` or ``NUMBER``.

``NUMBER`` is used if the default in a document is a whole number, which does not tell whether other
values must be whole numbers, too.
"""

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
    """A dataclass field with its explanation (with unit) and its allowed values."""
    rules = {"at_least": at_least, "above": above, "at_most": at_most, "choices": choices}
    return dataclasses.field(default=default, metadata={"help": help, "check": check, **rules})


def _alone(name: str, wanted: Type, default: Any = dataclasses.MISSING) -> dataclasses.Field:
    """The field of a setting that no dataclass declares."""
    field = setting("", default=default)
    field.name, field.type = name, wanted
    return field


def build(cls: type[S], values: Mapping[str, Any], where: str) -> S:
    """An instance of the settings dataclass ``cls`` from ``values``.

    Args:
        cls: the dataclass; the types of its fields (int, float, str) are enforced.
        values: a value for each field.
        where: what the values belong to, for messages (``dc``, a file name).

    Raises:
        DDError: names a value that is unknown, missing, of a wrong type or not allowed.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            raise unknown(f"setting of {where}", name, fields)
    checked = {}
    for name, field in fields.items():
        if name not in values:
            if field.default is not dataclasses.MISSING:
                continue
            raise DDError(f"{where}: setting '{name}' is missing ({field.metadata['help']})")
        value = as_type(f"{where}: {name}", values[name], type_of(field))
        checked[name] = _allowed(where, name, value, field.metadata)
    return cls(**checked)


def _allowed(where: str, name: str, value: Any, rules: Mapping[str, Any]) -> Any:
    for rule, broken, text in (
        ("at_least", lambda limit: not value >= limit, "at least"),
        ("above", lambda limit: not value > limit, "above"),
        ("at_most", lambda limit: not value <= limit, "at most"),
    ):
        if rules.get(rule) is not None and broken(rules[rule]):
            raise DDError(f"{where}: {name} is {value!r}, it must be {text} {rules[rule]}")
    if isinstance(value, int) and value > MOST:
        raise DDError(f"{where}: {name} is {value!r}, it must be at most {MOST}")
    if rules.get("choices") and value not in rules["choices"]:
        raise unknown(f"{name} of {where}", value, rules["choices"])
    if rules.get("check"):
        rules["check"](value)
    return value


def type_of(field: dataclasses.Field) -> Type:
    """The type of a field made by :func:`setting`."""
    # annotations are text in a module that imports `annotations` from __future__
    return _TYPES[field.type] if isinstance(field.type, str) else field.type


def as_type(what: str, value: Any, wanted: Type) -> Any:
    """``value`` of a document, as the type ``wanted``.

    A whole number is also accepted as ``float``. No other type is converted.

    Raises:
        DDError: if it is of another type, or a number that float32 cannot hold; the message names
            ``what``.
    """
    fits = isinstance(value, NUMBER if wanted is float else wanted)
    if not fits or isinstance(value, bool):  # true is a whole number in Python
        raise DDError(f"{what} is {value!r}, it must be {_WORDS[wanted]}")
    if wanted is not str and not abs(value) <= _LARGEST:
        raise DDError(f"{what} is {value!r}, it must be a number that float32 can hold")
    return float(value) if wanted is float else value


def from_text(what: str, text: str, wanted: Type) -> Any:
    """``text`` as a value of the type ``wanted``. 3.0 and 3e0 are whole numbers, too.

    Raises:
        DDError: see :func:`as_type`.
    """
    if wanted is str:
        return text
    try:
        value = float(text)
    except ValueError:
        raise DDError(f"{what} is {text!r}, it must be {_WORDS[wanted]}") from None
    whole = wanted is not float and value.is_integer()
    return as_type(what, int(value) if whole else value, wanted)


def at_most(option: str, most: int) -> Callable[[str], int]:
    """A type for argparse: a whole number up to ``most``, for an ``option`` that is no setting.

    Larger ones are slips of the hand, which would end in a shortage of memory.
    """

    def read(text: str) -> int:
        value = from_text(option, text, int)
        if value > most:
            raise DDError(f"{option} is {value}, it must be at most {most}")
        return value

    return read


def declared(cls: type) -> Declared:
    """The settings of the dataclass ``cls``."""
    return {field.name: (field, field.metadata["help"]) for field in dataclasses.fields(cls)}


def fault(cls: Any) -> str:
    """What is wrong with ``cls`` as a class of settings, in words; "" if nothing is."""
    if not dataclasses.is_dataclass(cls):
        return "is no dataclass"
    for field in dataclasses.fields(cls):
        if "help" not in field.metadata:
            return f"does not make '{field.name}' by dd.config.settings.setting"
        if field.type not in (*_TYPES, *_TYPES.values()):
            return f"gives '{field.name}' another type than {', '.join(_TYPES)}"
    return ""


def assumed(values: Mapping[str, Any], text: str) -> Declared:
    """Settings of which only defaults are known, such as those of a plug-in that is not imported:
    each has the type of its default (:func:`type_by`), and ``text`` as its meaning."""
    return {name: (_alone(name, type_by(value), value), text) for name, value in values.items()}


def type_by(default: Any) -> Type:
    """The type of a setting of which only a default in a document is known."""
    return NUMBER if isinstance(default, int) else type(default)


def shared(one: dataclasses.Field, other: dataclasses.Field) -> dataclasses.Field:
    """The field of a command-line option for two settings of the same name.

    If their types differ, the option is text, which :func:`given_settings` converts for the class
    that is chosen.
    """
    return one if type_of(one) == type_of(other) else _alone(one.name, str)


def add_recipe_options(
    parser: argparse.ArgumentParser, fields: Declared, skip: tuple[str, ...] = ()
) -> None:
    """Add options for settings; the value of an option that is not given comes from the recipe."""
    group = parser.add_argument_group("settings (default: the recipe's, dd/config/recipes.yaml)")
    add_options(group, fields, skip)


def add_options(
    parser: argparse._ActionsContainer, fields: Declared, skip: tuple[str, ...] = ()
) -> None:
    """Add command-line options for settings. An option that is not given is not in the namespace.

    Args:
        skip: settings for which the command line has another option.
    """
    for name, (field, text) in sorted(fields.items()):
        if name not in skip:
            option = "--" + name.replace("_", "-")
            parser.add_argument(
                option,
                type=partial(from_text, option, wanted=type_of(field)),
                default=argparse.SUPPRESS,
                help=text,
            )


def given_settings(
    names: Iterable[str], options: Mapping[str, Any], chosen: type | None = None
) -> dict[str, Any]:
    """The settings among ``names`` that the ``options`` of a command line contain.

    Args:
        names: of the settings.
        options: of the command line.
        chosen: the dataclass that takes them; an option that is text only because other classes
            give it another type (:func:`shared`) is converted.
    """
    given = {name: options[name] for name in names if name in options}
    for name, (field, _) in declared(chosen).items() if chosen else ():
        if isinstance(given.get(name), str):
            given[name] = from_text(f"--{name.replace('_', '-')}", given[name], type_of(field))
    return given


MOST = 10**7
"""The largest whole number that any setting takes; a larger one is a slip of the hand."""

_LARGEST = 3.4e38  # limit of float32, the type of images and parameters; NaN fails this test, too
_WORDS: dict[Type, str] = {
    int: "a whole number",
    float: "a number",
    NUMBER: "a number",
    str: "text",
}
_TYPES = {one.__name__: one for one in (int, float, str)}
