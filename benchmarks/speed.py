"""Seconds per iteration and peak memory of the suite, as ratios against plain loops.

For each row, each side has its own process. The sides take turns after each piece, so that drift of
the machine affects all of them. On the CPU the plain side runs twice: as people run the reference
(with the default settings of the C library's allocator), and with the allocator settings that the
suite uses for itself. The program writes one JSON file, and ``python -m benchmarks.report`` puts it
into the README.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from benchmarks.work import ROWS, Row
from dd.artifacts.provenance import provenance
from dd.artifacts.tensors import save_tensors
from dd.artifacts.text import save_json
from dd.errors import DDError, unknown
from dd.runtime.process import add_machine_options, setup

# label: (side, allocator)
CPU_SIDES = {
    "plain": ("plain", "default"),
    "plain_tuned": ("plain", "tuned"),
    "suite": ("suite", "tuned"),
}
PAIR = {name: CPU_SIDES[name] for name in ("plain", "suite")}


class Worker:
    """One side of a row, in its own process (:mod:`benchmarks.worker`).

    Workers are made before the first is entered, so all load torch and the data at the same time.
    """

    def __init__(self, **options: Any) -> None:
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Worker:
        self._line()  # ready
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait()

    def do(self, piece: str) -> dict[str, Any]:
        """Do a piece once; return ``seconds`` per unit, ``units`` done, and ``peak_mb`` so far."""
        print(piece, file=self.process.stdin, flush=True)
        return json.loads(self._line())

    def _line(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            raise DDError(f"a worker ended with status {self.process.wait()}")
        return line


def measure(row: Row, sides: dict[str, tuple[str, str]], repeats: int, **options: Any) -> dict:
    """Measure one row: all sides in turn, in ``repeats`` rounds after one that is not counted."""
    with ExitStack() as stack:
        started = {
            label: Worker(row=row.key, side=side, allocator=allocator, **options)
            for label, (side, allocator) in sides.items()
        }
        workers = {label: stack.enter_context(worker) for label, worker in started.items()}
        rounds = []
        for _ in range(repeats + 1):
            answers = {
                piece: {label: worker.do(piece) for label, worker in workers.items()}
                for piece in row.pieces
            }
            rounds.append(answers)
    return summarise(row, sides, rounds[1:])


def measure_rows(
    facts: dict[str, Any],
    rows: Mapping[str, Row],
    sides: dict[str, tuple[str, str]],
    out: Path,
    told: Callable[[dict[str, Any]], str],
    place: Callable[[Row], dict[str, Any]] = lambda row: {},
    **options: Any,
) -> None:
    """Measure rows one after the other, into ``facts["rows"]``.

    The file ``out`` is written after each row, so little can be lost.

    Args:
        facts: those of :func:`opening`.
        rows: the rows by the name that is printed.
        sides: see :data:`CPU_SIDES`.
        out: the JSON file.
        told: what to print of a measured row.
        place: what the file says of a row besides its measurements.
        options: those of a worker.
    """
    for name, row in rows.items():
        measured = measure(row, sides, facts["repeats"], threads=facts["threads"], **options)
        facts["rows"].append(place(row) | measured)
        facts["load_after"] = [round(load, 2) for load in os.getloadavg()]
        save_json(out, facts)
        print(f"{name}: {told(measured)}", flush=True)


def summarise(row: Row, sides: dict[str, tuple[str, str]], rounds: list[dict]) -> dict[str, Any]:
    """A row of the result from its rounds; ``rounds[n][piece][label]`` is an answer of a worker.

    The seconds of a unit are composed within each round. We report the median of the rounds, and
    the median of the ratios within the rounds.
    """
    composed = {
        label: [
            sum(count * answers[piece][label]["seconds"] for piece, count in row.pieces.items())
            for answers in rounds
        ]
        for label in sides
    }
    last = list(rounds[-1].values())[-1]
    result = {
        "work": row.name,
        "ipc": row.ipc,
        "unit": row.unit,
        "scaled": {
            piece: {
                "occurs": count,
                "measured": {label: rounds[0][piece][label]["units"] for label in sides},
            }
            for piece, count in row.pieces.items()
        },
        "sides": {
            label: {
                "allocator": allocator,
                "seconds": round(statistics.median(composed[label]), 4),
                "peak_mb": last[label]["peak_mb"],
                "pieces": {
                    piece: [round(answers[piece][label]["seconds"], 5) for answers in rounds]
                    for piece in row.pieces
                },
            }
            for label, (_, allocator) in sides.items()
        },
    }
    result["ratios"] = {
        label: round(
            statistics.median(
                plain / suite
                for plain, suite in zip(composed[label], composed["suite"], strict=True)
            ),
            3,
        )
        for label in sides
        if label != "suite"
    }
    return result


def synthetic_data(path: Path, per_class: tuple[int, int] = (5000, 1000)) -> None:
    """Write a dataset of CIFAR-10's shape with random pixels. Speed does not depend on the values.

    Args:
        path: the file to write.
        per_class: number of training and test images of each of the 10 classes.
    """
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor] = {"mean": torch.full((3,), 0.5), "std": torch.full((3,), 0.3)}
    for part, count in zip(("train", "test"), per_class, strict=True):
        shape = (10 * count, 3, 32, 32)
        tensors[f"{part}_images"] = torch.randint(
            256, shape, dtype=torch.uint8, generator=generator
        )
        tensors[f"{part}_labels"] = torch.arange(10).repeat(count)
    header = {"name": "random", "label": "random pixels of CIFAR-10's shape"}
    save_tensors(path, "dataset", tensors, header)


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers depend on: processor, cores, memory, GPU, allocator, load."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "libc": " ".join(platform.libc_ver()),
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """The options that the benchmarks share."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_machine_options(made)
    made.add_argument("--repeats", type=int, default=5, help="rounds; the median counts (5)")
    made.add_argument("--note", default="", help="what else ran on the machine")
    made.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON to write")
    return made


def opening(kind: str, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """What every file of a benchmark says of its measurements, without them."""
    return {
        "kind": kind,
        "provenance": provenance(machine=machine(device)),
        "note": options.note,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "repeats": options.repeats,
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def main() -> None:
    """Measure and write."""
    own = parser("speed", __doc__)
    own.add_argument("--data", type=Path, metavar="FILE", help="prepared dataset of 32 x 32")
    own.add_argument("--epochs", type=int, default=10, help="epochs measured at a time (10)")
    own.add_argument("--quick", action="store_true", help="1 round, 2 epochs, as a trial")
    own.add_argument("--rows", nargs="+", default=list(ROWS), help="rows to measure")
    own.add_argument(
        "--no-tuned",
        action="store_true",
        help="leave out the plain side with our allocator settings, because each side holds memory",
    )
    options = own.parse_args()
    try:
        run(options)
    except DDError as error:
        sys.exit(f"error: {error}")


def run(options: argparse.Namespace) -> None:
    """Measure the rows of ``--rows``."""
    for key in options.rows:
        if key not in ROWS:
            raise unknown("row", key, ROWS)
    device = setup(options.device, options.threads)
    if options.quick:
        options.repeats, options.epochs = 1, 2
    facts = opening("speed", options, device) | {
        "data": options.data.name if options.data else "random pixels of CIFAR-10's shape",
        "rows": [],
    }

    def told(row: dict[str, Any]) -> str:
        seconds = ", ".join(f"{k} {v['seconds']} s" for k, v in row["sides"].items())
        return f"{seconds}; ratios {row['ratios']}"

    with tempfile.TemporaryDirectory() as folder:
        data = options.data or Path(folder) / "random.safetensors"
        if not options.data:
            synthetic_data(data)
        sides = CPU_SIDES if device.type == "cpu" and not options.no_tuned else PAIR
        rows = {key: ROWS[key] for key in options.rows}
        more = {"data": data, "device": device, "epochs": options.epochs}
        measure_rows(facts, rows, sides, options.out, told, **more)


if __name__ == "__main__":
    main()
