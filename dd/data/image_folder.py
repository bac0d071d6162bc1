"""Images in folders, ``ROOT/{train,test}/<class>/*.{png,jpg,jpeg,webp}``, as uint8 arrays.

Decoding runs in processes: small files are bound by Python, where threads gain nothing (CIFAR-10's
60,000 JPEGs on 2 cores: 11.5 s with threads, 3.3 s with processes). This module imports no torch,
so that such a process starts at once.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from dd.errors import DDError

EXTENSIONS = (".jpeg", ".jpg", ".png", ".webp")
_GREY = ("1", "L", "LA", "La")  # Pillow's modes; every other one of 8 bits counts as colour
_CHUNK = 64  # files that a process decodes between two messages
_SERIAL = 2000  # below so many files starting processes costs more than it gains


def read(
    root: Path, resize: int | None = None, channels: int | None = None, workers: int = 1
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], list[str]]:
    """Read both splits of an image folder.

    Hidden entries and files of other types are ignored. Palette images, and images with
    transparency (which is dropped), count as colour; 16-bit grey is scaled to 8 bits.

    Args:
        root: folder that holds ``train`` and ``test``.
        resize: crop each image to its central square, then resize it (bilinear, antialiased) to
            this side. None: all images must have one size already.
        channels: convert to 1 (luma) or 3. None: all images must have the same.
        workers: number of decoding processes.

    Returns:
        ``{"train": (images uint8 [N, C, H, W], labels int64 [N]), "test": ...}`` and the class
        names, sorted; images are sorted by class and file name.

    Raises:
        DDError: naming the folder or file that is missing, unreadable or unlike the others.
    """
    files = {split: _list(root, split) for split in ("train", "test")}
    for one, other in (("train", "test"), ("test", "train")):
        alone = sorted(files[one].keys() - files[other].keys())
        if alone:
            raise DDError(
                f"{root}: class '{alone[0]}' is in {one} but not in {other} "
                f"({len(alone)} such); both must hold the same classes"
            )
    classes = sorted(files["train"])
    paths = {split: [p for name in classes for p in found[name]] for split, found in files.items()}
    images = _decode_all(paths["train"] + paths["test"], resize, channels, workers)
    count = len(paths["train"])
    parts = {"train": images[:count], "test": images[count:]}
    labels = {
        split: np.repeat(np.arange(len(classes)), [len(found[name]) for name in classes])
        for split, found in files.items()
    }
    return {split: (parts[split], labels[split].astype(np.int64)) for split in parts}, classes


def decode(path: Path, resize: int | None = None, channels: int | None = None) -> np.ndarray:
    """One image file as uint8 [C, H, W]; arguments and errors as in :func:`read`."""
    try:
        with Image.open(path) as opened:
            image = _eight_bits(opened)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else error
        raise DDError(f"{path}: cannot be read as an image ({reason})") from None
    grey = image.mode == "L" if channels is None else channels == 1
    image = image.convert("L" if grey else "RGB")
    if resize is not None:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        # cropped first: resize's own box argument lets pixels outside the box shine in
        image = image.crop((left, top, left + side, top + side))
        image = image.resize((resize, resize), Image.Resampling.BILINEAR)
    array = np.asarray(image)
    return array[None] if grey else array.transpose(2, 0, 1)


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image as mode L or RGB."""
    if image.mode.startswith("I"):  # 16-bit grey: 65535 is white, Pillow's own conversion clips
        scaled = np.rint(np.asarray(image, dtype=np.float64) / 257)
        return Image.fromarray(scaled.clip(0, 255).astype(np.uint8))
    return image.convert("L" if image.mode in _GREY else "RGB")


def _list(root: Path, split: str) -> dict[str, list[Path]]:
    """The image files of each class of a split, sorted."""
    folder = root / split
    if not folder.is_dir():
        raise DDError(
            f"{root}: has no folder '{split}'; expected {root}/train/<class>/ and "
            f"{root}/test/<class>/ with the images"
        )
    found = {
        entry.name: sorted(
            file
            for file in entry.iterdir()
            if file.suffix.lower() in EXTENSIONS and not file.name.startswith(".")
        )
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    }
    if not found:
        raise DDError(f"{folder}: holds no class folders")
    for name, files in sorted(found.items()):
        if not files:
            kinds = ", ".join(EXTENSIONS)
            raise DDError(f"{folder / name}: class '{name}' has no image ({kinds}) directly in it")
    return found


def _decode_all(
    paths: Sequence[Path], resize: int | None, channels: int | None, workers: int
) -> np.ndarray:
    """Decode into one array [N, C, H, W]; every image must be like the first."""
    decoded = _images(paths, resize, channels, workers)
    first = next(decoded)
    images = np.empty((len(paths), *first.shape), dtype=np.uint8)
    for index, image in enumerate(chain([first], decoded)):
        if image.shape != first.shape:
            raise _unlike(paths[0], first, paths[index], image)
        images[index] = image
    return images


def _unlike(path: Path, image: np.ndarray, other_path: Path, other: np.ndarray) -> DDError:
    if len(image) != len(other):
        names = {1: "grey", 3: "colour"}
        return DDError(
            f"{path} is {names[len(image)]}, {other_path} is {names[len(other)]}: "
            "convert all with --channels 1 or --channels 3"
        )
    sizes = [f"{array.shape[2]}x{array.shape[1]}" for array in (image, other)]
    return DDError(
        f"{other_path} has {sizes[1]} pixels, {path} has {sizes[0]}: "
        "give all one size with --resize N"
    )


def _images(
    paths: Sequence[Path], resize: int | None, channels: int | None, workers: int
) -> Iterator[np.ndarray]:
    work = partial(_decode_chunk, resize=resize, channels=channels)
    if workers == 1 or len(paths) < _SERIAL:
        yield from chain.from_iterable(work([path]) for path in paths)
        return
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    # spawn: a fork of a process whose libraries hold threads may hang
    with ProcessPoolExecutor(
        workers, get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_IGN)
    ) as pool:
        try:
            yield from chain.from_iterable(pool.map(work, chunks))
        except BrokenProcessPool:
            raise DDError(
                f"a process that decoded images of {paths[0].parent.parent.parent} was killed "
                "(out of memory?); try --threads 1"
            ) from None


def _decode_chunk(
    paths: Sequence[Path], resize: int | None, channels: int | None
) -> list[np.ndarray]:
    return [decode(path, resize, channels) for path in paths]
