"""Runs that several test files use."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from dd.run import Run, load_run

ROOT = Path(__file__).parent.parent

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
    own = {key: axes for key, axes in run.axes_for.items() if key.startswith("metadd")}
    return replace(run, axes_for=own)


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
