"""What is known of raw images before they are read: a source's options, and the files of a folder.

The plan of a run needs both, so this module imports no torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dd.artifacts.text import file_digest
from dd.errors import DDError

ZCA_EPS = 0.1  # added to the covariance's eigenvalues, unless an option says otherwise

IMAGE_FILES = ("class-folders", "image-folder", "tiny-imagenet")
"""The sources that read a folder of image files and download nothing."""

TAKEN_BY: dict[str, tuple[str, ...]] = {
    "resize": IMAGE_FILES,
    "channels": IMAGE_FILES,
    "test_share": ("class-folders",),
    "split_seed": ("class-folders",),
    "groups": ("class-folders",),
}
"""Options that only some sources take, with these sources."""

LISTING = "listing"
"""The key of the digest of a folder's files among what :func:`identity` gives."""

_IDENTIFYING = ("source", "normalise_as", "zca", "zca_eps", *TAKEN_BY)
_DEPTH = 4  # ROOT/train/<class>/images/<file>, the deepest of all layouts


def check_taken(source: str, given: Iterable[str]) -> None:
    """Raise a :class:`DDError` if ``source`` does not take one of the options ``given``."""
    for name in given:
        if source not in TAKEN_BY.get(name, (source,)):
            raise DDError(
                f"--{name.replace('_', '-')}: only for --source {' or '.join(TAKEN_BY[name])}"
            )


def check_enough(ipc: int, sizes: Sequence[int], classes: Sequence[str], dataset: str) -> None:
    """Raise a :class:`DDError` if a class has fewer than ``ipc`` training images.

    Args:
        ipc: images per class of a set that takes or starts from real images.
        sizes: the number of training images of each of ``classes``.
        dataset: its name.
    """
    smallest = min(range(len(classes)), key=lambda label: sizes[label])
    if ipc > sizes[smallest]:
        raise DDError(
            f"--ipc is {ipc}, but class '{classes[smallest]}' of {dataset} has {sizes[smallest]} "
            "training images"
        )


def folder(source: str, root: str | Path) -> Path:
    """The folder ``root`` of a source that downloads nothing, if there is one."""
    if not Path(root).is_dir():
        raise DDError(f"--root: {root} is no folder; the source {source} reads its images there")
    return Path(root)


def listing_digest(root: str | Path) -> str:
    """16 hexadecimal digits of SHA-256 over relative paths and sizes of all files under ``root``.

    Two folders with the same digest are taken to hold the same images. Hidden entries do not count,
    as no layout reads them. The contents are not read: a file that changes and keeps its size goes
    unnoticed.

    Raises:
        DDError: if a folder in it cannot be read, or a link leads to itself; it names the path.
    """
    try:
        files = sorted(_files(Path(root), "", _DEPTH))
    except OSError as error:
        raise DDError(
            f"{error.filename or root}: cannot be read ({error.strerror}); mend it, or take it out "
            "of the folder of images"
        ) from None
    digest = hashlib.sha256()
    for path, size in files:
        digest.update(f"{path}\0{size}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def source_digest(path: Path) -> str:
    """What a set of others is recognised by: the digest of a file, or :func:`listing_digest`."""
    return listing_digest(path) if path.is_dir() else file_digest(path)


def identity(options: Mapping[str, Any], listing: str | None) -> dict[str, Any]:
    """What the content of a prepared file depends on; the place of the images is no part of it.

    Args:
        options: those of ``python -m dd prepare``; those not given may be missing or None.
        listing: the digest of the files of the folder, if the images are read from one.
    """
    of_source = {name: options[name] for name in _IDENTIFYING if options.get(name)}
    if groups := of_source.get("groups"):
        of_source["groups"] = file_digest(groups) if Path(groups).is_file() else None
    if not of_source.get("zca"):
        of_source.pop("zca_eps", None)
    else:
        of_source.setdefault("zca_eps", ZCA_EPS)
    return of_source | ({LISTING: listing} if listing else {})


def _files(folder: Path, prefix: str, depth: int) -> Iterable[tuple[str, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if depth > 1:
                    yield from _files(Path(entry.path), f"{prefix}{entry.name}/", depth - 1)
            elif entry.is_file():
                yield f"{prefix}{entry.name}", entry.stat().st_size
