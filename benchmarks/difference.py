"""How far two evaluations of the same networks differ: mean accuracy and its 95 % interval.

    python -m benchmarks.difference float32.csv bf16.csv

Both files are of ``python -m dd evaluate``. A network of one is compared with that of the same
architecture and seed of the other: both began with the same weights. The interval is Student's, for
the mean of these differences.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dd.artifacts.text import load_rows
from dd.errors import DDError
from dd.report import intervals

LEVEL = 0.95


class Difference(NamedTuple):
    """Two evaluations of one architecture: ``first`` and ``second`` are mean accuracies in percent,
    ``mean`` is second minus first, ``half`` half the width of the interval; all in points."""

    count: int
    first: float
    second: float
    mean: float
    half: float


def difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """The difference of the accuracies of at least two networks, given in the same order."""
    changes = intervals.mean([b - a for a, b in zip(first, second, strict=True)])
    low, high = changes.interval(LEVEL) or (changes.value, changes.value)
    return Difference(
        len(first),
        statistics.fmean(first),
        statistics.fmean(second),
        changes.value,
        (high - low) / 2,
    )


def differences(first: Path, second: Path) -> dict[str, Difference]:
    """By architecture, how far the networks of the file ``second`` are from those of ``first``.

    Raises:
        DDError: if a network is in one of them only, or an architecture has fewer than two.
    """
    found = [_accuracies(path) for path in (first, second)]
    if found[0].keys() != found[1].keys():
        raise DDError(f"{second}: its networks and seeds are not those of {first}")
    by_arch: dict[str, list[tuple[float, float]]] = {}
    for (arch, seed), accuracy in found[0].items():
        by_arch.setdefault(arch, []).append((accuracy, found[1][arch, seed]))
    for arch, pairs in by_arch.items():
        if len(pairs) < 2:
            raise DDError(f"{first}: has {len(pairs)} network of {arch}, 2 are needed")
    return {arch: difference(*zip(*pairs, strict=True)) for arch, pairs in by_arch.items()}


def _accuracies(path: Path) -> dict[tuple[str, str], float]:
    try:
        return {(r["arch"], r["seed"]): float(r["accuracy"]) for r in load_rows(path)}
    except (KeyError, ValueError):
        raise DDError(f"{path}: is no file of `python -m dd evaluate`") from None


def main() -> None:
    """Print a line for each architecture."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.difference",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("first", type=Path, help="CSV of an evaluation")
    parser.add_argument("second", type=Path, help="CSV of the other one")
    options = parser.parse_args()
    try:
        for arch, d in differences(options.first, options.second).items():
            print(
                f"{arch}: {d.first:.2f} and {d.second:.2f} %, difference {d.mean:+.2f} "
                f"± {d.half:.2f} points (n={d.count})"
            )
    except DDError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
