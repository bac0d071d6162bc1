"""Test accuracies with regions erased, from files of ``python -m dd erase``."""

from __future__ import annotations

from typing import Any

from dd.analyse.regions import ERASED, NOTHING
from dd.artifacts.text import load_rows
from dd.errors import DDError
from dd.report.read.maps import check_rectify

KINDS = (NOTHING, *ERASED)
NUMBERS = ("accuracy", "difference", "standard_error", "area", "images", "threshold")


def read(path: str, rectify: str, numbers: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The rows of a file of ``python -m dd erase``, with numbers as floats.

    Args:
        path: the file.
        rectify: how the maps of the run treat negative values, see
            :mod:`dd.networks.activation_maps`.
        numbers: further columns that are needed.

    Raises:
        DDError: if the file is missing, if it lacks a column or a kind of region, if a number
            cannot be read, or if its maps treat negative values in another way.
    """
    rows: list[dict[str, Any]] = list(load_rows(path))
    for row in rows:
        for name in (*NUMBERS, *numbers):
            try:
                row[name] = float(row[name])
            except (KeyError, TypeError, ValueError):
                raise DDError(
                    f"{path}: '{name}' is {row.get(name)!r}, it must be a number; erase again"
                ) from None
        check_rectify(path, row.get("rectify"), rectify)
    kinds: dict[str, set[str]] = {}
    for row in rows:
        kinds.setdefault(row.get("network", ""), set()).add(row.get("erased", ""))
    if not kinds or any(erased != set(KINDS) for erased in kinds.values()):
        raise DDError(f"{path}: each network needs the rows {', '.join(KINDS)}; erase again")
    return rows
