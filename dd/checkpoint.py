"""Checkpoints of jobs under way: what a killed one goes on from."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from dd.artifacts import load_tensors, save_tensors
from dd.errors import DDError
from dd.optimizers import load_optimizer_state, optimizer_state

_NETWORK = "network."
_STREAM = "stream."
PATIENCE = 120.0  # seconds; Slurm's KillWait is 30 by default


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
    # through JSON, because that is what the facts of a checkpoint went through
    if header.get("facts") != json.loads(json.dumps(facts)):
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


def training_state(
    network: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    """The tensors of a training: the state of its network (or ensemble) and of its optimiser."""
    return {f"{_NETWORK}{k}": v for k, v in network.items()} | optimizer_state(optimizer)


def resume_training(
    tensors: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    """Bring ``optimizer`` to where it was; returns the network's state for it to take over."""
    load_optimizer_state(optimizer, tensors)
    return under(_NETWORK, tensors)


@contextmanager
def alone(out: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Be the only process that makes ``out`` while the context lasts.

    For stages that fill one file or folder bit by bit, where two of them would mix what they keep.
    The lock is a file in the folder ``out`` or, where it is a file (``.safetensors``), beside it;
    the kernel gives it back when its process ends, however it ends.

    Args:
        patience: seconds to wait for another process that is at it: a job that a scheduler ends may
            still be saving when the next attempt starts.

    Raises:
        DDError: if it is still at it then.
    """
    out = out.absolute()
    path = out.with_name(f".{out.name}.lock") if out.suffix == ".safetensors" else out / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    until, waiting = time.monotonic() + patience, False
    while (file := _lock(path)) is None:
        if time.monotonic() >= until:
            raise DDError(f"{out}: another process is making it; wait for it or end it")
        if not waiting:
            print(f"{out}: another process is making it, waiting for its end", flush=True)
            waiting = True
        time.sleep(1)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


def _lock(path: Path) -> int | None:
    """The locked file, or nothing while another process has it."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return None
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                os.close(file)
                raise
            return file  # no locks here: go on
        if _is(path, file):
            return file
        os.close(file)  # whoever held it has removed it since it was opened


def _is(path: Path, file: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(file))
    return False
