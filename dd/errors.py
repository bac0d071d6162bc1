"""Errors that the user can correct: one line that says what is wrong, where, and what is right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DDError(Exception):
    """Bad input. ``python -m dd`` prints it as one line and exits with status 2."""


class Divergence(DDError):
    """The computation diverged under the given settings: a loss is NaN, a learned rate exploded."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, or torch on the CPU or a GPU, raised it because memory ran out.

    Libraries may answer such an error with another one, so the errors before it count, too.
    """
    now: BaseException | None = error
    while now is not None:
        if isinstance(now, MemoryError) or no_memory(now):
            return True
        now = now.__cause__ or now.__context__
    return False


def no_memory(error: BaseException) -> str:
    """The line of a message that says that memory ran out; "" if it does not say so."""
    lines = str(error).splitlines()
    return next((line for line in lines if any(phrase in line for phrase in _NO_MEMORY)), "")


_NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "annot allocate memory",
    "bad_alloc",
    "failed to map segment",  # a library that is loaded
    "can't start new thread",  # no room for its stack
    "Resource temporarily unavailable",
)


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
