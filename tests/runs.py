"""Runs that several test files use."""

from dataclasses import replace
from typing import Any

from dd.run import Run, load_run


def every_ipc(name: str, overrides: dict[str, Any] | None = None) -> Run:
    """The run ``name`` with Model Pool and IADD at every IPC, whatever it narrows them to."""
    run = load_run(name, overrides)
    own = {key: axes for key, axes in run.axes_for.items() if key.startswith("metadd")}
    return replace(run, axes_for=own)
