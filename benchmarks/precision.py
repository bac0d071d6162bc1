"""How much faster the suite is in bf16 (or, on a GPU, in TF32) than in float32.

It measures the rows of :mod:`benchmarks.speed` that a lower precision changes. Both sides are the
suite, with its allocator settings, each in its own process; they take turns. The program writes
one JSON file, and ``python -m benchmarks.report`` puts it into the README. What a lower precision
does to accuracies is another question (``docs/discrepancies.md``).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed import machine, measure, synthetic_data
from benchmarks.work import ROWS
from dd.artifacts.provenance import provenance
from dd.artifacts.text import save_json
from dd.errors import DDError
from dd.runtime.precision import BF16, TF32
from dd.runtime.process import add_machine_options, setup

MEASURED = [key for key in ROWS if not key.startswith("mtt")]  # its steps stay float32


def sides(lower: str) -> dict[str, tuple[str, str]]:
    """Side and allocator of both columns; the ratios are those of ``suite``, in ``lower``."""
    return {"float32": ("suite", "tuned"), "suite": (lower, "tuned")}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.precision",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_machine_options(parser)
    parser.add_argument("--precision", choices=(BF16, TF32), default=BF16)
    parser.add_argument("--repeats", type=int, default=5, help="rounds; the median counts")
    parser.add_argument("--epochs", type=int, default=10, help="epochs measured at a time")
    parser.add_argument(
        "--rows", nargs="+", choices=MEASURED, default=MEASURED, help="rows to measure"
    )
    parser.add_argument("--note", default="", help="what else ran on the machine")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON to write")
    options = parser.parse_args()
    try:
        run(options)
    except DDError as error:
        sys.exit(f"error: {error}")


def run(options: argparse.Namespace) -> None:
    """Measure the rows of ``--rows``. The file is written after each row, so little can be lost."""
    device = setup(options.device, options.threads, options.precision)
    facts: dict[str, Any] = {
        "kind": "precision",
        "provenance": provenance(machine=machine(device)),
        "note": options.note,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "repeats": options.repeats,
        "precision": options.precision,
        "rows": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "random.safetensors"
        synthetic_data(data)
        for key in options.rows:
            row = measure(
                ROWS[key],
                sides(options.precision),
                options.repeats,
                data=data,
                device=device,
                threads=torch.get_num_threads(),
                epochs=options.epochs,
            )
            facts["rows"].append(row)
            facts["load_after"] = [round(load, 2) for load in os.getloadavg()]
            save_json(options.out, facts)
            print(f"{key}: {options.precision} {row['ratios']['float32']} x as fast", flush=True)


if __name__ == "__main__":
    main()
