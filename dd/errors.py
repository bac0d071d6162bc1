"""Errors that are the user's to mend: one line that says what, where, and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DDError(Exception):
    """Bad input. ``python -m dd`` prints it as one line and exits with status 2."""


class Divergence(DDError):
    """Numbers ran away under the settings given: a loss is NaN, a learned rate has exploded."""


def printable(text: str) -> str:
    """``text`` with control characters as Python writes them: what a file says must neither steer
    the terminal nor make two lines of one."""
    return "".join(sign if sign.isprintable() or sign == " " else repr(sign)[1:-1] for sign in text)


def unknown(what: str, name: str, known: Iterable[str]) -> DDError:
    """A :class:`DDError` for a name that is not among ``known``, with the nearest one if any."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return DDError(f"unknown {what} '{name}': {hint}known are {', '.join(known)}")
