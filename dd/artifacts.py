"""Files that stages hand to each other: safetensors, CSV and JSON with provenance.

Every file is written to a temporary name beside its target and renamed, so a reader never sees
half of one, and a full disk leaves what was there before. Nothing is ever unpickled.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from dd import __version__
from dd.errors import DDError
from dd.files import replacing

FORMAT = 1

HEADER = ""  # the key of the header's own checksum, beside those of the tensors
_DIGITS = 16  # hexadecimal, of SHA-256


@cache
def code_version() -> str:
    """The package version, with the commit (and ``-dirty``) when run from a git checkout."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return __version__
    return f"{__version__}+g{described.stdout.strip()}"


def provenance(**facts: Any) -> dict[str, Any]:
    """Where an artifact comes from: code, libraries, machine, time, and what the stage adds."""
    told = {
        "code": code_version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **facts,
    }
    if str(facts.get("device", "")).startswith("cuda"):
        told["gpu"] = torch.cuda.get_device_name(facts["device"])
    return told


@cache
def _cpu_model() -> str:
    """The processor's name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def save_tensors(
    path: str | Path, kind: str, tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any]
) -> None:
    """Write an artifact of ``kind``: tensors, ``header`` as JSON under the key ``dd``, and
    checksums of both under the key ``sha256``.

    Args:
        path: the file to make or replace.
        kind: what the file is (``dataset``, ``synthetic``, ``checkpoint``).
        tensors: anything on any device; stored contiguous on the CPU.
        header: JSON-serialisable facts, provenance among them.
    """
    document = json.dumps({"kind": kind, "format": FORMAT, **header})
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    sums = {name: _checksum(tensor) for name, tensor in plain.items()}
    metadata = {"dd": document, "sha256": json.dumps({HEADER: digest(document.encode()), **sums})}
    with replacing(path) as partial:
        try:
            save_file(plain, partial, metadata=metadata)
        except SafetensorError as error:  # it has the system's error number in its message
            found = re.search(r"os error (\d+)", str(error))
            number = int(found[1]) if found else errno.EIO
            raise OSError(number, os.strerror(number), str(path)) from None


def read_header(path: str | Path) -> dict[str, Any]:
    """The header of an artifact, without its tensors. A foreign safetensors file has ``{}``.

    Raises:
        DDError: if the file is missing, truncated or no safetensors file.
    """
    with _opened(path) as file:
        return _header(path, file)


def load_tensors(
    path: str | Path, kind: str, required: Sequence[str] = (), only: Sequence[str] | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read an artifact of ``kind``: its tensors (``only`` those named, if given) and header.

    A file without our header is taken as what it should be if it holds the ``required`` tensors:
    others may write the documented formats with any safetensors library.

    Raises:
        DDError: if the file is missing, truncated, of another kind, or lacks a required tensor.
    """
    with _opened(path) as file:
        header = _header(path, file)
        names = set(file.keys())
        found = header.get("kind")
        missing = [name for name in required if name not in names]
        if found is not None and found != kind:
            raise DDError(f"{path}: is a {found} file, a {kind} file is needed")
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
    """Those that the file was written with; none in a foreign one."""
    try:
        sums = json.loads((file.metadata() or {}).get("sha256", "{}"))
    except json.JSONDecodeError:
        sums = None
    if not isinstance(sums, dict):
        raise DDError(f"{path}: its checksums are broken; delete the file and make it again")
    return sums


def _checksum(tensor: torch.Tensor) -> str:
    """Of a contiguous tensor on the CPU: its bytes."""
    return digest(tensor.reshape(-1).view(torch.uint8).numpy().data)


def digest(data: Any) -> str:
    """16 hexadecimal digits of SHA-256 over bytes."""
    return hashlib.sha256(data).hexdigest()[:_DIGITS]


def file_digest(path: str | Path) -> str:
    """16 hexadecimal digits of SHA-256 over a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_DIGITS]


def save_text(path: str | Path, text: str) -> None:
    """Write a text file in one step."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def save_json(path: str | Path, document: Any) -> None:
    """Write JSON, indented, keys in the order given."""
    save_text(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def load_json(path: str | Path) -> Any:
    """Read JSON; a missing or broken file is a :class:`DDError`."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DDError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DDError(f"{path}: is not JSON ({error})") from None


def save_rows(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows (one mapping each, all with the first one's keys) as CSV."""
    with replacing(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def load_rows(path: str | Path) -> list[dict[str, str]]:
    """Read CSV as one mapping a row; a missing file is a :class:`DDError`."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        raise DDError(f"{path}: no such file") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DDError(f"{path}: is not CSV ({error})") from None


def command_line() -> str:
    """The command that this process was started with, for provenance."""
    return shlex.join(["python", "-m", "dd", *sys.argv[1:]])
