"""Plug-ins as tests make them: the packages of docs/own.md, and others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from dd import plugins
from dd.config import plugin_files
from dd.distill.objectives import OBJECTIVES
from dd.distill.parametrisations import PARAMETRISATIONS
from dd.distill.regularisers import REGULARISERS
from dd.evaluate.protocols import PROTOCOLS
from dd.networks import options
from dd.networks.architectures import NETWORKS
from tests.support.recipes import forget_recipes
from tests.support.runs import ROOT

DOC = ROOT / "docs" / "own.md"
REGISTRIES = (OBJECTIVES, PARAMETRISATIONS, REGULARISERS, NETWORKS, PROTOCOLS)


def shown(section: str, kind: str) -> list[str]:
    """The blocks of code of a ``kind`` (python, yaml, toml) in a section of the page."""
    text = DOC.read_text(encoding="utf-8").partition(f"## {section}\n")[2].partition("\n## ")[0]
    return re.findall(rf"```{kind}\n(.*?)```", text, re.S)


def install(folder: Path, name: str, version: str, points: Mapping[str, Mapping[str, str]]) -> None:
    """Put into ``folder`` what an installer leaves of a package beside its code."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for group, entries in points.items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in entries.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines))


def documented_package(folder: Path) -> Path:
    """The package of the page, as an installer would leave it in ``folder``."""
    (project,) = map(tomllib.loads, shown("A plug-in", "toml"))
    package = folder / project["tool"]["setuptools"]["packages"][0]
    package.mkdir(parents=True)
    (code,), (recipe,) = (shown("An objective", kind) for kind in ("python", "yaml"))
    (package / "__init__.py").write_text(code)
    (package / "dd.yaml").write_text("recipes:\n" + textwrap.indent(recipe, "  "))
    about = project["project"]
    install(folder, about["name"], about["version"], about["entry-points"])
    return folder


def documented_module(folder: Path) -> Path:
    """``mine.py`` and ``mine.yaml`` of the page in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    sections = ("A network", "A regulariser", "A protocol")
    code = [shown(section, "python")[0] for section in sections]
    (folder / "mine.py").write_text("\n\n".join(code))
    (described,) = shown("A plug-in", "yaml")
    (folder / "mine.yaml").write_text(described)
    return folder


def python(words: Sequence[str], *folders: Path, cwd: Path = ROOT) -> str:
    """What ``python WORDS`` says in a process that finds the packages in ``folders``."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*folders, ROOT)))}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@contextmanager
def found(*folders: Path, modules: tuple[str, ...] = ()) -> Iterator[None]:
    """This process finds the packages in ``folders``, and nothing is left of them afterwards."""
    path, imported = list(sys.path), set(sys.modules)
    items = [dict(registry._items) for registry in REGISTRIES]

    def forget() -> None:
        plugins.begin()
        forget_recipes()
        for kept in (plugins.installed, plugin_files._read, options._of_plugin):
            kept.cache_clear()
        sys.path_importer_cache.clear()

    sys.path[:0] = map(str, folders)
    forget()
    try:
        plugin_files.use(modules)
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - imported:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(
                tuple(map(str, folders)) or ("-",)
            ):
                del sys.modules[name]
        for registry, kept in zip(REGISTRIES, items, strict=True):
            registry._items = kept
        forget()
