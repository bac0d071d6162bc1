"""The order of the layers: imports go downwards, in no circle; plans and tables need no torch."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.runs import ROOT

LAYERS = (
    "report", "plan", "distill", "analyse", "evaluate", "pretrain", "training", "networks",
    "exchange", "data", "config", "artifacts", "runtime",
)  # fmt: skip
FLAT = ("contracts", "errors", "plugins", "registry", "rng")  # below all layers
TOP = ("__main__", "command")  # above them
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "dd").rglob("*.py"))
}
WITH_TORCH = {  # of the folders whose other files do without
    "dd.artifacts.checkpoint", "dd.artifacts.row_files", "dd.artifacts.tensors",
}  # fmt: skip


def imported(path: Path) -> set[str]:
    """The modules of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in MODULES}
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner & MODULES.keys() or {node.module}
    return found


def layer(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def test_every_folder_has_its_place():
    folders = {path.parent.name for path in (ROOT / "dd").glob("*/__init__.py")}
    assert folders == set(LAYERS)
    flat = {path.stem for path in (ROOT / "dd").glob("*.py")}
    assert flat == {"__init__", *TOP, *FLAT}


def test_imports_go_downwards():
    upwards = []
    for module, path in MODULES.items():
        own = layer(module)
        if own in ("", *TOP):
            continue
        for other in imported(path) - {"dd"}:
            up = layer(other) in LAYERS and (
                own in FLAT or LAYERS.index(layer(other)) < LAYERS.index(own)
            )
            if up or layer(other) in TOP:
                upwards.append(f"{module} imports {other}")
    assert not upwards


def test_no_circle_of_imports():
    graph = {module: imported(path) - {module} for module, path in MODULES.items()}
    for module in graph:  # a package's __init__ that imports its files is no circle of theirs
        graph[module] -= {name for name in graph[module] if module.startswith(f"{name}.")}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, with the circle


def test_layers_have_empty_init_files():
    for name in LAYERS:
        assert not (ROOT / "dd" / name / "__init__.py").read_text(encoding="utf-8"), name


def without_torch() -> list[str]:
    """What plans a run and renders a table."""
    folders = ("dd.config.", "dd.artifacts.", "dd.plan.", "dd.report.tables.", "dd.report.read.")
    plain = [name for name in MODULES if name.startswith(folders) and name not in WITH_TORCH]
    pages = (
        "table", "captions", "fallbacks", "index", "record", "crate", "verify", "export_metrics",
        "labels", "sheet",
    )  # fmt: skip
    return [*plain, *(f"dd.report.{name}" for name in pages), "dd.networks.options", "dd.command"]


BLOCK = """
import importlib, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "matplotlib", "rocrate", "tensorboard"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
"""


@pytest.mark.parametrize("module", ["torch", "matplotlib", "rocrate", "tensorboard"])
def test_the_block_blocks(module):
    code = f"{BLOCK}\nimport {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and f"{module} is blocked" in done.stderr


def test_planning_and_tables_need_neither_torch_nor_matplotlib(tmp_path):
    code = f"""{BLOCK}
for name in {without_torch()!r}:
    importlib.import_module(name)
from dd.config.run import load_run
from dd.plan.kinds import inputs
from dd.plan.plan import Plan
from dd.report.table import render, write
from pathlib import Path

plan = Plan(load_run("smoke"))
assert plan.files() and plan.document()
for exhibit in plan.exhibits.values():
    assert isinstance(inputs(exhibit, plan.jobs), list)
for name in ("modelpool_taxonomy", "iadd_hyperparameters", "modelpool_settings"):
    write(Path({str(tmp_path)!r}, f"{{name}}.csv"), *render(plan.exhibits["table", name]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.iterdir())) == 3 * 4
