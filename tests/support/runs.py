"""Runs that several test files use."""

import re
import shutil
import subprocess
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.cbook import is_math_text
from matplotlib.figure import Figure
from matplotlib.text import Text

from dd.config.run import Run, load_run
from dd.plan.exhibits import Exhibit
from dd.report.figures.style import save

ROOT = Path(__file__).parents[2]

TINY = """
title: two distillations
datasets: {digits: {source: digits, label: digits}}
width_factor: 0.0625
seeds: [0]
networks: 1
axes: {ipc: [1], iterations: [1], setting: [baseline, pool], arch: [mlp]}
recipes: {dc: {batch_real: 8}, evaluation: {epochs: 2}}
tables: [modelpool_taxonomy, modelpool_settings, modelpool_ablation]
figures: []
resources:
  prepare: {threads: 1, mem_mb: 1000, runtime: 5}
  distill: {threads: 1, mem_mb: 2000, runtime: 10}
  evaluate: {threads: 1, mem_mb: 2000, runtime: 10}
"""


def every_ipc(name: str, overrides: dict[str, Any] | None = None) -> Run:
    """The run ``name`` with Model Pool and IADD at every IPC, whatever it narrows them to."""
    run = load_run(name, overrides)
    narrowed = ("modelpool", "iadd")
    own = {key: axes for key, axes in run.axes_for.items() if not key.startswith(narrowed)}
    return replace(run, axes_for=own)


FORMULA = r"$\frac{$"  # no formula that matplotlib could draw


def with_formulas(exhibit: Exhibit) -> Exhibit:
    """The same table or figure where title, caption, datasets, axes and their values have names
    with :data:`FORMULA` in them, wherever a person may choose them."""

    def named(axis: str) -> str:
        return f"{axis}{FORMULA}" if axis in chosen else axis

    def renamed(axes: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {
            named(axis): [f"{FORMULA}{v}" for v in values] if axis in chosen else values
            for axis, values in axes.items()
        }

    definition, run = dict(exhibit.definition), exhibit.run
    axes = definition.get("axes", {})
    chosen = [axis for axis, values in axes.items() if isinstance(values, dict)]
    definition |= {"title": f"title {FORMULA}", "caption": f"caption {FORMULA}"}
    definition.pop("published", None)
    if axes:
        definition["axes"] = {
            named(axis): {f"{FORMULA}{name}": binds for name, binds in values.items()}
            if axis in chosen
            else values
            for axis, values in axes.items()
        }
        layout = definition["layout"].items()
        definition["layout"] = {part: [named(axis) for axis in on] for part, on in layout}
        definition["exclude"] = [renamed(rule) for rule in definition.get("exclude", [])]
    datasets = {
        name: options | {"label": f"_{options['label']} {FORMULA}"}
        for name, options in run.datasets.items()
    }
    own = renamed(run.axes) | {"dataset": list(datasets)}
    run = replace(run, datasets=datasets, axes=own, axes_for={
        name: renamed(axes) for name, axes in run.axes_for.items()
    }, stands_in_for=FORMULA)  # fmt: skip
    return replace(exhibit, definition=definition, run=run)


def assert_no_formulas(figure: Figure, shown: Collection[str], out: Path) -> None:
    """Every text of ``figure`` is drawn as it is, among them ``shown``."""
    save(figure, out)
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    for text in texts:
        said = text.get_text()
        assert not is_math_text(said) or said.startswith("$\\mathdefault{"), said  # powers of 10
    read = [text._preprocess_math(text.get_text())[0].strip() for text in texts]
    for what in shown:
        assert any(what in said for said in read), (what, read)


def flip(path: Path, position: int) -> None:
    """Flip a bit of the byte at ``position`` of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def copy_workflow(folder: Path) -> Path:
    """Put a copy of the workflow into ``folder``, to run there."""
    shutil.copytree(ROOT / "workflow", folder / "workflow")
    shutil.copy(ROOT / "Snakefile", folder)
    (folder / "profiles").symlink_to("workflow/profiles")  # where Snakemake looks for them
    (folder / "environment.yml").write_text("dependencies: [python]\n")  # named by the rules
    return folder


def tiny_run(folder: Path) -> Path:
    """Put a copy of the workflow into ``folder``, with :data:`TINY` cut down to one distillation
    and one table as ``tiny.yaml``."""
    text = TINY.replace("[baseline, pool]", "[baseline]")
    text = re.sub("^tables: .*$", "tables: [modelpool_ablation]", text, flags=re.MULTILINE)
    (copy_workflow(folder) / "tiny.yaml").write_text(text)
    return folder


def snakemake(folder: Path, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def jobs(folder: Path, *words: str) -> dict[str, int]:
    """How many jobs of each rule ``snakemake -n`` announces."""
    done = snakemake(folder, "-n", *words)
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, flags=re.MULTILINE)
    return {rule: int(count) for rule, count in lines if rule != "total"}
