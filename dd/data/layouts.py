"""How image files lie in folders: which are trained on, which tested on, and of which class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dd.artifacts.text import load_rows
from dd.data.split import stratified_groups
from dd.errors import DDError

EXTENSIONS = (".jpeg", ".jpg", ".png", ".webp")
_KINDS = ", ".join(EXTENSIONS)


@dataclass(frozen=True)
class Listing:
    """Image files of both splits.

    Attributes:
        classes: class names in label order.
        train, test: for each class its files, sorted; one at least.
    """

    classes: list[str]
    train: list[list[Path]]
    test: list[list[Path]]


def image_folder(root: Path) -> Listing:
    """``ROOT/{train,test}/<class>/*.{png,jpg,jpeg,webp}``; classes sorted by name.

    Hidden entries and files of other types are ignored, here and in all layouts.

    Raises:
        DDError: naming the folder or class that is missing or empty.
    """
    found = {}
    for split in ("train", "test"):
        folder = root / split
        if not folder.is_dir():
            raise DDError(
                f"{root}: has no folder '{split}'; expected {root}/train/<class>/ and "
                f"{root}/test/<class>/ with the images"
            )
        found[split] = {entry.name: _images_in(entry) for entry in _class_folders(folder)}
        for name, files in found[split].items():
            if not files:
                raise DDError(
                    f"{folder / name}: class '{name}' has no image ({_KINDS}) directly in it"
                )
    for one, other in (("train", "test"), ("test", "train")):
        alone = sorted(found[one].keys() - found[other].keys())
        if alone:
            raise DDError(
                f"{root}: class '{alone[0]}' is in {one} but not in {other} "
                f"({len(alone)} such); both must hold the same classes"
            )
    train, test = found["train"], found["test"]
    return Listing(list(train), list(train.values()), [test[name] for name in train])


def tiny_imagenet(root: Path) -> Listing:
    """Tiny ImageNet as it is distributed; the test split is its ``val``.

    ``ROOT/train/<wnid>/images/``, ``ROOT/val/images/`` with ``ROOT/val/val_annotations.txt`` (tab
    between file, wnid and box), and optionally ``ROOT/wnids.txt`` (all classes) and
    ``ROOT/words.txt`` (tab between wnid and names, commas between those). Classes are sorted by
    wnid and named by the first name, followed by the wnid where two classes share it; without
    ``words.txt`` by the wnid.

    Raises:
        DDError: naming the folder, file or class that is missing, empty or not in the others.
    """
    for part in ("train", "val/images"):
        if not (root / part).is_dir():
            raise DDError(
                f"{root}: has no folder '{part}'; expected train/<wnid>/images/, val/images/ and "
                "val/val_annotations.txt as in the original archive"
            )
    train = {entry.name: _images_in(entry / "images") for entry in _class_folders(root / "train")}
    if (root / "wnids.txt").is_file():
        listed = {line.strip() for line in _lines(root / "wnids.txt")}
        unlike = sorted(listed ^ train.keys())
        if unlike:
            raise DDError(
                f"{root}: wnids.txt and the folders in train differ in {len(unlike)} classes, "
                f"the first is '{unlike[0]}'; unpack the archive again or remove wnids.txt"
            )
    test: dict[str, list[Path]] = {wnid: [] for wnid in train}
    annotations = root / "val" / "val_annotations.txt"
    images = {file.name: file for file in _images_in(root / "val" / "images")}
    for number, line in enumerate(_lines(annotations), start=1):
        name, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        if wnid not in test:
            raise DDError(f"{annotations}: line {number}: '{wnid}' is no class of {root / 'train'}")
        if name not in images:
            raise DDError(
                f"{annotations}: line {number}: no image '{name}' in {root / 'val' / 'images'}, or "
                "named before"
            )
        test[wnid].append(images.pop(name))
    if images:
        raise DDError(f"{annotations}: has no line for image '{min(images)}' ({len(images)} such)")
    for part, found in (("train", train), ("val", test)):
        for wnid, files in found.items():
            if not files:
                raise DDError(f"{root}: class '{wnid}' has no image ({_KINDS}) in {part}")
    tested = [sorted(found) for found in test.values()]
    return Listing(_words(root / "words.txt", list(train)), list(train.values()), tested)


def class_folders(
    root: Path, share: float, generator: torch.Generator, groups: Path | None = None
) -> Listing:
    """``ROOT/<class>/*.png`` or ``ROOT/<class>/images/*.png``, split here; classes sorted by name.

    The COVID-19 Radiography Database lies in folders so, with ``masks`` beside ``images``.

    Args:
        root: the folder that holds the classes.
        share: of the test split, above 0 and below 1.
        generator: decides what is tested on.
        groups: a CSV file with the columns ``file`` (relative to ``root``, or the name alone where
            no other image has it) and ``group``: images of one group (a patient's, say) come into
            one split. None: each image for itself.

    Raises:
        DDError: naming the class without images or that cannot be split, or what is wrong in
            ``groups``.
    """
    folders = _class_folders(root)
    found = [_images_of_class(folder) for folder in folders]
    classes = [folder.name for folder in folders]
    paths = [path for files in found for path in files]
    labels = [label for label, files in enumerate(found) for _ in files]
    members = _groups(groups, root, paths) if groups else range(len(paths))
    tested = stratified_groups(labels, members, classes, share, generator)
    parts: dict[bool, list[list[Path]]] = {side: [[] for _ in classes] for side in (False, True)}
    for path, label, test in zip(paths, labels, tested, strict=True):
        parts[test][label].append(path)
    return Listing(classes, parts[False], parts[True])


def _class_folders(folder: Path) -> list[Path]:
    """The folders in ``folder``, sorted."""
    found = sorted(
        entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
    if not found:
        raise DDError(f"{folder}: holds no class folders")
    return found


def _images_in(folder: Path) -> list[Path]:
    """The image files directly in ``folder``, sorted; none where it does not exist."""
    if not folder.is_dir():
        return []
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in EXTENSIONS and not file.name.startswith(".")
    )


def _images_of_class(folder: Path) -> list[Path]:
    """The images in ``folder`` or in its folder ``images``."""
    direct, below = _images_in(folder), _images_in(folder / "images")
    if direct and below:
        raise DDError(
            f"{folder}: class '{folder.name}' has images both directly in it and in 'images'; "
            "keep one of them"
        )
    if not direct and not below:
        raise DDError(
            f"{folder}: class '{folder.name}' has no image ({_KINDS}) in it or in its folder "
            "'images'"
        )
    return direct or below


def _lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty."""
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        raise DDError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise DDError(f"{path}: is not text ({error})") from None


def _words(path: Path, wnids: list[str]) -> list[str]:
    """The names of ``wnids``, unlike each other."""
    if not path.is_file():
        return wnids
    entries = dict(line.split("\t", 1) for line in _lines(path) if "\t" in line)
    names = [entries.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
    uses = Counter(names)
    return [
        name if uses[name] == 1 else f"{name} ({wnid})"
        for name, wnid in zip(names, wnids, strict=True)
    ]


def _groups(file: Path, root: Path, paths: Sequence[Path]) -> list[str]:
    """The group of each of ``paths``, from a CSV file."""
    rows = load_rows(file)
    for column in ("file", "group"):
        if rows and column not in rows[0]:
            raise DDError(
                f"{file}: has no column '{column}' (its columns are "
                f"{', '.join(filter(None, rows[0]))}); it needs 'file' and 'group'"
            )
    relative = {path.relative_to(root).as_posix(): path for path in paths}
    named: dict[str, list[Path]] = {}
    for path in paths:
        named.setdefault(path.name, []).append(path)
    found: dict[Path, str] = {}
    for number, row in enumerate(rows, start=1):
        name = row["file"] or ""
        candidates = [relative[name]] if name in relative else named.get(name, [])
        if not candidates:
            raise DDError(f"{file}: row {number}: '{name}' is no image of {root}")
        if len(candidates) > 1:
            raise DDError(
                f"{file}: row {number}: {len(candidates)} images are called '{name}'; give the "
                f"path relative to {root}, such as {candidates[0].relative_to(root)}"
            )
        if candidates[0] in found:
            raise DDError(f"{file}: row {number}: '{name}' is there twice")
        if row["group"]:
            found[candidates[0]] = row["group"]
    lacking = [path for path in paths if path not in found]
    if lacking:
        raise DDError(
            f"{file}: image '{lacking[0].relative_to(root)}' has no group ({len(lacking)} such)"
        )
    return [found[path] for path in paths]
