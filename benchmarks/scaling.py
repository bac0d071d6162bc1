"""The cost of the full run before it is started: jobs, arithmetic, memory, disk, time of planning.

Arithmetic is counted, not timed. A job does a few kinds of work with an image and a network (a
forward pass, a training step, a gradient of a gradient). We count the floating-point operations of
each kind and multiply them by how often the job does this work. The rows of
:mod:`benchmarks.speed` give the operations per second of the suite on a machine, and so the time
that the jobs would take there. The program writes one JSON file, and
``python -m benchmarks.report`` puts it into docs/scaling.md.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.speed import machine
from dd.artifacts.provenance import provenance
from dd.artifacts.text import load_json, save_json
from dd.config.run import Run, load_run, stated
from dd.data.extent import KNOWN
from dd.networks.operations import operations
from dd.plan.counting import Counted
from dd.plan.estimate import extents
from dd.plan.gpu_memory import GpuMemory
from dd.plan.jobs import STAGES
from dd.plan.plan import Plan

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results"
RUN = "paper"  # at width factor 1, with datasets of known size
MORE = 10  # times as many datasets


def measured_work(name: str, ipc: int | None) -> float:
    """Operations of one unit of a row of :mod:`benchmarks.speed`; all rows are on CIFAR-10."""
    data = KNOWN["cifar10"]
    count, real = data.classes * (ipc or 0), data.classes * 256
    forward, train, images, match, unroll = (
        operations(way, "convnet", data)
        for way in ("forward", "train", "images", "match", "unroll")
    )
    if name in ("dc", "dsa"):
        steps, epochs = {1: (1, 0), 10: (10, 450)}[ipc]
        return steps * (real * train + count * match) + epochs * count * train
    if name == "dm":
        return real * forward + count * images
    if name == "mtt":
        return {1: 50, 10: 30}[ipc] * count * unroll
    if name == "buffer":
        return data.train * train
    if name == "evaluation":
        return 10 * (300 * count * train + data.test * forward)
    raise ValueError(f"no rule to count {name}")


def rates(folder: Path) -> dict[str, list[tuple[str, float]]]:
    """By machine, the work of each measured row and its operations per second."""
    by_machine: dict[str, list[tuple[str, float]]] = {}
    for path in sorted(folder.glob("*.json")):
        facts = load_json(path)
        rows = {"speed": list, "gpu": lambda rows: list(rows.values())}
        if facts["kind"] not in rows:
            continue
        where = facts["provenance"]["machine"]
        name = where["gpu"] or f"{where['cores']} cores of {where['cpu']}"
        for row in rows[facts["kind"]](facts["rows"]):
            work_done = measured_work(row["work"], row["ipc"])
            label = row["work"] if row["ipc"] is None else f"{row['work']}, IPC {row['ipc']}"
            rate = work_done / row["sides"]["suite"]["seconds"]
            by_machine.setdefault(name, []).append((label, rate))
    return by_machine


def enlarged(run: Run, times: int) -> dict[str, Any]:
    """The run as YAML with each dataset ``times`` times.

    The copies have other names, so they use the general settings of all recipes.
    """
    document = stated(run)
    names = {old: [old, *(f"{old}_{n}" for n in range(1, times))] for old in run.datasets}
    document["datasets"] = {
        new: options | ({} if new == old else {"label": new})  # no two may have the same
        for old, options in run.datasets.items()
        for new in names[old]
    }
    for axes in document.get("axes_for", {}).values():
        if "dataset" in axes:
            axes["dataset"] = [new for old in axes["dataset"] for new in names[old]]
    return document


def planning(run: str, times: int) -> tuple[float, int]:
    """Seconds of a dry run of ``run`` with ``times`` the datasets, and its number of jobs."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "workflow", Path(folder, "workflow"))
        for name in ("Snakefile", "environment.yml"):
            shutil.copy(ROOT / name, folder)
        document = enlarged(load_run(run), times)
        Path(folder, "large.yaml").write_text(yaml.safe_dump(document))
        command = [sys.executable, "-m", "snakemake", "-n", "--quiet", "rules", "--cores", "2"]
        command += ["--workflow-profile", "none", "--config", "run=large.yaml"]
        started = time.monotonic()
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        seconds = time.monotonic() - started
    total = re.search(r"^total +(\d+)", done.stdout + done.stderr, flags=re.MULTILINE)
    if done.returncode or not total:
        raise RuntimeError(done.stdout + done.stderr)
    return seconds, int(total[1])


def measure(repeats: int) -> dict[str, Any]:
    """Everything that the page shows."""
    plan = Plan(load_run(RUN)).main
    counted = Counted(plan, extents(plan))
    gpu = GpuMemory(counted)
    dag = {
        str(times): [planning(RUN, times) for _ in range(repeats if times == 1 else 1)]
        for times in (1, MORE)
    }
    return {
        "kind": "scaling",
        "provenance": provenance(machine=machine(torch.device("cpu"))),
        "run": RUN,
        "stages": counted.stages,
        "objectives": counted.objectives,
        "sizes": counted.sizes,
        "gpu_memory": {
            stage.stage: gpu.largest(plan.of(stage))._asdict() for stage in STAGES if plan.of(stage)
        },
        "gpu_training": gpu.training(),
        "rates": rates(RESULTS),
        "planning": {
            times: {"seconds": statistics.median(s for s, _ in plans), "jobs": plans[0][1]}
            for times, plans in dag.items()
        },
    }


def main() -> None:
    """Count, measure and write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--repeats", type=int, default=3, help="dry runs; the median counts")
    parser.add_argument("--note", default="", help="what else ran on the machine")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON to write")
    options = parser.parse_args()
    facts = measure(options.repeats) | {
        "note": options.note,
        "threads": torch.get_num_threads(),
        "repeats": options.repeats,
        "load_after": [round(load, 2) for load in os.getloadavg()],
    }
    save_json(options.out, facts)
    for times, plan in facts["planning"].items():
        print(f"{times} x the datasets: {plan['jobs']} jobs, planned in {plan['seconds']:.1f} s")


if __name__ == "__main__":
    main()
