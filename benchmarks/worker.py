"""A process for one side of one row, so that each side has its own memory and allocator.

:mod:`benchmarks.speed` starts it. It reads the name of a piece per line from standard input, does
the piece, and answers with a line of JSON. It ends at the end of the input.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import torch

from benchmarks.work import ROWS, SIDES, UNROLLED
from dd.data.dataset import load_dataset
from dd.runtime.process import peak_memory_mb, tune_allocator


def main() -> None:
    """Answer requests until standard input ends."""
    parser = argparse.ArgumentParser()
    for name in ("--row", "--side", "--allocator", "--data", "--device"):
        parser.add_argument(name, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    options = parser.parse_args()
    if options.allocator == "tuned":
        tune_allocator()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    dataset = load_dataset(options.data, device)
    rows = ROWS | {row.key: row for row in UNROLLED}
    pieces = SIDES[options.side](rows[options.row], dataset, options.epochs)

    def synchronize() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    print("ready", flush=True)
    for line in sys.stdin:
        synchronize()
        started = time.perf_counter()
        units = pieces[line.strip()]()
        synchronize()
        seconds = (time.perf_counter() - started) / units
        answer = {"seconds": seconds, "units": units, "peak_mb": peak_memory_mb(device)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
