"""Image files as uint8 arrays.

Decoding runs in processes, not threads: for small files most of the time is spent in Python, where
threads do not help (CIFAR-10's 60,000 JPEGs on 2 cores: 11.5 s with threads, 3.3 s with processes).
This module does not import torch, so that such a process starts quickly.
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

_GREY = ("1", "L", "LA", "La")  # modes of Pillow; every other 8-bit mode counts as colour
_CHUNK = 64  # files that a process decodes before it returns them
_SERIAL = 2000  # with fewer files, starting processes costs more than it saves


def decode_all(
    paths: Sequence[Path], resize: int | None = None, channels: int | None = None, workers: int = 1
) -> np.ndarray:
    """Decode image files into one array, uint8 [N, C, H, W].

    Palette images, and images with transparency (which is dropped), count as colour. 16-bit grey
    is scaled to 8 bits.

    Args:
        paths: the files, at least one.
        resize: crop each image to its central square, then resize it (bilinear, antialiased) to
            this side. None: all images must already have the same size.
        channels: convert to 1 (luma) or 3. None: all images must have the same number.
        workers: number of decoding processes.

    Raises:
        DDError: names the file that is unreadable or differs from the first one in size or colour.
    """
    decoded = _images(paths, resize, channels, workers)
    first = next(decoded)
    images = np.empty((len(paths), *first.shape), dtype=np.uint8)
    for index, image in enumerate(chain([first], decoded)):
        if image.shape != first.shape:
            raise _unlike(paths[0], first, paths[index], image)
        images[index] = image
    return images


def decode(path: Path, resize: int | None = None, channels: int | None = None) -> np.ndarray:
    """One image file as uint8 [C, H, W]; arguments and errors as in :func:`decode_all`."""
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
        # crop first: resize's own box argument lets pixels outside the box influence the result
        image = image.crop((left, top, left + side, top + side))
        image = image.resize((resize, resize), Image.Resampling.BILINEAR)
    array = np.asarray(image)
    return array[None] if grey else array.transpose(2, 0, 1)


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image as mode L or RGB."""
    if image.mode.startswith("I"):  # 16-bit grey with 65535 as white; Pillow's own conversion clips
        scaled = np.rint(np.asarray(image, dtype=np.float64) / 257)
        return Image.fromarray(scaled.clip(0, 255).astype(np.uint8))
    return image.convert("L" if image.mode in _GREY else "RGB")


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
    # spawn, because a fork of a process with running threads may hang
    with ProcessPoolExecutor(
        workers, get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_IGN)
    ) as pool:
        try:
            yield from chain.from_iterable(pool.map(work, chunks))
        except BrokenProcessPool:
            raise DDError(
                f"a process that decoded {len(paths)} images ({paths[0]}, ...) was killed "
                "(out of memory?); try --threads 1"
            ) from None


def _decode_chunk(
    paths: Sequence[Path], resize: int | None, channels: int | None
) -> list[np.ndarray]:
    return [decode(path, resize, channels) for path in paths]
