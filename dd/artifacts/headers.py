"""Read headers of safetensors artifacts, and their tensors as NumPy arrays, without torch.

Tables and the planning of a run read artifacts through this module. Stages that compute read the
same files as torch tensors (:mod:`dd.artifacts.tensors`).
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy
import safetensors
from safetensors import SafetensorError

from dd.artifacts.fields import BLOCK, NUMBER, TEXT, Field, block_of, check_fields, list_of, shown
from dd.artifacts.text import digest, parse_json
from dd.errors import DDError

FORMAT = 1
_PLACE = "in the header"
_IMPORT = (
    "`python -m dd import` makes a set of it (docs/sets.md), safetensors.torch.save_file a file of "
    "other tensors"
)
ZIP, PICKLE = b"PK\x03\x04", b"\x80"  # how files of torch.save start, new and old

HEADER = ""  # the key of the header's own checksum among those of the tensors
Fields = Mapping[str, Field]

_ORIGIN: Fields = {  # what is read of the provenance in a header
    **dict.fromkeys(("code", "torch", "cpu", "gpu", "device", "created"), TEXT),
    "peak_memory_mb": block_of(NUMBER),
    "plugins": list_of(TEXT),
    "continued_from": list_of(block_of(TEXT)),
}


def read_header(path: str | Path, fields: Fields | None = None) -> dict[str, Any]:
    """The header of an artifact, without its tensors; ``{}`` for a foreign safetensors file.

    Args:
        path: the file.
        fields: what its keys must hold, those that the caller reads.

    Raises:
        DDError: if the file is missing, truncated or no safetensors file, or a key holds something
            else.
    """
    with _opened(path) as file:
        return _header(path, file, fields)


def read_origin(path: str | Path) -> dict[str, Any]:
    """The provenance in the header of an artifact; empty if a file from elsewhere has none.

    Raises:
        DDError: as :func:`read_header`; or if the provenance is not as this suite writes it.
    """
    origin = read_header(path, {"provenance": BLOCK}).get("provenance", {})
    check_fields(path, origin, _ORIGIN, "in the provenance")
    return origin


def describe_tensors(path: str | Path) -> dict[str, tuple[list[int], str]]:
    """Shape and dtype of each tensor in a safetensors file, without reading the values."""
    with _opened(path) as file:
        slices = {name: file.get_slice(name) for name in sorted(file.keys())}
        return {name: (s.get_shape(), s.get_dtype()) for name, s in slices.items()}


def load_arrays(
    path: str | Path,
    kind: str,
    required: Sequence[str] = (),
    only: Sequence[str] | None = None,
    fields: Fields | None = None,
) -> tuple[dict[str, numpy.ndarray], dict[str, Any]]:
    """Read an artifact of ``kind`` as NumPy arrays; see :func:`dd.artifacts.tensors.load_tensors`.

    Tensors in bfloat16 cannot be read this way, because NumPy has no such type.
    """
    return load(
        path, "numpy", lambda a: numpy.ascontiguousarray(a).data, kind, required, only, fields
    )


def load(
    path: str | Path,
    framework: str,
    content: Callable[[Any], Any],
    kind: str,
    required: Sequence[str],
    only: Sequence[str] | None,
    fields: Fields | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors and header of an artifact of ``kind``, with tensors of ``framework``.

    Args:
        path: the file.
        framework: ``numpy`` or ``pt``.
        content: returns the bytes of a tensor of this framework.
        kind: the kind that the file must have.
        required: tensors that the file must hold.
        only: the tensors to read; None: all.
        fields: what keys of the header must hold, those that the caller reads.

    Raises:
        DDError: if the file is missing, truncated, of another kind, lacks a required tensor or one
            that was written, has a tensor whose checksum differs or whose type ``framework`` does
            not know, or a key of its header holds something else.
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
        check_fields(path, header, fields or {}, _PLACE)
        chosen = names if only is None else names & set(only)
        try:
            tensors = {name: file.get_tensor(name) for name in sorted(chosen)}
        except (SafetensorError, OSError) as error:
            raise DDError(f"{path}: is broken ({error}); make it again") from None
        except (TypeError, AttributeError) as error:  # bfloat16 in NumPy, float4 in torch
            raise DDError(f"{path}: has a tensor of a type that cannot be read ({error})") from None
        sums = _checksums(path, file)
        lost = sorted(sums.keys() - names - {HEADER})
        if lost:
            raise DDError(f"{path}: tensor '{lost[0]}' is lost; delete the file and make it again")
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
        said = _foreign(place) or f"is truncated, broken or no safetensors file ({error})"
        raise DDError(f"{path}: {said}") from None
    with file as opened:
        yield opened


def _foreign(path: Path) -> str:
    """What a file that is no safetensors file is instead, and what reads it; "" if unknown."""
    start, members = b"", []
    with suppress(OSError), open(path, "rb") as file:
        start = file.read(4)
    if start.startswith(ZIP):
        with suppress(zipfile.BadZipFile, ValueError, OSError), zipfile.ZipFile(path) as archive:
            members = archive.namelist()
    if any(name.endswith(".npy") for name in members):
        return f"is a .npz file, no safetensors file; {_IMPORT}"
    if start.startswith((ZIP, PICKLE)):
        return f"is a file of torch.save, which can run code when it is read; {_IMPORT}"
    return ""


def _header(path: str | Path, file: Any, fields: Fields | None = None) -> dict[str, Any]:
    document = (file.metadata() or {}).get("dd", "{}")
    expected = _checksums(path, file).get(HEADER)
    if expected is not None and expected != digest(document.encode()):
        raise DDError(
            f"{path}: its header is not what was written (its checksum differs); delete the file "
            "and make it again"
        )
    header = parse_json(document, f"{path}: its header is")
    if not isinstance(header, dict):
        raise DDError(f"{path}: its header is no JSON object; make the file again")
    if header.get("format", FORMAT) != FORMAT:
        raise DDError(
            f"{path}: has format {shown(header['format'])}, this version reads {FORMAT}; make it "
            "again"
        )
    check_fields(path, header, {"kind": TEXT, **(fields or {})}, _PLACE)
    return header


def _checksums(path: str | Path, file: Any) -> dict[str, str]:
    """The checksums that were written with the file; empty for a foreign file."""
    try:
        sums = parse_json((file.metadata() or {}).get("sha256", "{}"), "")
    except DDError:
        sums = None
    if not isinstance(sums, dict):
        raise DDError(f"{path}: its checksums are broken; delete the file and make it again")
    return sums
