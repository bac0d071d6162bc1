"""Safetensors files that stages pass on, with a header and checksums.

Every file is written under a temporary name beside its target and then renamed. So a reader never
sees half of a file, and a full disk leaves the old file in place. Nothing is ever unpickled.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from dd.artifacts.atomic import replacing
from dd.artifacts.text import digest
from dd.errors import DDError

FORMAT = 1

HEADER = ""  # the key of the header's own checksum, beside those of the tensors


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
    sums = {name: _checksum(tensor) for name, tensor in plain.items()}
    metadata = {"dd": document, "sha256": json.dumps({HEADER: digest(document.encode()), **sums})}
    with replacing(path) as partial:
        try:
            save_file(plain, partial, metadata=metadata)
        except SafetensorError as error:  # its message holds the system's error number
            match = re.search(r"os error (\d+)", str(error))
            number = int(match[1]) if match else errno.EIO
            raise OSError(number, os.strerror(number), str(path)) from None


def read_header(path: str | Path) -> dict[str, Any]:
    """The header of an artifact, without its tensors; ``{}`` for a foreign safetensors file.

    Raises:
        DDError: if the file is missing, truncated or no safetensors file.
    """
    with _opened(path) as file:
        return _header(path, file)


def load_tensors(
    path: str | Path, kind: str, required: Sequence[str] = (), only: Sequence[str] | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read an artifact of ``kind``: its tensors (``only`` those named, if given) and header.

    A file without our header is accepted if it holds the ``required`` tensors: others may write
    the documented formats with any safetensors library.

    Raises:
        DDError: if the file is missing, truncated, of another kind, lacks a required tensor, or
            has a tensor whose checksum differs.
    """
    with _opened(path) as file:
        header = _header(path, file)
        names = set(file.keys())
        actual = header.get("kind")
        missing = [name for name in required if name not in names]
        if actual is not None and actual != kind:
            raise DDError(f"{path}: is a {actual} file, a {kind} file is needed")
        if missing:
            raise DDError(
                f"{path}: is no {kind} file: tensor '{missing[0]}' is missing "
                f"(it holds {', '.join(sorted(names)) or 'nothing'})"
            )
        wanted = names if only is None else names & set(only)
        try:
            tensors = {name: file.get_tensor(name) for name in sorted(wanted)}
        except (SafetensorError, OSError) as error:
            raise DDError(f"{path}: is broken ({error}); make it again") from None
        sums = _checksums(path, file)
    for name, tensor in tensors.items():
        if name in sums and sums[name] != _checksum(tensor):
            raise DDError(
                f"{path}: tensor '{name}' is not what was written (its checksum differs); delete "
                "the file and make it again"
            )
    return tensors, header


def describe_tensors(path: str | Path) -> dict[str, tuple[list[int], str]]:
    """Shape and dtype of each tensor in a safetensors file, without reading the values."""
    with _opened(path) as file:
        slices = {name: file.get_slice(name) for name in sorted(file.keys())}
        return {name: (s.get_shape(), s.get_dtype()) for name, s in slices.items()}


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    if not Path(path).is_file():
        raise DDError(f"{path}: no such file")
    try:
        file = safetensors.safe_open(str(path), framework="pt")
    except (SafetensorError, OSError) as error:
        raise DDError(f"{path}: is truncated, broken or no safetensors file ({error})") from None
    with file as opened:
        yield opened


def _header(path: str | Path, file: Any) -> dict[str, Any]:
    document = (file.metadata() or {}).get("dd", "{}")
    expected = _checksums(path, file).get(HEADER)
    if expected is not None and expected != digest(document.encode()):
        raise DDError(
            f"{path}: its header is not what was written (its checksum differs); delete the file "
            "and make it again"
        )
    try:
        header = json.loads(document)
    except json.JSONDecodeError:
        raise DDError(f"{path}: its header is not JSON; make the file again") from None
    if not isinstance(header, dict):
        raise DDError(f"{path}: its header is no JSON object; make the file again")
    if header.get("format", FORMAT) != FORMAT:
        raise DDError(
            f"{path}: has format {header['format']}, this version reads {FORMAT}; make it again"
        )
    return header


def _checksums(path: str | Path, file: Any) -> dict[str, str]:
    """The checksums that the file was written with; empty for a foreign file."""
    try:
        sums = json.loads((file.metadata() or {}).get("sha256", "{}"))
    except json.JSONDecodeError:
        sums = None
    if not isinstance(sums, dict):
        raise DDError(f"{path}: its checksums are broken; delete the file and make it again")
    return sums


def _checksum(tensor: torch.Tensor) -> str:
    """The checksum of the bytes of a contiguous tensor on the CPU."""
    return digest(tensor.reshape(-1).view(torch.uint8).numpy().data)
