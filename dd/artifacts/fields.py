"""What the fields of documents from files must hold: headers, checkpoints, records.

Files may come from elsewhere, so a reader says here what it reads. A field of another type is an
error of one line that names the file, and not a traceback from where the value is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from dd.errors import DDError

_SHOWN = 60  # characters of a value in a message


class Field(NamedTuple):
    """What a value may be.

    Attributes:
        what: in words, after "it must be".
        fits: whether a value is that.
    """

    what: str
    fits: Callable[[Any], bool]


def _text(value: Any) -> bool:
    """Whether it is text that UTF-8 can write; JSON can hold half a character (a surrogate)."""
    return isinstance(value, str) and not any("\ud800" <= sign <= "\udfff" for sign in value)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return (_whole(value) and abs(value) < 2**63) or (
        isinstance(value, float) and math.isfinite(value)
    )


TEXT = Field("text", _text)
WHOLE = Field("a whole number", _whole)
NUMBER = Field("a finite number", _number)
SECONDS = Field("a number from 0", lambda value: _number(value) and value >= 0)
PERCENT = Field("a number from 0 to 100", lambda value: _number(value) and 0 <= value <= 100)
BLOCK = Field("a block of keys", lambda value: isinstance(value, dict))


def whole(least: int, most: int | None = None) -> Field:
    """A whole number from ``least``, up to ``most`` if given."""
    what = f"a whole number from {least}" + ("" if most is None else f" to {most}")
    return Field(what, lambda v: _whole(v) and v >= least and (most is None or v <= most))


def list_of(one: Field) -> Field:
    """A list whose entries are each ``one``."""
    return Field(
        f"a list, each entry {one.what}",
        lambda value: isinstance(value, list) and all(map(one.fits, value)),
    )


def some(one: Field) -> Field:
    """``one`` (text, a list or a block), but not empty."""
    return Field(f"{one.what}, and not empty", lambda value: bool(value) and one.fits(value))


def block_of(one: Field) -> Field:
    """A block of any keys whose values are each ``one``."""
    return Field(
        f"a block of keys, each value {one.what}",
        lambda value: isinstance(value, dict) and all(map(one.fits, value.values())),
    )


def block(fields: Mapping[str, Field]) -> Field:
    """A block with at least these keys."""
    listed = ", ".join(f"{name} ({field.what})" for name, field in fields.items())
    return Field(
        f"a block with {listed}",
        lambda value: (
            isinstance(value, dict)
            and all(name in value and field.fits(value[name]) for name, field in fields.items())
        ),
    )


def optional(one: Field) -> Field:
    """``one`` or null."""
    return Field(f"{one.what}, or null", lambda value: value is None or one.fits(value))


def either(one: Field, other: Field) -> Field:
    """``one`` or ``other``."""
    return Field(f"{one.what} or {other.what}", lambda v: one.fits(v) or other.fits(v))


NAME = some(TEXT)


def both(one: Field, other: Field) -> Field:
    """``one`` and ``other``."""
    what = " and ".join(field.what for field in (one, other) if field is not BLOCK)
    return Field(what or BLOCK.what, lambda value: one.fits(value) and other.fits(value))


def check_fields(
    where: object, document: Mapping[str, Any], fields: Mapping[str, Field], place: str = ""
) -> None:
    """Raise a :class:`DDError` for a key of ``document`` that does not hold what it should.

    Args:
        where: the file.
        document: may lack some of the keys.
        fields: what each key must hold.
        place: the part of the file, for messages (``in the header``).
    """
    for name, field in fields.items():
        if name in document and not field.fits(document[name]):
            said = f" {place}" if place else ""
            raise DDError(
                f"{where}: '{name}'{said} is {shown(document[name])}, it must be {field.what}"
            )


def missing(document: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """The first of ``names`` that ``document`` lacks; None if it has all."""
    return next((name for name in names if name not in document), None)


def shown(value: Any) -> str:
    """A value from a file, short enough for a message."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # deeply nested, or a number of very many digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
