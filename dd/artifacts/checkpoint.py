"""Checkpoints of jobs under way: what a killed one goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dd.artifacts.tensors import load_tensors, save_tensors
from dd.artifacts.text import through_json
from dd.errors import DDError

_STREAM = "stream."


def state_path(out: Path) -> Path:
    """Where a stage that makes the file ``out`` keeps what a killed one goes on from: beside it,
    hidden, because Snakemake deletes the declared outputs of a job that failed."""
    return out.with_name(f".{out.name}.state")


def save_checkpoint(
    path: Path,
    facts: Mapping[str, Any],
    at: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    streams: Mapping[str, torch.Generator],
) -> None:
    """Keep a job under way in the file ``path``.

    Args:
        facts: what identifies it.
        at: how far it is, not empty; like the facts JSON-serialisable.
        tensors: what it computes with.
        streams: its random streams.
    """
    states = {f"{_STREAM}{name}": stream.get_state() for name, stream in streams.items()}
    save_tensors(path, "checkpoint", {**tensors, **states}, {"facts": facts, "at": at})


def load_checkpoint(
    stage: str, path: Path, facts: Mapping[str, Any]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors of a checkpoint and how far the job of ``facts`` was.

    Both are empty where ``path`` does not exist or, which the ``stage`` then says, cannot be read
    or belongs to other facts.
    """
    if not path.exists():
        return {}, {}
    try:
        tensors, header = load_tensors(path, "checkpoint")
    except (DDError, OSError) as error:
        print(f"{stage}: starting anew, the checkpoint cannot be read ({error})")
        return {}, {}
    if header.get("facts") != through_json(facts):
        print(f"{stage}: starting anew, {path} belongs to other settings")
        return {}, {}
    return tensors, header["at"]


def restore_streams(
    tensors: Mapping[str, torch.Tensor], streams: Mapping[str, torch.Generator]
) -> None:
    """Bring ``streams`` to where :func:`save_checkpoint` was called."""
    for name, stream in streams.items():
        stream.set_state(tensors[f"{_STREAM}{name}"])


def under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those of ``tensors`` whose names start with ``prefix``, by the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
