"""What a job saves if a fork server starts it (``dd/runtime/fork_server.py``).

The smallest jobs of several stages, which do next to nothing, as commands in a process of their own
and as rules start them on one machine. Both take turns; the first round, in which servers import
the libraries, is not counted.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.choices import compare
from benchmarks.speed import opening, parser
from dd.artifacts.text import save_json
from dd.runtime import fork_server
from dd.runtime.process import setup

DEFINITION = "workflow/config/tables/modelpool_settings.yaml"
_SMALL = "--width-factor 0.05 --threads 1 --device cpu"
COMMANDS = {
    "prepare, digits": "prepare --source digits --threads 1 --out DIR/digits.safetensors",
    "distill, random": f"distill --data DIR/digits.safetensors --objective random --ipc 1 "
    f"--snapshots 0 {_SMALL} --out DIR/random",
    "distill, one iteration of dm": f"distill --data DIR/digits.safetensors --objective dm --ipc 1 "
    f"--snapshots 1 {_SMALL} --out DIR/dm",
    "evaluate, one step of an mlp": f"evaluate --data DIR/digits.safetensors --arch mlp "
    f"--synthetic DIR/random/it0.safetensors --networks 1 --epochs 1 {_SMALL} --out DIR/mlp.csv",
    "configure": "configure --run smoke --out DIR/config.json",
    "table": f"table --config DIR/config.json --table {DEFINITION} --out DIR/settings.csv",
}
"""In the order in which one needs the files of another."""


def run(words: Sequence[str], environment: Mapping[str, str]) -> None:
    """Carry out one command as Snakemake does: with one thread, its output elsewhere."""
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-m", "dd", *words],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**environment, **threads},
    )


def measure(repeats: int, names: Sequence[str], folder: Path) -> list[dict[str, Any]]:
    """A row for each command: seconds in a process of its own, and forked."""
    own = {name: value for name, value in os.environ.items() if name != fork_server.VARIABLE}
    served = dict(own)
    servers = fork_server.start(served)
    rows = []
    try:
        for name in names:
            words = COMMANDS[name].replace("DIR", str(folder)).split()
            ways = {
                "own": lambda words=words: run(words, own),
                "forked": lambda words=words: run(words, served),
            }
            rows.append({"command": name, **compare(ways, repeats, torch.device("cpu"))})
            print(rows[-1], flush=True)
    finally:
        fork_server.end(servers)
    return rows


def main() -> None:
    """Measure and write."""
    options = parser("starts", __doc__).parse_args()
    facts = opening("starts", options, setup(options.device, options.threads))
    with tempfile.TemporaryDirectory() as folder:
        facts["rows"] = measure(options.repeats, list(COMMANDS), Path(folder))
    facts["load_after"] = [round(load, 2) for load in os.getloadavg()]
    save_json(options.out, facts)


if __name__ == "__main__":
    main()
