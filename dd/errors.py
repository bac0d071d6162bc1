"""Errors that the user can correct: one line that says what is wrong, where, and what is right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DDError(Exception):
    """Bad input. ``python -m dd`` prints it as one line and exits with status 2."""


class Divergence(DDError):
    """The computation diverged under the given settings: a loss is NaN, a learned rate exploded."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, or torch on the CPU or a GPU, raised it because memory ran out."""
    return isinstance(error, MemoryError) or any(phrase in str(error) for phrase in _NO_MEMORY)


_NO_MEMORY = ("out of memory", "can't allocate memory", "Cannot allocate memory", "bad_alloc")


def printable(text: str) -> str:
    """``text`` with control characters written as Python escapes.

    Text from a file must neither control the terminal nor break a message into two lines.
    """
    return "".join(sign if sign.isprintable() or sign == " " else repr(sign)[1:-1] for sign in text)


def unknown(what: str, name: str, known: Iterable[str]) -> DDError:
    """A :class:`DDError` for a name that is not in ``known``; it suggests the nearest one."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return DDError(f"unknown {what} '{name}': {hint}known are {', '.join(known)}")
