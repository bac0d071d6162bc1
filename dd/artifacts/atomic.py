"""Files that appear whole or not at all: written beside the target, then renamed."""

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

ABANDONED = 86400  # seconds: a process that has not written for so long has been killed


def check_target(path: str | Path) -> None:
    """Raise a :class:`DDError` if the file ``path`` cannot be made.

    Stages call it first, so that they do not work for hours and then fail to write the result.
    """
    path = Path(path)
    if "\0" in str(path):
        raise DDError(f"{path}: is no name that a file can have")
    if path.is_dir():
        raise DDError(f"{path}: is a folder; name a file in it")
    if path.exists() and not path.is_file():  # as root, a rename would replace /dev/null for all
        raise DDError(
            f"{path}: is a device, pipe or socket, which must not be replaced; name a file"
        )
    _check_above(path, path)


def check_folder(path: str | Path) -> None:
    """Raise a :class:`DDError` if files cannot be made in the folder ``path``, which may be new."""
    path = Path(path)
    if "\0" in str(path):
        raise DDError(f"{path}: is no name that a folder can have")
    if path.exists() and not path.is_dir():
        raise DDError(f"{path}: is a file; name a folder")
    _check_above(path / "file", path)


def _check_above(file: Path, named: Path) -> None:
    """Refuse ``file`` if its folder cannot be made or written to; messages are about ``named``."""
    above = next(parent for parent in file.absolute().parents if os.path.lexists(parent))
    if above.is_symlink() and not above.exists():
        raise DDError(f"{named}: {above} is a link that leads nowhere; choose another place")
    if not above.is_dir():
        raise DDError(f"{named}: its folder cannot be made, a file is in the way")
    if not os.access(above, os.W_OK | os.X_OK):
        raise DDError(f"{named}: {above} may not be written to; choose another place")


def check_out(path: Path, ending: str, *read: str | Path | None) -> None:
    """Raise a :class:`DDError` if a stage cannot or must not write its ``--out``.

    Args:
        path: the file to write.
        ending: that of its kind, such as ``.csv``.
        read: the files that the stage reads; None for one that is not given.
    """
    check_target(path)
    check_apart(path, *read)
    check_ending("--out", path, ending)


def check_apart(
    path: str | Path,
    *kept: str | Path | None,
    option: str = "--out",
    because: str = "is read by this command",
) -> None:
    """Raise a :class:`DDError` if the file ``path``, which is to be written, is one of those that
    are ``kept`` (None for one that is not given), by its name or by a link."""
    for other in kept:
        if other is not None and _same(path, other):
            raise DDError(f"{option}: {path} {because}; choose another file")


def _same(path: str | Path, other: str | Path) -> bool:
    """Whether two names lead to one file."""
    with suppress(OSError, ValueError):  # one is missing, or is no name that a file can have
        return os.path.samefile(path, other)
    return False


def check_ending(option: str, path: Path, ending: str) -> None:
    """Raise a :class:`DDError` if the file that ``option`` names does not end as its kind does."""
    if path.suffix != ending:
        raise DDError(f"{option}: {path} must end in {ending}")


def check_safetensors(option: str, path: Path) -> None:
    """Raise a :class:`DDError` if the file that ``option`` names is no safetensors file by name."""
    check_ending(option, path, ".safetensors")


def inside(root: Path, name: str, where: Path) -> Path:
    """The path of ``name`` in the folder ``root``; ``where`` is the file that gave the name.

    Links are followed: a link to another place in ``root`` is accepted like a file, and ``root``
    itself may be a link.

    Raises:
        DDError: if the name leads out of the folder, by itself or by a link along its path.
    """
    path = root / name
    try:
        within = path.resolve().relative_to(root.resolve()) != Path()
    except (ValueError, OSError, RuntimeError):  # outside; not a valid file name; a loop of links
        within = False
    if not within or ".." in Path(name).parts:
        raise DDError(
            f"{where}: '{name}' is no file in the folder {root}; names and links must not lead out "
            "of it"
        )
    return path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path. On success it becomes ``path`` in one step; else it is removed."""
    path = Path(path)
    check_target(path)
    # a folder, because safetensors itself also writes beside its target and renames
    workplace = path.with_name(f".{path.name}.{os.getpid()}@{platform.node()}.part")
    partial = workplace / path.name
    try:
        sweep(path)
        _make(workplace, path)
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        partial.chmod(mode)  # safetensors replaces the file by one that only its owner may read
        with open(partial, "rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, path)
    except OSError as error:
        # the error of a full disk names no file, or the temporary one: name the target
        if error.errno and str(error.filename or workplace).startswith(str(workplace)):
            error.filename = str(path)
        raise
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def _make(workplace: Path, path: Path) -> None:
    """Make the temporary folder for ``path``. Some folders, as ``/proc``, look as if they could be
    written to."""
    try:
        workplace.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:
        raise DDError(
            f"{path}: nothing can be made in {path.parent}; choose another place"
        ) from None


def sweep(path: Path) -> None:
    """Remove temporary folders that killed processes left when they wrote ``path``, or files
    beside it that carry its name."""
    for workplace in path.parent.glob(f".*{glob.escape(path.name)}.*.part"):
        name, _, machine = workplace.stem.rpartition("@")  # no machine name contains an @
        name, _, process = name.rpartition(".")
        if not name.lstrip(".").startswith(path.name) or not process.isdecimal():
            continue
        if _age(workplace) > ABANDONED or (machine == platform.node() and _gone(int(process))):
            shutil.rmtree(workplace, ignore_errors=True)


def _gone(process: int) -> bool:
    """Whether no such process exists on this machine."""
    try:
        os.kill(process, 0)  # signal 0 only asks whether the process exists
    except ProcessLookupError:
        return True
    except PermissionError:  # it exists and belongs to another user
        pass
    return False


def _age(workplace: Path) -> float:
    """Seconds since something was last written there."""
    with suppress(OSError):  # it is being removed, or only its owner may read it
        return time.time() - max(p.stat().st_mtime for p in (workplace, *workplace.iterdir()))
    return 0
