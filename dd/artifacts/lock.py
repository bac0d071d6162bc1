"""A lock: only one process at a time makes a file or folder."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dd.errors import DDError
from dd.runtime.say import say

PATIENCE = 120.0  # seconds; Slurm's KillWait is 30 by default


@contextmanager
def alone(out: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Be the only process that makes ``out`` while the context lasts.

    For stages that fill one file or folder bit by bit: two processes would mix their contents.
    The lock is a file in the folder ``out``, or beside ``out`` if that is a file
    (``.safetensors``). The kernel releases it when its process ends, however it ends.

    Args:
        out: the file or folder to make.
        patience: seconds to wait for another process that holds the lock. A job that a scheduler
            ends may still be saving when the next attempt starts.

    Raises:
        DDError: if the other process still holds the lock after that time.
    """
    out = out.absolute()
    path = out.with_name(f".{out.name}.lock") if out.suffix == ".safetensors" else out / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    until, waiting = time.monotonic() + patience, False
    while (file := _lock(path)) is None:
        if time.monotonic() >= until:
            raise DDError(f"{out}: another process is making it; wait for it or end it")
        if not waiting:
            say(f"{out}: another process is making it, waiting for its end")
            waiting = True
        time.sleep(1)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


def _lock(path: Path) -> int | None:
    """The descriptor of the locked file, or None while another process holds the lock."""
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
            return file  # this file system has no locks: continue without one
        if _still_at(path, file):
            return file
        os.close(file)  # its holder has removed the file since we opened it: try again


def _still_at(path: Path, file: int) -> bool:
    """Whether the open ``file`` is still the one at ``path``."""
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(file))
    return False
