"""Layouts of image files in folders: which split and which class a file belongs to."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dd.artifacts.text import load_rows, read_text
from dd.data.split import stratified_groups
from dd.errors import DDError

EXTENSIONS = (".jpeg", ".jpg", ".png", ".webp")
_KINDS = ", ".join(EXTENSIONS)


@dataclass(frozen=True)
class Listing:
    """Image files of both splits.

    Attributes:
        classes: class names in label order.
        train, test: for each class its files, sorted; at least one.
        notes: what a user should know: another split in place of test, files that were left out.
    """

    classes: list[str]
    train: list[list[Path]]
    test: list[list[Path]]
    notes: tuple[str, ...] = ()


def image_folder(root: Path) -> Listing:
    """``ROOT/{train,test}/<class>/*.{png,jpg,jpeg,webp}``; classes are sorted by name.

    ``val`` is the test split where there is no ``test``. This and all other layouts ignore hidden
    entries and files of other types. Names are compared in one Unicode form (NFC): macOS writes
    another than most systems.

    Raises:
        DDError: names the folder or class that is missing or empty.
    """
    held_out = "val" if not (root / "test").exists() and (root / "val").is_dir() else "test"
    files_of: dict[str, dict[str, list[Path]]] = {}
    folders: list[Path] = []
    for split in ("train", held_out):
        folder = root / split
        if not folder.is_dir():
            raise DDError(
                f"{root}: has no folder '{split}'; expected {root}/train/<class>/ and "
                f"{root}/test/<class>/ (or val) with the images"
            )
        of_split = _class_folders(folder)
        folders += of_split
        files_of[split] = {composed(entry.name): _images_in(entry) for entry in of_split}
        if len(files_of[split]) < len(of_split):
            raise DDError(f"{folder}: two class folders have the same name in two Unicode forms")
        for name, files in files_of[split].items():
            if not files:
                raise DDError(
                    f"{folder / name}: class '{name}' has no image ({_KINDS}) directly in it"
                )
    for one, other in (("train", held_out), (held_out, "train")):
        alone = sorted(files_of[one].keys() - files_of[other].keys())
        if alone:
            raise DDError(
                f"{root}: class '{alone[0]}' is in {one} but not in {other} "
                f"({len(alone)} such); both must hold the same classes"
            )
    train, test = files_of["train"], files_of[held_out]
    taken = (file for split in (train, test) for files in split.values() for file in files)
    notes = _left_out(root, folders, taken)
    if held_out == "val":
        notes = (f"{root}: has no folder 'test'; 'val' is the test split", *notes)
    return Listing(list(train), list(train.values()), [test[name] for name in train], notes)


def tiny_imagenet(root: Path) -> Listing:
    """Tiny ImageNet as it is distributed; the test split is its ``val``.

    ``ROOT/train/<wnid>/images/``, ``ROOT/val/images/`` with ``ROOT/val/val_annotations.txt`` (tab
    between file, wnid and box), and optionally ``ROOT/wnids.txt`` (all classes) and
    ``ROOT/words.txt`` (tab between wnid and names, commas between those). Classes are sorted by
    wnid and named by the first name, followed by the wnid where two classes share it; without
    ``words.txt`` they are named by the wnid.

    Raises:
        DDError: names the folder, file or class that is missing, empty or not in the others.
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
    for part, by_class in (("train", train), ("val", test)):
        for wnid, files in by_class.items():
            if not files:
                raise DDError(f"{root}: class '{wnid}' has no image ({_KINDS}) in {part}")
    tested = [sorted(files) for files in test.values()]
    return Listing(_words(root / "words.txt", list(train)), list(train.values()), tested)


def class_folders(
    root: Path, share: float, generator: torch.Generator, groups: Path | None = None
) -> Listing:
    """``ROOT/<class>/*.png`` or ``ROOT/<class>/images/*.png``; classes are sorted by name.

    These folders have no split, so it is drawn here. The COVID-19 Radiography Database has this
    layout, with ``masks`` beside ``images``.

    Args:
        root: the folder that holds the classes.
        share: share of the test split, above 0 and below 1.
        generator: draws the test split.
        groups: a CSV file with the columns ``file`` (relative to ``root``, or only the name if no
            other image has it) and ``group``. Images of one group (for example of a patient) go
            to the same split. None: each image is its own group.

    Raises:
        DDError: names a class that has no images or cannot be split, or what is wrong in
            ``groups``.
    """
    folders = _class_folders(root)
    by_class = [_images_of_class(folder) for folder in folders]
    classes = [composed(folder.name) for folder in folders]
    paths = [path for files in by_class for path in files]
    labels = [label for label, files in enumerate(by_class) for _ in files]
    members = _groups(groups, root, paths) if groups else range(len(paths))
    tested = stratified_groups(labels, members, classes, share, generator)
    parts: dict[bool, list[list[Path]]] = {side: [[] for _ in classes] for side in (False, True)}
    for path, label, test in zip(paths, labels, tested, strict=True):
        parts[test][label].append(path)
    return Listing(classes, parts[False], parts[True], _left_out(root, folders, paths))


def _class_folders(folder: Path) -> list[Path]:
    """The folders in ``folder``, sorted."""
    folders = sorted(
        (entry for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."),
        key=lambda entry: composed(entry.name),
    )
    if not folders:
        raise DDError(f"{folder}: holds no class folders")
    return folders


def _images_in(folder: Path) -> list[Path]:
    """The image files directly in ``folder``, sorted; none if the folder does not exist."""
    if not folder.is_dir():
        return []
    return sorted(
        file for file in folder.iterdir() if _is_image(file) and not file.name.startswith(".")
    )


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in EXTENSIONS and file.is_file()


def _left_out(root: Path, folders: Sequence[Path], taken: Iterable[Path]) -> tuple[str, ...]:
    """A line on the files in the class ``folders``, and one folder deeper, that are not among the
    images ``taken``; nothing if there are none."""
    known, counts = set(taken), Counter[str]()
    for folder in folders:
        for entry in folder.iterdir():
            below = entry.is_dir()
            for file in entry.iterdir() if below else [entry]:
                if file in known or file.name.startswith(".") or file.is_dir():
                    continue
                deeper = below and _is_image(file)
                ending = file.suffix.lower() or "without an ending"
                counts["images one folder deeper" if deeper else ending] += 1
    listed = ", ".join(f"{number} {what}" for what, number in sorted(counts.items()))
    return (f"{root}: left out: {listed} (images are {_KINDS})",) if listed else ()


def composed(name: str) -> str:
    """A file's name in Unicode's composed form (NFC)."""
    return unicodedata.normalize("NFC", name)


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
    """The non-empty lines of a text file."""
    return [line for line in read_text(path).splitlines() if line.strip()]


def _words(path: Path, wnids: list[str]) -> list[str]:
    """The names of ``wnids``, made unique by the wnid where two are equal."""
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
    relative = {composed(path.relative_to(root).as_posix()): path for path in paths}
    named: dict[str, list[Path]] = {}
    for path in paths:
        named.setdefault(composed(path.name), []).append(path)
    group_of: dict[Path, str] = {}
    for number, row in enumerate(rows, start=1):
        name = composed(row["file"] or "")
        candidates = [relative[name]] if name in relative else named.get(name, [])
        if not candidates:
            raise DDError(f"{file}: row {number}: '{name}' is no image of {root}")
        if len(candidates) > 1:
            raise DDError(
                f"{file}: row {number}: {len(candidates)} images are called '{name}'; give the "
                f"path relative to {root}, such as {candidates[0].relative_to(root)}"
            )
        if candidates[0] in group_of:
            raise DDError(f"{file}: row {number}: '{name}' is there twice")
        if row["group"]:
            group_of[candidates[0]] = row["group"]
    lacking = [path for path in paths if path not in group_of]
    if lacking:
        raise DDError(
            f"{file}: image '{lacking[0].relative_to(root)}' has no group ({len(lacking)} such)"
        )
    return [group_of[path] for path in paths]
