"""The metrics of each iteration of a distillation, from its ``metrics.jsonl``."""

from __future__ import annotations

import math

import numpy

from dd.artifacts.text import parse_json, read_text
from dd.errors import DDError


def read_metric(path: str, name: str, count: int | None = None) -> numpy.ndarray:
    """The values of ``name`` in the first ``count`` iterations (None: all) of a ``metrics.jsonl``.

    Raises:
        DDError: if the file is missing, malformed or shorter, or a value is not finite.
    """
    lines = read_text(path, "JSON lines").splitlines()
    if count is not None and len(lines) < count:
        raise DDError(f"{path}: has {len(lines)} iterations, {count} are needed; distil again")
    values = []
    for number, line in enumerate(lines[:count], start=1):
        try:
            value = float(parse_json(line, path)[name])
        except (DDError, ValueError, OverflowError, TypeError, KeyError):
            value = math.nan
        if not math.isfinite(value):
            raise DDError(f"{path}: line {number} has no finite '{name}'; distil again")
        values.append(value)
    return numpy.array(values)
