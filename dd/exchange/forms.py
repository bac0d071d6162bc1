"""The forms in which the field publishes synthetic sets: where images and labels are in each.

============  =====================================================================================
dc            ``{'data': [[images, labels], ...]}``: DC, DSA, DM and what builds on their code. The
              entries are several sets, or states of one set
pair          ``images_NAME.pt`` beside ``labels_NAME.pt``, perhaps ``lr_NAME.pt``: MTT, DATM
fields        ``{'images': images, 'labels': labels}``, perhaps with ``lr``; or ``[images, labels]``
arrays        the same as ``.npz``; FRePo's have ``image`` and ``label``
folders       image files in a folder for each class: SRe2L and what builds on its code
set           a safetensors file as ``docs/formats.md`` describes it
============  =====================================================================================
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from dd.artifacts.text import digest, file_digest
from dd.data import synthetic
from dd.data.decode import decode_all
from dd.data.layouts import EXTENSIONS, composed
from dd.errors import DDError, unknown
from dd.exchange.pickles import load_pickled, plain

CODE = {"dc": "dc", "pair": "mtt"}
"""Whose public code writes a form, by form: images are in the units of this code."""

LAST, ALL = "last", "all"
"""Entries of a file: the last one (of a pair the best, if there is one), and each of them."""

PICKLED = (".pt", ".pth")
FILES = (*PICKLED, ".npz", ".safetensors")
"""The endings of files that may hold a set."""

MOST_UNPACKED = 2 << 30  # bytes of compressed arrays

BEST = "best"  # what the field's code calls the set with the highest accuracy on the test split
_NAMES: Mapping[str, Sequence[str]] = {  # of tensors and arrays, by what they are
    "images": ("images", "image", "image_syn", "x", "data"),
    "labels": ("labels", "label", "label_syn", "y", "targets"),
    "lr": ("lr", "syn_lr", "learned_lr"),
}
_METHODS = ("dsa", "dm", "dc", "mtt")  # words of a file's name that name a recipe


@dataclass(frozen=True)
class Found:
    """A set as its makers published it.

    Attributes:
        form: see above.
        files: the files it was read from.
        entry, entries: its name among the sets of the file, and all of these.
        images: ``[M, C, H, W]`` or ``[M, H, W]``, in units that the form does not say.
        labels: ``[M]`` class numbers, or ``[M, K]`` probabilities or logits.
        objective: whose recipe the form or the file's name suggests.
        rate: the learned learning rate.
        names: of form folders: the name of the folder of each label.
        ready: of form set: the set itself, whose units are known.
        notes: what a user must know, a line each.
    """

    form: str
    files: list[Path]
    entry: str
    entries: list[str]
    images: Tensor
    labels: Tensor
    objective: str
    rate: float | None = None
    names: list[str] | None = None
    ready: synthetic.SyntheticSet | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def place(self) -> str:
        """Where it is, for errors: its path; in a file with several sets its entry, too."""
        entry = f", entry {self.entry}" if self.form == "dc" and len(self.entries) > 1 else ""
        return f"{self.path}{entry}"

    @property
    def path(self) -> Path:
        """Its first file, or the folder that holds those of its classes."""
        return self.files[0].parent.parent if self.form == "folders" else self.files[0]

    def digest(self) -> str:
        """16 hexadecimal digits of the SHA-256 of its file; of several, of their names and
        digests."""
        if len(self.files) == 1:
            return file_digest(self.files[0])
        root = self.path if self.form == "folders" else self.path.parent
        listed = (f"{file.relative_to(root).as_posix()}\0{file_digest(file)}\n"
                  for file in sorted(self.files))  # fmt: skip
        return digest("".join(listed).encode("utf-8", "surrogateescape"))


def is_set(path: Path) -> bool:
    """Whether ``path`` may be one set, or a file of sets, and not a folder that holds such."""
    if path.is_dir():
        return bool(_pairs(path) or _class_folders(path))
    return path.suffix.lower() in FILES


def read(path: Path, entry: str, channels: int) -> list[Found]:
    """The set ``entry`` in a file or folder, or all of its sets.

    Args:
        path: a file with one of the endings :data:`FILES`, a folder of pairs, or one of classes.
        entry: :data:`LAST`, :data:`ALL`, or the name of an entry: a number from 0 in form dc, the
            text after ``images_`` in form pair.
        channels: 1 or 3; image files are converted.

    Raises:
        DDError: if nothing of these forms is there, it is broken, or has no such entry; the message
            names the file.
    """
    if path.is_dir():
        if pairs := _pairs(path):
            return [_pair(path, name, list(pairs)) for name in _chosen(path, entry, list(pairs))]
        if folders := _class_folders(path):
            _chosen(path, entry, ["0"])
            return [_of_folders(folders, channels)]
        raise DDError(
            f"{path}: holds no set: expected images_NAME.pt beside labels_NAME.pt, or a folder of "
            "image files for each class"
        )
    if path.suffix.lower() not in FILES:
        if not path.exists():
            raise DDError(f"{path}: no such file or folder")
        raise DDError(f"{path}: sets are in files that end in {', '.join(FILES)}, or in folders")
    if path.suffix.lower() == ".safetensors":
        _chosen(path, entry, ["0"])
        return [_ready(path)]
    if path.suffix.lower() == ".npz":
        _chosen(path, entry, ["0"])
        return [_of_arrays(path)]
    if (start := _IMAGES.fullmatch(path.name)) and start[1] in _pairs(path.parent):
        _chosen(path, entry, [start[1]])
        return [_pair(path.parent, start[1], [start[1]])]
    return _of_pickle(path, entry)


def _chosen(path: Path, entry: str, entries: list[str]) -> list[str]:
    """The entries that ``entry`` asks for."""
    if entry == ALL:
        return entries
    if entry == LAST:
        return [BEST if BEST in entries else entries[-1]]
    if entry not in entries:
        raise DDError(f"{path}: {unknown('entry', entry, entries)}")
    return [entry]


# pickled files

_IMAGES = re.compile(r"images_(?!zca_)(.+)\.pt")  # images_zca_N.pt are pixels, for viewing


def _of_pickle(path: Path, entry: str) -> list[Found]:
    held = load_pickled(path)
    if isinstance(held, dict) and isinstance(held.get("data"), list):
        entries = [str(number) for number in range(len(held["data"]))]
        if not entries:
            raise DDError(f"{path}: its 'data' has no entry")
        return [
            _of_two(path, held["data"][int(name)], name, entries)
            for name in _chosen(path, entry, entries)
        ]
    _chosen(path, entry, ["0"])
    if isinstance(held, dict):
        return [_of_fields(path, held)]
    if isinstance(held, list | tuple):
        return [_of_two(path, held, "0", ["0"], form="fields")]
    raise DDError(
        f"{path}: holds a {type(held).__name__}; expected {{'data': [[images, labels], ...]}}, "
        "{'images': ..., 'labels': ...}, or images_NAME.pt beside labels_NAME.pt"
    )


def _of_two(path: Path, held: Any, name: str, entries: list[str], form: str = "dc") -> Found:
    what, of = (f"entry {name}", f" of entry {name}") if form == "dc" else ("it", "")
    if not isinstance(held, list | tuple) or len(held) != 2:
        size = f" of {len(held)}" if isinstance(held, list | tuple | dict) else ""
        raise DDError(
            f"{path}: {what} is a {type(held).__name__}{size}, it must be a pair: images and labels"
        )
    images, labels = (
        plain(path, held[at], part + of) for at, part in enumerate(("images", "labels"))
    )
    return Found(form, [path], name, entries, images, labels, _objective(path, "dc"))


def _of_fields(path: Path, held: Mapping[Any, Any]) -> Found:
    images, labels = (
        plain(path, held[_name(path, held, part)], f"'{part}'") for part in ("images", "labels")
    )
    rate = next((held[name] for name in _NAMES["lr"] if name in held), None)
    return Found(
        "fields", [path], "0", ["0"], images, labels, _objective(path, "dc"), _rate(path, rate)
    )


def _name(path: Path, held: Mapping[Any, Any], part: str) -> str:
    """The name under which ``held`` has the images or labels."""
    for name in _NAMES[part]:
        if name in held:
            return name
    known = ", ".join(sorted(str(name) for name in held)[:8]) or "nothing"
    raise DDError(f"{path}: has no '{part}' (it holds {known})")


def _rate(path: Path, value: Any) -> float | None:
    """A learning rate: a number, or a tensor with one."""
    if value is None:
        return None
    if isinstance(value, Tensor):
        number = plain(path, value, "the learning rate")
        value = number.double().item() if number.numel() == 1 else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 3e38:
        raise DDError(f"{path}: its learning rate must be one number above 0")
    return float(value)


def _objective(path: Path, otherwise: str) -> str:
    """The recipe that the words of a file's name suggest, such as ``res_DSA_CIFAR10``."""
    words = re.split(r"[^a-z0-9]+", path.stem.lower())
    return next((word for word in words if word in _METHODS), otherwise)


# pairs of files


def _pairs(folder: Path) -> dict[str, Path]:
    """The files ``images_NAME.pt`` of a folder that have labels, by NAME; numbers ascending."""
    found = {}
    for file in folder.iterdir() if folder.is_dir() else ():
        name = _IMAGES.fullmatch(file.name)
        if name and (folder / f"labels_{name[1]}.pt").is_file():
            found[name[1]] = file

    def order(name: str) -> tuple[int, int, str]:
        return (0, int(name), name) if name.isdecimal() else (1, 0, name)

    return {name: found[name] for name in sorted(found, key=order)}


def _pair(folder: Path, name: str, entries: list[str]) -> Found:
    files = [folder / f"{part}_{name}.pt" for part in ("images", "labels")]
    images, labels = (
        plain(file, load_pickled(file), part)
        for file, part in zip(files, ("images", "labels"), strict=True)
    )
    rate, rates = None, folder / f"lr_{name}.pt"
    if rates.is_file():
        rate, files = _rate(rates, load_pickled(rates)), [*files, rates]
    notes = []
    if name == BEST:
        notes.append(
            f"images_{BEST}.pt is what the field's code saves when the accuracy on the test split "
            "is the highest so far: the set was selected on test data"
        )
    return Found("pair", files, name, entries, images, labels, "mtt", rate, notes=notes)


# arrays


def _of_arrays(path: Path) -> Found:
    """A ``.npz`` file. Shapes are looked at before any array is read, and nothing is unpickled."""
    if not path.is_file():
        raise DDError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist()}
            names = {part: _name(path, members, part) for part in ("images", "labels")}
            if rate := next((name for name in _NAMES["lr"] if name in members), None):
                names["lr"] = rate
            _check_size(path, [archive.getinfo(members[name]) for name in names.values()])
            for name in names.values():
                _check_array(path, archive, archive.getinfo(members[name]))
        with numpy.load(path, allow_pickle=False) as file:
            # by its whole name: 'x' and 'x.npy' are two members
            held = {part: _tensor(file[members[name]]) for part, name in names.items()}
    except DDError:
        raise
    except Exception as error:  # damaged bytes lead to errors of any type
        said = str(error).partition("\n")[0][:200]
        raise DDError(f"{path}: is broken, or no .npz file of numbers ({said})") from None
    given = _rate(path, held.get("lr"))
    objective = _objective(path, "dc")
    return Found("arrays", [path], "0", ["0"], held["images"], held["labels"], objective, given)


def _check_size(path: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    """Refuse arrays that claim to unpack to very much more than is there, one or all of them."""
    packed = sum(member.compress_size for member in members)
    unpacked = sum(member.file_size for member in members)
    if unpacked > max(packed, MOST_UNPACKED):
        listed = ", ".join(f"'{member.filename}'" for member in members)
        raise DDError(
            f"{path}: {listed} unpack {packed} bytes to {unpacked}; at most {MOST_UNPACKED} are "
            "read of compressed arrays"
        )


def _check_array(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Refuse an array of what torch has no numbers of, and one that claims more than is there."""
    with archive.open(member) as stream:
        try:
            version = numpy.lib.format.read_magic(stream)
            header = numpy.lib.format.read_array_header_1_0
            if version != (1, 0):
                header = numpy.lib.format.read_array_header_2_0
            shape, _, kind = header(stream)
        except ValueError:  # what NumPy says of it may be long, or show objects of Python
            raise DDError(
                f"{path}: '{member.filename}' does not start as an array of NumPy does"
            ) from None
        claimed = kind.itemsize * int(numpy.prod([int(side) for side in shape], dtype=object))
    if kind.hasobject or kind.kind not in "biuf":
        raise DDError(f"{path}: '{member.filename}' is of {kind}, it must be numbers")
    if kind.itemsize > 8:  # wider than double, another format on each machine
        raise DDError(f"{path}: '{member.filename}' is of {kind}, which torch does not have")
    if claimed > member.file_size:
        raise DDError(
            f"{path}: '{member.filename}' claims {claimed} bytes, {member.file_size} are there"
        )


def _tensor(array: numpy.ndarray) -> Tensor:
    """The array in the byte order of this machine."""
    return torch.from_numpy(numpy.ascontiguousarray(array, array.dtype.newbyteorder("=")))


# image files


def _class_folders(root: Path) -> dict[str, list[Path]]:
    """The folders of ``root`` with image files, by name; ``new2`` comes before ``new10``.

    None beside files of sets: then they show what is in these files.
    """
    found = {}
    entries = list(root.iterdir()) if root.is_dir() else []
    if any(entry.suffix.lower() in FILES for entry in entries):
        return {}
    for folder in entries:
        if folder.is_dir() and not folder.name.startswith("."):
            files = sorted(
                file
                for file in folder.iterdir()
                if file.suffix.lower() in EXTENSIONS and file.name[0] != "." and file.is_file()
            )
            if files:
                found[composed(folder.name)] = files

    def order(name: str) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdecimal() else (-1, part)
                for part in re.split(r"(\d+)", name) if part]  # fmt: skip

    return {name: found[name] for name in sorted(found, key=order)}


def _of_folders(folders: Mapping[str, list[Path]], channels: int) -> Found:
    files = [file for members in folders.values() for file in members]
    labels = [label for label, members in enumerate(folders.values()) for _ in members]
    return Found(
        "folders",
        files,
        "0",
        ["0"],
        torch.from_numpy(decode_all(files, channels=channels)),
        torch.tensor(labels),
        "sre2l",
        names=list(folders),
    )


# safetensors


def _ready(path: Path) -> Found:
    made = synthetic.load(path)
    if made.images is None:
        raise DDError(f"{path}: holds indices of real images; evaluate it with its own dataset")
    objective = str(made.header.get("objective") or _objective(path, "dc"))
    return Found(
        "set", [path], "0", ["0"], made.images, made.labels, objective, made.learned_lr, ready=made
    )
