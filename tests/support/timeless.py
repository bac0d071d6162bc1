"""Rows of evaluations and erasings without what differs from one start to the next."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dd.artifacts.text import load_rows

TIMES = ("seconds", "created")


def timeless(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV without times."""
    return without_times(load_rows(path))


def without_times(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """``rows`` without times."""
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]
