"""Image files at random, a small dataset, and the command that prepares it."""

from __future__ import annotations

import numpy as np
from PIL import Image

from dd.command import main


def random_pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def picture(path, mode="RGB", size=(6, 5), seed=0):
    """A random image file; returns its values, [H, W] or [H, W, bands]."""
    width, height = size
    bands = {"L": (), "LA": (2,), "RGB": (3,), "RGBA": (4,), "CMYK": (4,), "P": ()}[mode]
    values = random_pixels(height, width, *bands, seed=seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.frombytes(mode, size, values.tobytes())
    if mode == "P":
        image.putpalette(random_pixels(768, seed=1).tobytes())
    image.save(path)
    return values


def cli(capsys, *arguments):
    """Exit status, output and error of ``python -m dd prepare``."""
    status = main(["prepare", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def append(path, text):
    path.write_text(path.read_text() + text)


def refused(capsys, tmp_path, expected, *arguments):
    """``prepare`` says ``expected`` in one line and writes nothing."""
    out = tmp_path / "x.safetensors"
    status, _, error = cli(capsys, *arguments, "--out", out)
    assert status == 2
    assert expected in error
    assert error.count("\n") == 1
    assert not out.exists()
