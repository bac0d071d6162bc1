"""Peak memory and seconds of an MTT iteration as functions of the student's steps.

The adjoint of ``dd/distill/unroll.py``, alone and with the graphs that fit into a memory, is
compared with one graph of all steps (``benchmarks/whole.py``), in the same objective with the same
network: IPC 1, settings for CIFAR-10. Each measurement has its own process. The sides take turns,
all with the allocator settings of the suite. The program writes one JSON file and a figure beside
it, and ``python -m benchmarks.report`` puts both into the README.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from matplotlib import pyplot

from benchmarks.speed import machine, measure, synthetic_data
from benchmarks.work import MEMORY, STEPS, UNROLLED
from dd.artifacts.atomic import replacing
from dd.artifacts.provenance import provenance
from dd.artifacts.text import save_json
from dd.report.figures.style import colors, use_style
from dd.runtime.process import add_machine_options, setup

SIDES = {side: (side, "tuned") for side in ("whole", "suite", "flat")}
LABELS = {
    "whole": "one graph of all steps",
    "suite": f"graphs within {MEMORY / 1e9:.1f} GB",
    "flat": "adjoint",
}


def draw(facts: dict[str, Any], path: Path) -> None:
    """Draw peak memory over steps, with a line per side, as PNG."""
    use_style()
    figure, axes = pyplot.subplots(figsize=(4.2, 2.6), layout="constrained")
    steps, color = [row["steps"] for row in facts["rows"]], colors(list(LABELS))
    for side, label in LABELS.items():
        peaks = [peak(row["sides"][side]["peak_mb"]) for row in facts["rows"]]
        axes.plot(steps, peaks, marker="o", color=color[side], label=label)
    axes.set(xlabel="Steps of the student", ylabel="Peak memory (MB)", xticks=steps)
    axes.set_ylim(bottom=0)
    axes.legend()
    with replacing(path) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})
    pyplot.close(figure)


def peak(peaks: dict[str, float]) -> float:
    """MB that torch allocated on a GPU, or without a GPU the resident memory."""
    return peaks.get("gpu", peaks["host"])


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.unrolling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_machine_options(parser)
    parser.add_argument("--repeats", type=int, default=5, help="rounds; the median counts")
    parser.add_argument(
        "--steps", type=int, nargs="+", choices=STEPS, default=STEPS, help="steps of the student"
    )
    parser.add_argument("--note", default="", help="what else ran on the machine")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON to write")
    options = parser.parse_args()
    device = setup(options.device, options.threads)
    facts: dict[str, Any] = {
        "kind": "unrolling",
        "provenance": provenance(machine=machine(device)),
        "note": options.note,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "repeats": options.repeats,
        "rows": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "random.safetensors"
        synthetic_data(data, per_class=(1, 1))  # no iteration of MTT uses real images
        for row in UNROLLED:
            steps = row.changes["student_steps"]
            if steps not in options.steps:
                continue
            measured = measure(
                row,
                SIDES,
                options.repeats,
                data=data,
                device=device,
                threads=torch.get_num_threads(),
                epochs=1,
            )
            facts["rows"].append({"steps": steps, **measured})
            facts["load_after"] = [round(load, 2) for load in os.getloadavg()]
            save_json(options.out, facts)
            numbers = (
                f"{LABELS[side]} {of['seconds']} s, {peak(of['peak_mb']):.0f} MB"
                for side, of in measured["sides"].items()
            )
            print(f"{steps} steps: {'; '.join(numbers)}", flush=True)
    draw(facts, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
