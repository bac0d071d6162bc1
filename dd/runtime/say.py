"""Lines for people on standard output."""

from __future__ import annotations

from dd.errors import printable


def say(text: str) -> None:
    """Print ``text`` as one line, at once.

    It may hold names from files of others, so control characters are written as escapes: they must
    neither act on the terminal nor look like another line.
    """
    print(printable(text), flush=True)
