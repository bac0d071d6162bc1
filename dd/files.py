"""Files that appear whole or not at all: a temporary place beside the target, then a rename."""

from __future__ import annotations

import glob
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dd.errors import DDError


def check_target(path: str | Path) -> None:
    """Raise a :class:`DDError` if the file ``path`` cannot be made, before hours of work for it."""
    path = Path(path)
    if path.is_dir():
        raise DDError(f"{path}: is a folder; name a file in it")
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir():
        raise DDError(f"{path}: its folder cannot be made, a file is in the way")
    if not os.access(above, os.W_OK | os.X_OK):
        raise DDError(f"{path}: {above} may not be written to; choose another place")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path; on success it becomes ``path`` in one step, on failure it goes."""
    path = Path(path)
    check_target(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # a folder, because safetensors, too, writes beside its target and renames
    room = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.part")
    partial = room / path.name
    try:
        sweep(path)
        room.mkdir(exist_ok=True)
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        partial.chmod(mode)  # safetensors puts a file of its own there, for the owner's eyes alone
        with open(partial, "rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, path)
    except OSError as error:
        # a full disk does not say for which file, or names the temporary one
        if error.errno and str(error.filename or room).startswith(str(room)):
            error.filename = str(path)
        raise
    finally:
        shutil.rmtree(room, ignore_errors=True)


def sweep(path: Path) -> None:
    """Remove what processes of this machine that were killed left of their attempts to write
    ``path``, or what they kept beside it under its name."""
    pattern = f".*{glob.escape(path.name)}.*{glob.escape(platform.node())}-*.part"
    for room in path.parent.glob(pattern):
        process = room.stem.rpartition("-")[2]
        if not room.name.lstrip(".").startswith(path.name) or not process.isdecimal():
            continue
        try:
            os.kill(int(process), 0)  # asks whether the process is there
        except ProcessLookupError:
            shutil.rmtree(room, ignore_errors=True)
        except PermissionError:  # someone else's
            pass
