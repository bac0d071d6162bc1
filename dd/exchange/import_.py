"""Make synthetic sets of this suite from sets that others published, without running their files.

Reads files of torch.save (DC, DSA, DM and kin; MTT, DATM), .npz, and folders of images by class
(SRe2L and kin). A folder of such sets gives a file for each. Nothing but tensors, lists and numbers
is read from a file; any other is refused.
"""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dd.artifacts.atomic import check_apart, check_folder, check_safetensors, check_target
from dd.artifacts.provenance import command_line, provenance
from dd.config import recipes
from dd.config.settings import MOST, at_most
from dd.data import synthetic
from dd.data.extent import KNOWN
from dd.data.raw import source_digest
from dd.data.synthetic import renumbered
from dd.errors import DDError, unknown
from dd.exchange.classes import class_numbers
from dd.exchange.forms import ALL, CODE, FILES, LAST, Found, is_set, read
from dd.exchange.target import Target, target_of
from dd.exchange.units import (
    AUTO,
    BYTES,
    NORMALISED,
    PIXELS,
    UNITS,
    WHITENED,
    class_labels,
    in_space,
)
from dd.runtime.say import say

_DEPTH = 4  # folders below the one that is given in which sets are looked for


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m dd import``."""
    parser.add_argument(
        "path", type=Path, metavar="PATH", help="a file, a folder that is a set, or one of sets"
    )
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        help="file to write (.safetensors); for several sets, the folder for their files",
    )
    parser.add_argument(
        "--data", type=Path, metavar="FILE", help="prepared dataset (default: --dataset)"
    )
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help=f"published dataset: one of {', '.join(KNOWN)}; with --data, the one that FILE is, "
        "for the mean and std of the images (default: the source of --data)",
    )
    parser.add_argument(
        "--normalise-as",
        metavar="NAME",
        help="whose mean and std the images are normalised with, as in prepare (default: those "
        "which the published dataset has in the code that writes the form, else those of --data)",
    )
    parser.add_argument(
        "--units",
        choices=UNITS,
        default=AUTO,
        help="what the numbers of the images are: normalised by channel, whitened by ZCA, pixels "
        "in [0, 1], or bytes (0 to 255); auto: pixels or bytes where all are in such a range, "
        "else normalised",
    )
    parser.add_argument(
        "--entry",
        default=LAST,
        help=f"which set of a file that holds several: a number from 0, the NAME of "
        f"images_NAME.pt, {LAST}, or {ALL}",
    )
    facts = parser.add_argument_group("what files do not say")
    facts.add_argument(
        "--objective",
        metavar="NAME",
        help="method whose recipe networks are trained with (default: as form and name of the file "
        "suggest)",
    )
    facts.add_argument(
        "--lr", type=float, help="learning rate that the method learned (default: that of the file)"
    )
    facts.add_argument(
        "--iterations",
        type=at_most("--iterations", MOST),
        help="iterations after which the set was saved (default: not said)",
    )
    facts.add_argument(
        "--ipc",
        type=at_most("--ipc", MOST),
        metavar="N",
        help="images that the set must have of each class; another one is refused (default: any)",
    )
    facts.add_argument("--by", default="", metavar="TEXT", help="whose set it is (default: empty)")


def run(arguments: argparse.Namespace) -> None:
    """Import a set, or each set of a folder."""
    _check_options(arguments)
    target = target_of(arguments.data, arguments.dataset, arguments.normalise_as)
    path, out = arguments.path, arguments.out
    if not path.is_dir() or is_set(path):
        found = read(path, arguments.entry, target.extent.channels)
        if len(found) == 1:
            check_safetensors("--out", out)
            check_target(out)
            _check_apart(out, path)
            say(_advice(_write(found[0], path, target, arguments, out), out, arguments))
            return
    _check_folder(out)
    _check_apart(out, path)
    written: dict[Path, tuple[synthetic.SyntheticSet, Path]] = {}
    skipped, first = Counter[str](), ""

    def skip(error: DDError) -> None:
        nonlocal first
        first = first or str(error)
        skipped["sets"] += 1
        say(f"import: skipped: {error}")

    several = path.is_dir() and not is_set(path)
    for source, name in _sets(path, skipped) if several else [(path, _stem(path))]:
        try:
            found = read(source, arguments.entry, target.extent.channels)
        except DDError as error:
            skip(error)
            continue
        for one in found:
            tail = f"-{one.entry}" if arguments.entry == ALL and len(one.entries) > 1 else ""
            file = out / f"{name}{tail}.safetensors"
            try:
                if file in written:
                    raise DDError(
                        f"{source}: {file} is that of {written[file][1]}; import it alone, to "
                        "another --out"
                    )
                written[file] = _write(one, source, target, arguments, file), source
            except DDError as error:
                skip(error)
    others = ", ".join(f"{count} {what}" for what, count in sorted(skipped.items()))
    if not written:
        raise DDError(f"{path}: no set could be imported ({first or others or 'it is empty'})")
    say(f"import: {len(written)} sets in {out}" + (f"; skipped: {others}" if others else ""))
    file, (made, _) = list(written.items())[-1]
    say(_advice(made, file, arguments))


def _check_options(arguments: argparse.Namespace) -> None:
    objective, rate = arguments.objective, arguments.lr
    if objective is not None and objective not in recipes.objectives():
        raise DDError(f"--objective: {unknown('objective', objective, recipes.objectives())}")
    if arguments.normalise_as is not None and arguments.units == WHITENED:
        raise DDError("--normalise-as: whitened images have no mean and std; leave it out")
    if rate is not None and not 0 < rate < 3e38:
        raise DDError(f"--lr is {rate}, it must be a number above 0")
    if arguments.iterations is not None and arguments.iterations < 0:
        raise DDError(f"--iterations is {arguments.iterations}, it must be at least 0")
    if arguments.ipc is not None and arguments.ipc < 1:
        raise DDError(f"--ipc is {arguments.ipc}, it must be at least 1")


def _check_folder(out: Path) -> None:
    if out.suffix == ".safetensors":
        raise DDError(f"--out: {out} must be a folder, for a file of each set")
    check_folder(out)


def _check_apart(out: Path, path: Path) -> None:
    """Refuse to write into what is read, and so to import again what was imported."""
    inside, read_from = out.resolve(), path.resolve()
    if inside == read_from or (path.is_dir() and inside.is_relative_to(read_from)):
        raise DDError(f"--out: {out} is in {path}, which is read; choose another place")


def _stem(path: Path) -> str:
    """The name of a file without its ending, or that of a folder."""
    return path.resolve().name if path.is_dir() else path.stem


def _sets(root: Path, skipped: Counter[str], depth: int = _DEPTH) -> Iterator[tuple[Path, str]]:
    """The sets in a folder and in folders below it, each with a name for its file."""
    entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    stems = Counter(entry.stem for entry in entries if entry.suffix.lower() in FILES)
    for entry in entries:
        if entry.is_dir():
            if is_set(entry):
                yield entry, entry.name
            elif depth > 1:
                for source, name in _sets(entry, skipped, depth - 1):
                    yield source, f"{entry.name}-{name}"
            else:
                skipped["folders that lie too deep"] += 1
        elif is_set(entry):
            yield entry, entry.stem if stems[entry.stem] == 1 else entry.name.replace(".", "-")
        else:
            skipped[f"files {entry.suffix.lower() or 'without an ending'}"] += 1


def _write(
    found: Found, source: Path, target: Target, arguments: argparse.Namespace, out: Path
) -> synthetic.SyntheticSet:
    """Write the set ``found`` in ``source`` to ``out``, say what was assumed, and return it."""
    check_target(out)
    check_apart(out, arguments.data)
    target = target.as_in(CODE.get(found.form))
    said = [f"{found.path}: form {found.form}", *found.notes]
    if len(found.entries) > 1:
        others = f" of {', '.join(found.entries)}, which may be several sets or states of one"
        said.append(f"entry {found.entry}{others} (--entry)")
    objective = arguments.objective or found.objective
    if objective not in recipes.objectives():
        objective = "dc"
    try:
        made, notes, taken = _made(found, target, arguments.units, objective)
    except DDError as error:
        raise DDError(f"{found.place}: {error}") from None
    if arguments.lr is not None:
        made.learned_lr = arguments.lr
    hard = made.hard_labels
    each = hard.bincount(minlength=target.extent.classes).tolist()
    if arguments.ipc is not None:
        _check_ipc(found.place, made, each, arguments.ipc)
    lacking = [str(label) for label, count in enumerate(each) if not count]
    if lacking:
        notes.append(f"no image of {len(lacking)} classes, the first is {lacking[0]}")
    ipc = max(1, len(hard) // target.extent.classes)
    kept = {key: fact for key, fact in made.header.items() if key not in ("kind", "format")}
    made.header = {
        **kept,
        "dataset": target.name,
        "dataset_label": target.label,
        "objective": objective,
        "ipc": ipc,
        **({} if arguments.iterations is None else {"iteration": arguments.iterations}),
        "imported": {
            "by": arguments.by,
            "form": found.form,
            "files": [file.name for file in found.files[:3]],
            "sha256": found.digest(),
            "source": source_digest(source),
            "entry": found.entry,
            "entries": len(found.entries),
            **taken,
        },
        "provenance": provenance(command=command_line()),
    }
    synthetic.save(out, made)
    for note in [*said, *notes]:
        say(f"import: {note}")
    say(f"{out}: {len(hard)} images, {_sizes(each)} a class")
    return made


def _sizes(each: list[int]) -> str:
    return str(min(each)) if min(each) == max(each) else f"{min(each)} to {max(each)}"


def _check_ipc(place: str, made: synthetic.SyntheticSet, each: list[int], ipc: int) -> None:
    """Refuse a set that has not ``ipc`` images of each class.

    Labels that were learned need not have their largest value at the class for which an image was
    made, so of a set with such labels only the number of all images is known.
    """
    if made.labels.ndim == 2 and sum(each) == ipc * len(each):
        return
    if made.labels.ndim == 1 and set(each) == {ipc}:
        return
    held = f"{sum(each)} images" if made.labels.ndim == 2 else f"{_sizes(each)} images a class"
    wanted = f"ipc {ipc}" + (f", {ipc * len(each)} images" if made.labels.ndim == 2 else "")
    raise DDError(
        f"{place}: holds {held}, not {wanted} (--ipc; in a run, that of its entry in imported)"
    )


def _made(
    found: Found, target: Target, units: str, objective: str
) -> tuple[synthetic.SyntheticSet, list[str], dict[str, str]]:
    """The set in the units of this suite, what a user must know, and what was assumed."""
    shape = (target.extent.channels, *target.extent.size)
    order, notes = _order(found, target)
    images, more = _shaped(found.images, shape, target.name)
    notes += more
    ready = found.ready
    regresses = recipes.learns_targets(objective) if ready is None else ready.regresses
    labels, more = class_labels(found.labels, target.extent.classes, regresses)
    notes += more
    if order is not None:
        labels = renumbered(labels, order)
    if len(labels) != len(images):
        raise DDError(f"it has {len(images)} images and {len(labels)} labels")
    said = None if ready is None else _own_units(ready)
    if ready is not None and said is not None:
        if target.stated:
            raise DDError("it says what its images are; leave --normalise-as out")
        if units not in (AUTO, said):
            raise DDError(
                f"it says what its images are; leave --units out (they are {said}, not {units})"
            )
        assumed = {"units": said}
        assumed["normalisation"] = "none" if said == WHITENED else "the set's own"
        return replace(ready, labels=labels), notes, assumed
    if ready is not None and ready.whitening == "none" and units == WHITENED:
        raise DDError("it says that its images are not whitened; choose other --units")
    if found.names is not None:
        units = _of_files(units)
    images, taken, more = in_space(images, units, target.space, target.told)
    notes += more
    header = {} if ready is None else dict(ready.header)  # what it says of itself stays true
    header["whitening"] = "zca" if taken == WHITENED else "none"
    if order is not None and target.classes is not None:
        header["classes"] = list(target.classes)
    if ready is None and regresses and labels.ndim == 2:
        header["labels"] = "targets"
    mean, std = (None, None) if taken == WHITENED else (target.space.mean, target.space.std)
    schedule = None if ready is None else ready.schedule
    made = synthetic.SyntheticSet(
        images.clone(), labels.clone(), mean, std, found.rate, header, schedule=schedule
    )
    return made, notes, {"units": taken, "normalisation": "none" if mean is None else target.said}


def _own_units(ready: synthetic.SyntheticSet) -> str | None:
    """The units that a set says its images are in; None if it does not say it."""
    if ready.mean is not None:
        return NORMALISED
    return WHITENED if ready.whitening == "zca" else None


def _of_files(units: str) -> str:
    """The units of image files, which hold pixels whatever an option says."""
    if units not in (AUTO, BYTES, PIXELS):
        raise DDError(f"image files hold pixels, not {units} values; leave --units out")
    return BYTES


def _shaped(images: Tensor, shape: tuple[int, ...], name: str) -> tuple[Tensor, list[str]]:
    """The images as ``[M, C, H, W]``."""
    if not images.numel():
        raise DDError(f"it has no images ({list(images.shape)})")
    if images.dtype == torch.bool:
        raise DDError(f"its images are {images.dtype} {list(images.shape)}, not numbers")
    if shape[0] == 1 and tuple(images.shape[1:]) == shape[1:]:
        images = images.unsqueeze(1)
    if tuple(images.shape[1:]) == shape:
        return images, []
    if tuple(images.shape[1:]) == (*shape[1:], shape[0]):
        return images.movedim(-1, 1), ["images are taken as [M, H, W, C]"]
    expected = ", ".join(map(str, shape))
    raise DDError(f"its images are {list(images.shape)}, those of {name} are [M, {expected}]")


def _order(found: Found, target: Target) -> tuple[Tensor | None, list[str]]:
    """The class of the dataset that each label of ``found`` is, ``[K]``, and what a user must know;
    None if labels are taken as they are."""
    code, numbered = CODE.get(found.form), None
    if found.names is None and code is not None:
        numbered = target.order_in(code)
    names = found.names if numbered is None else numbered
    if names is None:
        return None, []
    if len(names) != target.extent.classes:
        what = "folders for" if numbered is None else "labels for"
        raise DDError(
            f"it has {what} {len(names)} classes, {target.name} has {target.extent.classes}"
        )
    order = class_numbers(names, target.classes or (), target.name)
    listed = ", ".join(names[:2])
    if code is None:
        if order is not None:
            return order, [f"folders are classes of {target.name} by name"]
        return None, [f"folders in order ({listed}, ...) are taken as the classes of {target.name}"]
    said = f"{code.upper()}'s code numbers the classes of {target.published} as {listed}, ..."
    if order is None:
        raise DDError(
            f"{said}, and {target.name} names none of them; prepare it from folders of these names"
        )
    return order, [f"{said}; labels are put in the order of {target.name}"]


def _advice(made: synthetic.SyntheticSet, out: Path, arguments: argparse.Namespace) -> str:
    """The command that evaluates the set at ``out``, and whose recipe it follows."""
    objective, name = made.header["objective"], made.header["dataset"]
    recipe = recipes.resolve_evaluation(objective, name, made.header["ipc"])
    rate = recipe["lr"] if made.learned_lr is None else made.learned_lr
    files = ["--synthetic", str(out), "--data", str(arguments.data or "DATA")]
    words = ["python", "-m", "dd", "evaluate", *files, "--arch", "convnet", "--out", "RESULTS.csv"]
    if made.schedule is not None:
        return f"import: evaluate by: {shlex.join([*words, '--protocol', 'steps'])} (its own steps)"
    regresses = made.regresses or recipes.learns_targets(objective)
    words += ["--protocol", "regression"] if regresses else []
    whitened = "; prepare DATA with --zca" if made.whitening == "zca" else ""
    soft = "; it learns from labels of views: python -m dd relabel" if objective == "sre2l" else ""
    return (
        f"import: evaluate by: {shlex.join(words)} (recipe of {objective}: {recipe['epochs']} "
        f"epochs, lr {rate:g}, augment {recipe['augment']}{whitened}{soft})"
    )
