"""Read headers of safetensors artifacts, and their tensors as NumPy arrays, without torch.

Tables and the planning of a run read artifacts through this module. Stages that compute read the
same files as torch tensors (:mod:`dd.artifacts.tensors`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy
import safetensors
from safetensors import SafetensorError

from dd.artifacts.text import digest
from dd.errors import DDError

FORMAT = 1
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"  # how files of torch.save start, new and old

HEADER = ""  # the key of the header's own checksum among those of the tensors


def read_header(path: str | Path) -> dict[str, Any]:
    """The header of an artifact, without its tensors; ``{}`` for a foreign safetensors file.

    Raises:
        DDError: if the file is missing, truncated or no safetensors file.
    """
    with _opened(path) as file:
        return _header(path, file)


def describe_tensors(path: str | Path) -> dict[str, tuple[list[int], str]]:
    """Shape and dtype of each tensor in a safetensors file, without reading the values."""
    with _opened(path) as file:
        slices = {name: file.get_slice(name) for name in sorted(file.keys())}
        return {name: (s.get_shape(), s.get_dtype()) for name, s in slices.items()}


def load_arrays(
    path: str | Path, kind: str, required: Sequence[str] = (), only: Sequence[str] | None = None
) -> tuple[dict[str, numpy.ndarray], dict[str, Any]]:
    """Read an artifact of ``kind`` as NumPy arrays; see :func:`dd.artifacts.tensors.load_tensors`.

    Tensors in bfloat16 cannot be read this way, because NumPy has no such type.
    """
    return load(path, "numpy", lambda a: numpy.ascontiguousarray(a).data, kind, required, only)


def load(
    path: str | Path,
    framework: str,
    content: Callable[[Any], Any],
    kind: str,
    required: Sequence[str],
    only: Sequence[str] | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors and header of an artifact of ``kind``, with tensors of ``framework``.

    Args:
        path: the file.
        framework: ``numpy`` or ``pt``.
        content: returns the bytes of a tensor of this framework.
        kind: the kind that the file must have.
        required: tensors that the file must hold.
        only: the tensors to read; None: all.

    Raises:
        DDError: if the file is missing, truncated, of another kind, lacks a required tensor, or
            has a tensor whose checksum differs.
    """
    with _opened(path, framework) as file:
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
        chosen = names if only is None else names & set(only)
        try:
            tensors = {name: file.get_tensor(name) for name in sorted(chosen)}
        except (SafetensorError, OSError) as error:
            raise DDError(f"{path}: is broken ({error}); make it again") from None
        sums = _checksums(path, file)
    for name, tensor in tensors.items():
        if name in sums and sums[name] != digest(content(tensor)):
            raise DDError(
                f"{path}: tensor '{name}' is not what was written (its checksum differs); delete "
                "the file and make it again"
            )
    return tensors, header


@contextmanager
def _opened(path: str | Path, framework: str = "numpy") -> Iterator[Any]:
    place = Path(path)
    if not place.is_file():
        there = place.exists() and not place.is_dir()
        raise DDError(f"{path}: is a device or pipe, no file" if there else f"{path}: no such file")
    try:
        file = safetensors.safe_open(str(path), framework=framework)
    except (SafetensorError, OSError) as error:
        if _is_pickled(place):
            raise DDError(
                f"{path}: is a file of torch.save, which can run code when it is read; where you "
                "trust it, load it yourself and write its tensors with "
                "safetensors.torch.save_file (docs/formats.md)"
            ) from None
        raise DDError(f"{path}: is truncated, broken or no safetensors file ({error})") from None
    with file as opened:
        yield opened


def _is_pickled(path: Path) -> bool:
    """Whether a file that is no safetensors file starts as those of ``torch.save`` do."""
    with suppress(OSError), open(path, "rb") as file:
        return file.read(4).startswith((_ZIP, _PICKLE))
    return False


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
    except (json.JSONDecodeError, RecursionError):
        raise DDError(f"{path}: its header is not JSON; make the file again") from None
    if not isinstance(header, dict):
        raise DDError(f"{path}: its header is no JSON object; make the file again")
    if header.get("format", FORMAT) != FORMAT:
        raise DDError(
            f"{path}: has format {header['format']}, this version reads {FORMAT}; make it again"
        )
    return header


def _checksums(path: str | Path, file: Any) -> dict[str, str]:
    """The checksums that were written with the file; empty for a foreign file."""
    try:
        sums = json.loads((file.metadata() or {}).get("sha256", "{}"))
    except (json.JSONDecodeError, RecursionError):
        sums = None
    if not isinstance(sums, dict):
        raise DDError(f"{path}: its checksums are broken; delete the file and make it again")
    return sums
