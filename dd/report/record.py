"""The record of a finished run: code, machines, settings, and a checksum of each file.

It reads the artifacts from which the tables and figures of a run were made, and writes ``run.json``
beside them. Later ``python -m dd verify`` checks the files against it.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dd.artifacts.headers import read_header
from dd.artifacts.provenance import code_version
from dd.artifacts.text import file_digest, load_json, save_json
from dd.config.run import read_run
from dd.errors import DDError
from dd.plan.plan import Plan
from dd.runtime.say import say

LIBRARIES = ("torch", "torchvision", "numpy", "pandas", "matplotlib", "seaborn", "snakemake")


def record(config: Path) -> dict[str, Any]:
    """The content of ``run.json`` for the run with this ``config.json``.

    Raises:
        DDError: if a table or figure of the run, or a file from which they were made, is missing.
    """
    plan = Plan(read_run(config)).main
    root = config.parent
    files = [Path(path) for path in plan.files()]
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise DDError(
            f"{missing[0]}: is missing ({len(missing)} of {len(files)} files of the run); finish "
            "the run first: snakemake"
        )
    tensors = [path for path in files if path.suffix == ".safetensors"]
    origins = [header["provenance"] for header in map(read_header, tensors) if _has_origin(header)]
    run = plan.run
    return {
        "run": run.name,
        "title": run.title,
        "code": {"artifacts": _all(origins, "code"), "tables and figures": code_version()},
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "hardware": {
            "cpu": _all(origins, "cpu"),
            "cores": os.cpu_count(),
            "gpu": _all(origins, "gpu"),
            "torch": _all(origins, "torch"),
        },
        "started": min((origin["created"] for origin in origins), default=None),
        "ended": max((origin["created"] for origin in origins), default=None),
        "seeds": run.seeds,
        "networks": run.networks,
        "configuration": load_json(config),
        "files": {str(path.relative_to(root)): file_digest(path) for path in files},
    }


def _has_origin(header: dict[str, Any]) -> bool:
    """Whether a header has provenance: files from elsewhere may have none."""
    return "created" in header.get("provenance", {})


def _all(origins: Iterable[dict[str, Any]], key: str) -> list[str]:
    """The different values of ``key``, sorted."""
    return sorted({str(origin[key]) for origin in origins if key in origin})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, type=Path, help="config.json of the run")
    parser.add_argument("--out", required=True, type=Path, help="the JSON file to write")


def run(arguments: argparse.Namespace) -> None:
    """Write ``run.json``."""
    document = record(arguments.config)
    save_json(arguments.out, document)
    say(f"{arguments.out}: {len(document['files'])} files of run {document['run']}")
