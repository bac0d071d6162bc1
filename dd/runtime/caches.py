"""Cache folders of libraries, where the home folder cannot be written to.

matplotlib, fontconfig and torch keep caches below the home folder. On a cluster it may be read-only
or missing. matplotlib then writes two lines to every log and builds its list of fonts again in
every job; other libraries fail. So caches move to a folder of this user among the temporary files.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

CACHES = {  # what the libraries use if their variable is not set, below the home folder
    "XDG_CACHE_HOME": ".cache",
    "MPLCONFIGDIR": ".config/matplotlib",
}
_NAMES = {"XDG_CACHE_HOME": "cache", "MPLCONFIGDIR": "matplotlib"}


def provide_caches(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set the variables of :data:`CACHES` that are not set and whose folder cannot be made.

    Call it before the libraries are imported. A variable that somebody has set is left alone.
    """
    home = Path(os.path.expanduser("~"))
    lacking = [
        name
        for name, below in CACHES.items()
        if not environment.get(name) and not _writable(home / below)
    ]
    if not lacking:
        return
    try:
        folder = _own_folder()
    except OSError:  # no temporary files either; the libraries say what they need
        return
    for name in lacking:
        environment[name] = str(folder / _NAMES[name])


def _writable(folder: Path) -> bool:
    """Whether ``folder`` can be written to, or made."""
    for path in (folder, *folder.parents):
        if path.exists():
            # access() alone says yes to root on /proc, where no folder can be made
            return path.is_dir() and os.access(path, os.W_OK | os.X_OK) and not _virtual(path)
    return False


def _virtual(path: Path) -> bool:
    return path.is_relative_to("/proc") or path.is_relative_to("/sys")


def _own_folder() -> Path:
    """A folder of this user, the same for all jobs; a new one if its name is taken by another."""
    folder = Path(tempfile.gettempdir(), f"dd-caches-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    there = folder.lstat()
    if stat.S_ISDIR(there.st_mode) and there.st_uid == os.getuid():
        return folder
    return Path(tempfile.mkdtemp(prefix="dd-caches-"))
