"""environment.yml and pyproject.toml ask for the same packages in the same versions."""

from __future__ import annotations

import ast
import itertools
import re
import sys
import tomllib

import yaml

from tests.support.runs import ROOT

CONDA_NAMES = {
    "torch": "pytorch",
    "matplotlib": "matplotlib-base",
    "snakemake": "snakemake-minimal",
    "seaborn": "seaborn-base",
}
PIP_ONLY = {"roc-validator"}  # not on these channels; its test skips without it
IMPORTS = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}


def ranges(requirements):
    """``{name: version range}`` of requirements such as ``numpy>=2,<3``."""
    parts = [re.fullmatch(r"([a-z0-9-]+)(.*)", text).groups() for text in requirements]
    assert len(dict(parts)) == len(parts), "a package is named twice"
    return dict(parts)


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_conda_and_pip_agree():
    asked = ranges(project()["dependencies"] + project()["optional-dependencies"]["test"])
    expected = {
        CONDA_NAMES.get(name, name): versions
        for name, versions in asked.items()
        if name not in PIP_ONLY
    }
    expected |= {"python": project()["requires-python"], "pip": ""}
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert ranges(environment["dependencies"]) == expected
    assert environment["channels"] == ["conda-forge", "bioconda", "nodefaults"]


def test_every_range_is_bounded():
    extras = project()["optional-dependencies"].values()
    for requirement in [*project()["dependencies"], *itertools.chain(*extras)]:
        assert re.fullmatch(r"[a-z0-9-]+>=[\d.]+,<[\d.]+", requirement)


def test_what_a_test_needs_of_an_extra_is_what_the_extra_asks_for():
    extras = project()["optional-dependencies"]
    assert ranges(extras["tensorboard"]).items() <= ranges(extras["test"]).items()


def test_every_import_is_a_dependency():
    """What dd/ imports is asked for, and what is asked for is imported (torchvision by name)."""
    modules = set()
    for path in (ROOT / "dd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules.add(node.module.split(".")[0])
    foreign = {IMPORTS.get(m, m) for m in modules - sys.stdlib_module_names - {"dd"}}
    # snakemake is what runs the workflow, nothing in dd/ imports it
    extra = project()["optional-dependencies"]["tensorboard"]
    assert foreign | {"snakemake"} == set(ranges(project()["dependencies"] + extra))
