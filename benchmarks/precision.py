"""How much faster the suite is in bf16 (or, on a GPU, in TF32) than in float32.

It measures the rows of :mod:`benchmarks.speed` that a lower precision changes. Both sides are the
suite, with its allocator settings, each in its own process; they take turns. The program writes
one JSON file, and ``python -m benchmarks.report`` puts it into the README. What a lower precision
does to accuracies is another question (``docs/discrepancies.md``).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.speed import measure_rows, opening, parser, synthetic_data
from benchmarks.work import ROWS
from dd.errors import DDError
from dd.runtime.precision import BF16, TF32
from dd.runtime.process import setup

MEASURED = [key for key in ROWS if not key.startswith("mtt")]  # its steps stay float32


def sides(lower: str) -> dict[str, tuple[str, str]]:
    """Side and allocator of both columns; the ratios are those of ``suite``, in ``lower``."""
    return {"float32": ("suite", "tuned"), "suite": (lower, "tuned")}


def main() -> None:
    """Measure and write."""
    own = parser("precision", __doc__)
    own.add_argument("--precision", choices=(BF16, TF32), default=BF16)
    own.add_argument("--epochs", type=int, default=10, help="epochs measured at a time (10)")
    own.add_argument(
        "--rows", nargs="+", choices=MEASURED, default=MEASURED, help="rows to measure"
    )
    options = own.parse_args()
    try:
        run(options)
    except DDError as error:
        sys.exit(f"error: {error}")


def run(options: argparse.Namespace) -> None:
    """Measure the rows of ``--rows``."""
    device = setup(options.device, options.threads, options.precision)
    facts = opening("precision", options, device) | {"precision": options.precision, "rows": []}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "random.safetensors"
        synthetic_data(data)
        measure_rows(
            facts,
            {key: ROWS[key] for key in options.rows},
            sides(options.precision),
            options.out,
            lambda row: f"{options.precision} {row['ratios']['float32']} x as fast",
            data=data,
            device=device,
            epochs=options.epochs,
        )


if __name__ == "__main__":
    main()
