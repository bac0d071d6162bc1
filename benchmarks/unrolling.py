"""Peak memory and seconds of an iteration of MTT, or of DD, as functions of the student's steps.

The adjoint of ``dd/distill/unroll.py``, alone and with the graphs that fit into a memory, is
compared with one graph of all steps (``benchmarks/whole.py``), in the same objective with the same
network: IPC 1, settings for CIFAR-10. For DD (``--method dd``) it is compared with the graphs of
all steps, as its public code keeps them, and a batch has few real images. Each measurement has its
own process. The sides take turns, all with the allocator settings of the suite. The program writes
one JSON file and a figure beside it, and ``python -m benchmarks.report`` puts both into the README.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from matplotlib import pyplot

from benchmarks.speed import measure_rows, opening, parser, synthetic_data
from benchmarks.work import MEMORY, STEPS, UNROLLED, Row
from dd.artifacts.atomic import replacing
from dd.report.figures.style import colors, use_style
from dd.runtime.process import setup

_WHOLE = {"mtt": ("whole", "one graph of all steps"), "dd": ("every", "graphs of all steps")}
"""By method, what the adjoint is compared with: a side of :mod:`benchmarks.work`, and its name."""


def sides(method: str) -> dict[str, tuple[str, str]]:
    """The sides that are measured, each with its allocator."""
    chosen = {"whole": _WHOLE[method][0], "suite": "suite", "flat": "flat"}
    return {label: (side, "tuned") for label, side in chosen.items()}


def labels(method: str) -> dict[str, str]:
    """The names of the sides."""
    return {
        "whole": _WHOLE[method][1],
        "suite": f"graphs within {MEMORY / 1e9:.1f} GB",
        "flat": "adjoint",
    }


def draw(facts: dict[str, Any], path: Path) -> None:
    """Draw peak memory over steps, with a line per side, as PNG."""
    use_style()
    named = labels(facts["method"])
    figure, axes = pyplot.subplots(figsize=(4.2, 2.6), layout="constrained")
    steps, color = [row["steps"] for row in facts["rows"]], colors(list(named))
    for side, label in named.items():
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


def steps(row: Row) -> int:
    """The steps of the student in ``row``."""
    (count,) = row.changes.values()
    return count


def told(row: dict[str, Any]) -> str:
    """Seconds and memory of each side of a row."""
    return "; ".join(
        f"{side} {of['seconds']} s, {peak(of['peak_mb']):.0f} MB"
        for side, of in row["sides"].items()
    )


def main() -> None:
    """Measure and write."""
    own = parser("unrolling", __doc__)
    own.add_argument(
        "--steps", type=int, nargs="+", choices=STEPS, default=STEPS, help="steps of the student"
    )
    own.add_argument("--method", choices=list(_WHOLE), default="mtt", help="whose steps")
    options = own.parse_args()
    device = setup(options.device, options.threads)
    method = options.method
    facts = opening("unrolling", options, device) | {"method": method, "rows": []}
    chosen = {steps(row): row for row in UNROLLED if row.name == method}
    rows = {f"{count} steps": chosen[count] for count in options.steps}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "random.safetensors"
        # no iteration of MTT uses real images
        synthetic_data(data, per_class=(1 if method == "mtt" else 13, 1))
        measure_rows(
            facts,
            rows,
            sides(method),
            options.out,
            told,
            lambda row: {"steps": steps(row)},
            data=data,
            device=device,
            epochs=1,
        )
    draw(facts, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
