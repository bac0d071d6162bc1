"""Synthetic sets as others publish them."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy
import torch
from PIL import Image
from torch import Tensor


def dc_form(path: Path, *pairs, **more) -> Path:
    """``{'data': [[images, labels], ...], 'accs_all_exps': ...}``, with accuracies of NumPy."""
    accuracies = {"ConvNet": [numpy.float64(0.25), numpy.float32(0.5)]}
    torch.save({"data": [list(p) for p in pairs], "accs_all_exps": accuracies}, path, **more)
    return path


def a_set(seed: int = 0, ipc: int = 1, shape=(1, 8, 8), classes: int = 10) -> tuple[Tensor, Tensor]:
    """Random images and the labels of our own sets."""
    stream = torch.Generator().manual_seed(seed)
    images = 2 * torch.randn(classes * ipc, *shape, generator=stream)
    return images, torch.arange(classes).repeat_interleave(ipc)


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def repacked(path: Path, out: Path, compression: int = zipfile.ZIP_STORED, **parts: bytes) -> Path:
    """The archive at ``path`` with other parts, by the last word of their names."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", compression) as new:
        for member in old.infolist():
            word = member.filename.rpartition("/")[2].partition(".")[0]
            new.writestr(member.filename, parts.get(word, old.read(member.filename)))
    return out


def described(path: Path) -> bytes:
    """The part of an archive of torch.save that says what the tensors are."""
    with zipfile.ZipFile(path) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("data.pkl")]
        return archive.read(name)


def pictures(root: Path, pixels: numpy.ndarray, labels, names) -> Path:
    """PNG files of uint8 ``[M, H, W]`` in a folder for each class."""
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        folder = root / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:03}.png")
    return root


def archive_of(path: Path, **arrays) -> Path:
    """A .npz file, with arrays of objects pickled."""
    buffer = io.BytesIO()
    numpy.savez(buffer, **arrays)
    path.write_bytes(buffer.getvalue())
    return path


def pickled(path: Path, value: object, protocol: int) -> Path:
    """A plain pickle."""
    path.write_bytes(pickle.dumps(value, protocol))
    return path
