"""Checkpoints of jobs under way, from which a killed job resumes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dd.artifacts.tensors import load_tensors, save_tensors
from dd.artifacts.text import through_json
from dd.errors import DDError
from dd.runtime.say import say

_STREAM = "stream."


def state_path(out: Path) -> Path:
    """The file of the checkpoint of a stage that makes the file ``out``.

    It is a hidden file beside ``out``. It is not a declared output, because Snakemake deletes the
    declared outputs of a failed job.
    """
    return out.with_name(f".{out.name}.state")


def save_checkpoint(
    path: Path,
    facts: Mapping[str, Any],
    at: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    streams: Mapping[str, torch.Generator],
) -> None:
    """Save the state of a job to the file ``path``.

    Args:
        facts: what identifies the job.
        at: how far the job is; not empty. ``facts`` and ``at`` are JSON-serialisable.
        tensors: the tensors that it needs to continue.
        streams: its random streams.
    """
    states = {f"{_STREAM}{name}": stream.get_state() for name, stream in streams.items()}
    save_tensors(path, "checkpoint", {**tensors, **states}, {"facts": facts, "at": at})


def load_checkpoint(
    stage: str, path: Path, facts: Mapping[str, Any]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors of a checkpoint and how far the job identified by ``facts`` was.

    Both are empty if ``path`` does not exist. They are also empty if it cannot be read or belongs
    to other facts; then a line, which starts with ``stage``, says so.
    """
    if not path.exists():
        return {}, {}
    try:
        tensors, header = load_tensors(path, "checkpoint")
    except (DDError, OSError) as error:
        say(f"{stage}: starting anew, the checkpoint cannot be read ({error})")
        return {}, {}
    if header.get("facts") != through_json(facts):
        say(f"{stage}: starting anew, {path} belongs to other settings")
        return {}, {}
    return tensors, header["at"]


def restore_streams(
    tensors: Mapping[str, torch.Tensor], streams: Mapping[str, torch.Generator]
) -> None:
    """Set ``streams`` to their states when :func:`save_checkpoint` was called."""
    for name, stream in streams.items():
        stream.set_state(tensors[f"{_STREAM}{name}"])


def under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The ``tensors`` whose names start with ``prefix``, with the prefix removed from the names."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
