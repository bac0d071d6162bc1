"""Files that appear whole or not at all: a temporary place beside the target, then a rename."""

from __future__ import annotations

import glob
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dd.errors import DDError

ABANDONED = 86400  # seconds: who has not written for so long, on whatever machine, was killed


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


def check_safetensors(option: str, path: Path) -> None:
    """Raise a :class:`DDError` if the file that ``option`` names does not end as its kind does."""
    if path.suffix != ".safetensors":
        raise DDError(f"{option}: {path} must end in .safetensors")


def inside(root: Path, name: str, where: Path) -> Path:
    """The file that ``where`` calls ``name`` in the folder ``root``.

    Links are followed: one to another place in ``root`` is as good as a file, also as ``root``.

    Raises:
        DDError: if the name, or a link on its way or in its place, leads out of the folder.
    """
    path = root / name
    try:
        within = path.resolve().relative_to(root.resolve()) != Path()
    except (ValueError, OSError, RuntimeError):  # outside; no name of a file; links in a circle
        within = False
    if not within or ".." in Path(name).parts:
        raise DDError(
            f"{where}: '{name}' is no file in the folder {root}; names and links must not lead out "
            "of it"
        )
    return path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path; on success it becomes ``path`` in one step, on failure it goes."""
    path = Path(path)
    check_target(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # a folder, because safetensors, too, writes beside its target and renames
    workplace = path.with_name(f".{path.name}.{os.getpid()}@{platform.node()}.part")
    partial = workplace / path.name
    try:
        sweep(path)
        workplace.mkdir(exist_ok=True)
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        partial.chmod(mode)  # safetensors puts a file of its own there, for the owner's eyes alone
        with open(partial, "rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, path)
    except OSError as error:
        # a full disk does not say for which file, or names the temporary one
        if error.errno and str(error.filename or workplace).startswith(str(workplace)):
            error.filename = str(path)
        raise
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def sweep(path: Path) -> None:
    """Remove what killed processes left of their attempts to write ``path``, or what they kept
    beside it under its name."""
    for workplace in path.parent.glob(f".*{glob.escape(path.name)}.*.part"):
        name, _, machine = workplace.stem.rpartition("@")  # which no name of a machine has
        name, _, process = name.rpartition(".")
        if not name.lstrip(".").startswith(path.name) or not process.isdecimal():
            continue
        if _age(workplace) > ABANDONED or (machine == platform.node() and _gone(int(process))):
            shutil.rmtree(workplace, ignore_errors=True)


def _gone(process: int) -> bool:
    """Whether this machine has no such process."""
    try:
        os.kill(process, 0)  # asks whether it is there
    except ProcessLookupError:
        return True
    except PermissionError:  # someone else's
        pass
    return False


def _age(workplace: Path) -> float:
    """Seconds since something was last written there."""
    with suppress(OSError):  # it is just going, or for its owner's eyes alone
        return time.time() - max(p.stat().st_mtime for p in (workplace, *workplace.iterdir()))
    return 0
