"""Write a synthetic set for others: PNG files by class, or a file of torch.save in DC's form.

PNG holds pixels, so normalisation and whitening are undone, and values outside 0 to 255 are cut
off. DC's form, ``{'data': [[images, labels]], 'accs_all_exps': {}}``, holds the images in the units
of the set, unchanged.
"""

from __future__ import annotations

import argparse
import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy
import torch
from PIL import Image
from torch import Tensor

from dd.artifacts.atomic import check_apart, check_folder, check_target, replacing
from dd.data import synthetic
from dd.data.dataset import Dataset, load_dataset
from dd.data.fit import fit
from dd.data.space import Space, outside_pixels
from dd.data.synthetic import SyntheticSet
from dd.errors import DDError
from dd.exchange.classes import class_numbers
from dd.runtime.say import say

# what no folder can have in its name on some system; the dot: hidden folders are not read
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]|^(?:\.|$)')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m dd export``."""
    parser.add_argument("set", type=Path, metavar="SET", help="synthetic set (docs/formats.md)")
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        help="what to write: a file that ends in .pt, in DC's form; or a new folder, for a folder "
        "of PNG files for each class",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="prepared dataset: for the names of the classes, and for a set that is whitened, "
        "holds indices, or does not say its mean and std (default: none)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Write the set."""
    out = arguments.out
    check_apart(out, arguments.set, arguments.data)
    made = synthetic.load(arguments.set)
    dataset = None
    if arguments.data is not None:
        dataset = load_dataset(arguments.data, whitening=made.whitening or "none")
        made, notes, _ = fit(made, dataset)
        for note in notes:
            say(f"export: {arguments.set}: {note}")
    if out.suffix == ".pt":
        _pickled(made, dataset, out)
    elif out.suffix:
        raise DDError(f"--out: {out} must end in .pt, or be a folder without an ending")
    else:
        _pictures(arguments.set, made, dataset, out)


def _pickled(made: SyntheticSet, dataset: Dataset | None, out: Path) -> None:
    """A file in DC's form. Labels ``[M, K]`` stay what they are: probabilities, or targets."""
    check_target(out)
    images = made.images if made.images is not None else made.images_for(_known(dataset))
    pair = [images.contiguous(), made.labels.contiguous()]
    written = io.BytesIO()  # of a disk that is full, torch's own writer says nothing clear
    torch.save({"data": [pair], "accs_all_exps": {}}, written)
    with replacing(out) as partial:
        partial.write_bytes(written.getbuffer())
    notes = [f"{out}: {len(made)} images in {_units(made, dataset)}", *_left_out(made)]
    names = dataset.classes if dataset else made.header.get("classes")
    if names:
        listed = ", ".join(names[:2])
        notes.append(
            f"the names of its classes are left out, labels are in the order {listed}, ..."
        )
    if made.regresses:
        notes.append("its labels are targets of a regression, which the file does not say")
    say("; ".join(notes))


def _units(made: SyntheticSet, dataset: Dataset | None) -> str:
    """What the numbers of the images are; of DC's form, readers take those of DC's code."""
    if made.whitening == "zca":
        return "whitened pixels"
    mean, std = made.mean, made.std
    if mean is None and dataset is not None:
        mean, std = dataset.mean_and_std()
    if mean is None or std is None:
        return "normalised units"
    listed = (" ".join(f"{value:.4g}" for value in part.tolist()) for part in (mean, std))
    return "normalised units (mean {}, std {})".format(*listed)


def _left_out(made: SyntheticSet) -> list[str]:
    """What a set knows of training on it, and other forms do not hold."""
    notes = []
    if made.learned_lr is not None:
        notes.append(f"its learning rate {made.learned_lr:g} is left out")
    if made.schedule is not None:
        notes.append(f"the {len(made.schedule.rates)} steps that it was made for are left out")
    return notes


def _pictures(path: Path, made: SyntheticSet, dataset: Dataset | None, out: Path) -> None:
    """``out/<class>/<position>.png``; positions are those in the set at ``path``."""
    pixels = _pixels(made, dataset)
    count, channels = len(pixels), pixels.shape[1]
    if channels not in (1, 3):
        raise DDError(f"{path}: has {channels} channels; PNG files are made of 1 or 3")
    cut = outside_pixels(pixels)
    values = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).movedim(1, -1).numpy()
    (folders, renamed), digits = _folders(path, made, dataset), max(5, len(str(count - 1)))
    files = [
        out / folders[label] / f"{position:0{digits}}.png"
        for position, label in enumerate(made.hard_labels.tolist())
    ]
    _check_free(out, files)
    for image, file in zip(values, files, strict=True):
        with replacing(file) as partial:
            shown = image[..., 0] if channels == 1 else image
            Image.fromarray(numpy.ascontiguousarray(shown)).save(partial, format="PNG")
    notes = [f"{cut:.3g} % of the values are outside the range of pixels and were cut off"]
    notes = [*(notes if cut else []), *([renamed] if renamed else [])]
    if made.labels.ndim == 2:
        kind = "targets" if made.regresses else "soft labels"
        notes.append(f"{kind} are left out: folders are the classes with the largest values")
    notes += _left_out(made)
    say(
        "; ".join(
            [f"{out}: {count} images in {len(set(made.hard_labels.tolist()))} folders", *notes]
        )
    )


def _check_free(out: Path, files: Sequence[Path]) -> None:
    """Refuse a folder with other files: they would look like images of the set."""
    check_folder(out)
    known = set(files)
    there = (path for path in out.rglob("*") if path.is_file() and path not in known)
    # what a killed process left is swept when its file is written
    if other := next((path for path in there if path.parent.suffix != ".part"), None):
        raise DDError(f"{out}: holds another file, {other.relative_to(out)}; name a new folder")


def _pixels(made: SyntheticSet, dataset: Dataset | None) -> Tensor:
    """Pixels ``[M, C, H, W]``, 0 to 1 where they are in range."""
    if made.images is not None and made.mean is not None and made.std is not None:
        return Space(made.mean, made.std).to_pixels(made.images)
    return _known(dataset).space.to_pixels(made.images_for(_known(dataset)))


def _known(dataset: Dataset | None) -> Dataset:
    if dataset is None:
        raise DDError(
            "--data: the set is whitened, holds indices, or does not say its mean and std; give "
            "the dataset that it was made from"
        )
    return dataset


def _folders(path: Path, made: SyntheticSet, dataset: Dataset | None) -> tuple[list[str], str]:
    """The name of a folder for each label: the class, or its number if no name is known; and how
    other names than those of the classes came about, "" if there are none."""
    labels = made.hard_labels
    low, high = int(labels.min()), int(labels.max())
    names = dataset.classes if dataset else made.header.get("classes")
    if low < 0 or (names is not None and high >= len(names)):
        last = "" if names is None else f" to {len(names) - 1}"
        raise DDError(f"{path}: labels span {low} to {high}, they must be from 0{last}")
    if names is None:
        return _numbers(high + 1), ""
    shown = [_FORBIDDEN.sub("-", name) for name in names]
    if not _told_apart(shown, names):
        return _numbers(len(names)), "folders are numbers of classes, whose names are no folders"
    changed = [folder for folder, name in zip(shown, names, strict=True) if folder != name]
    return shown, f"signs that no folder can have are replaced ({changed[0]})" if changed else ""


def _numbers(count: int) -> list[str]:
    return [str(label).zfill(len(str(count - 1))) for label in range(count)]


def _told_apart(folders: Sequence[str], names: Sequence[str]) -> bool:
    """Whether each of ``folders`` is another one, and means the class of its place in ``names`` to
    a reader who knows these (`python -m dd import`)."""
    if len({folder.casefold() for folder in folders}) < len(folders):
        return False
    try:
        found = class_numbers(folders, names, "")
    except DDError:
        return False
    return found is not None and found.tolist() == list(range(len(names)))
