"""Safetensors files that stages pass on, with a header and checksums.

Every file is written under a temporary name beside its target and then renamed. So a reader never
sees half of a file, and a full disk leaves the old file in place. Nothing is ever unpickled.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save, save_file

from dd.artifacts.atomic import replacing
from dd.artifacts.headers import FORMAT, HEADER, Fields, load
from dd.artifacts.text import digest


def tensors_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """16 digits that identify ``tensors``: their names, types, shapes and values."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return digest(save(plain))


def save_tensors(
    path: str | Path, kind: str, tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any]
) -> None:
    """Write an artifact of ``kind``: tensors, ``header`` as JSON under the key ``dd``, and
    checksums of both under the key ``sha256``.

    Args:
        path: the file to make or replace.
        kind: what the file is (``dataset``, ``synthetic``, ``checkpoint``).
        tensors: of any dtype and device; stored contiguous.
        header: JSON-serialisable facts, provenance among them.
    """
    document = json.dumps({"kind": kind, "format": FORMAT, **header})
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    sums = {name: digest(_content(tensor)) for name, tensor in plain.items()}
    metadata = {"dd": document, "sha256": json.dumps({HEADER: digest(document.encode()), **sums})}
    with replacing(path) as partial:
        try:
            save_file(plain, partial, metadata=metadata)
        except SafetensorError as error:  # its message holds the system's error number
            match = re.search(r"os error (\d+)", str(error))
            number = int(match[1]) if match else errno.EIO
            raise OSError(number, os.strerror(number), str(path)) from None


def load_tensors(
    path: str | Path,
    kind: str,
    required: Sequence[str] = (),
    only: Sequence[str] | None = None,
    fields: Fields | None = None,
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read an artifact of ``kind``: its tensors (``only`` those named, if given) and header.

    A file without our header is accepted if it holds the ``required`` tensors: others may write
    the documented formats with any safetensors library. ``fields`` says what the keys of the header
    must hold that the caller reads.

    Raises:
        DDError: see :func:`dd.artifacts.headers.load`.
    """
    return load(path, "pt", _content, kind, required, only, fields)


def _content(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data
