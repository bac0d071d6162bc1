"""Big tensors in a safetensors file, written and read row by row.

A job that is killed keeps the rows that it has written. Beside each tensor the file has the
checksums of its rows, so a reader can check the rows that it reads without reading the others.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch

from dd.artifacts.atomic import sweep
from dd.artifacts.headers import FORMAT, HEADER
from dd.artifacts.text import digest, through_json
from dd.errors import DDError

CODES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
}
SUMS = "crc32."  # prefix of a tensor's name: the tensor of its rows' checksums
LENGTH = 8  # bytes at the start of the file: the header's length
ROOM = 1 << 14  # bytes by which the header may grow until the file is finished


class RowWriter:
    """Writes tensors row by row, and keeps the rows of a killed job when it starts again.

    The rows go to a hidden file beside ``path``. It has its full size from the start, so a disk
    that is too small raises its error before the first row.

    Args:
        path: the file to make.
        kind: what it is (``trajectories``, ``labels``).
        axes: number of leading axes that index the rows of a tensor.
        tensors: dtype and shape of each.
        facts: the header as long as rows are missing.
        room: bytes by which the header may grow.

    Attributes:
        found: whether a killed job with these tensors and facts has left its rows. If not, all
            rows are fresh: rows of other settings are not kept.
    """

    def __init__(
        self,
        path: Path,
        kind: str,
        axes: int,
        tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
        facts: Mapping[str, Any],
        room: int = ROOM,
    ) -> None:
        self.path, self.kind = path, kind
        sums = {SUMS + name: (torch.int64, shape[:axes]) for name, (_, shape) in tensors.items()}
        self.tensors = sums | dict(tensors)  # int64 sums first: every tensor then starts aligned
        self.partial = partial_path(path)
        self.offsets, size = {}, 0
        for name, (dtype, shape) in self.tensors.items():
            self.offsets[name] = size
            size += math.prod(shape) * dtype.itemsize
        header = self._header(facts)
        self.start = -(-(len(header) + room) // 64) * 64
        size += self.start
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = os.open(self.partial, os.O_RDWR | os.O_CREAT, 0o666)
        self.found = os.fstat(self.file).st_size == size and self._is_of(facts)
        try:
            if not self.found:
                os.ftruncate(self.file, 0)
            os.ftruncate(self.file, size)
            os.posix_fallocate(self.file, 0, size)
            if not self.found:  # without its length: as long as rows are missing, nothing reads it
                os.pwrite(self.file, header, LENGTH)
        except OSError as error:
            self.discard()
            raise OSError(error.errno, error.strerror, str(path)) from None

    def _is_of(self, facts: Mapping[str, Any]) -> bool:
        """Whether the header in the file is of these tensors and has all ``facts``. That of a job
        which was killed at its very end has more."""
        text = os.pread(self.file, self.start - LENGTH, LENGTH).decode("utf-8", "replace")
        try:
            entries, _ = json.JSONDecoder().raw_decode(text)
            told = json.loads(entries.pop("__metadata__")["dd"])
        except (ValueError, LookupError, TypeError, AttributeError):
            return False
        return (
            entries == self._entries() and told.items() >= through_json(self._said(facts)).items()
        )

    def _said(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        return {"kind": self.kind, "format": FORMAT, **facts}

    def _entries(self) -> dict[str, Any]:
        """The tensors, as the header of a safetensors file describes them."""
        entries = {}
        for name, (dtype, shape) in self.tensors.items():
            first = self.offsets[name]
            last = first + math.prod(shape) * dtype.itemsize
            entries[name] = {
                "dtype": CODES[dtype],
                "shape": list(shape),
                "data_offsets": [first, last],
            }
        return entries

    def _header(self, facts: Mapping[str, Any]) -> bytes:
        document = json.dumps(self._said(facts))
        metadata = {"dd": document, "sha256": json.dumps({HEADER: digest(document.encode())})}
        return json.dumps({"__metadata__": metadata, **self._entries()}).encode()

    def put(self, name: str, position: tuple[int, ...], values: torch.Tensor) -> None:
        """Write the row of tensor ``name`` at ``position``, and its checksum."""
        data = _bytes(values.detach().to("cpu", self.tensors[name][0]).contiguous())
        self._write(name, position, data)
        self._write(SUMS + name, position, _sum(data))

    def _write(self, name: str, position: tuple[int, ...], data: Any) -> None:
        os.pwrite(self.file, data, self._place(name, position)[0])

    def _place(self, name: str, position: tuple[int, ...]) -> tuple[int, int]:
        """Where in the file the row of tensor ``name`` at ``position`` starts, and its length."""
        dtype, shape = self.tensors[name]
        first = sum(index * math.prod(shape[axis + 1 :]) for axis, index in enumerate(position))
        start = self.start + self.offsets[name] + first * dtype.itemsize
        return start, math.prod(shape[len(position) :]) * dtype.itemsize

    def intact(self, positions: Iterable[tuple[int, ...]]) -> bool:
        """Whether the rows at ``positions`` of all tensors are as they were written."""
        return all(
            self._read(SUMS + name, position) == _sum(self._read(name, position))
            for position in positions
            for name in self.tensors
            if not name.startswith(SUMS)
        )

    def lost(self, positions: Iterable[tuple[int, ...]]) -> str:
        """Why the rows at ``positions``, which a killed job wrote, cannot be used; "" if they
        can."""
        if not self.found:
            return f"the rows of {self.path} are gone, or of other settings or code"
        return "" if self.intact(positions) else f"rows in {self.partial} are damaged"

    def _read(self, name: str, position: tuple[int, ...]) -> bytes:
        first, size = self._place(name, position)
        return os.pread(self.file, size, first)

    def sync(self) -> None:
        """Return when the rows written so far are on the disk."""
        os.fsync(self.file)

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Write the final header and rename the file to its final name."""
        header = self._header(facts)
        room = self.start - LENGTH
        if len(header) > room:
            raise ValueError(f"{self.path}: the header needs {len(header)} bytes, {room} are free")
        os.pwrite(self.file, room.to_bytes(LENGTH, "little") + header.ljust(room), 0)
        self.sync()
        os.close(self.file)
        os.replace(self.partial, self.path)
        sweep(self.path)

    def discard(self) -> None:
        """Delete the rows."""
        os.close(self.file)
        self.partial.unlink(missing_ok=True)


class RowReader:
    """Reads the rows of a file that :class:`RowWriter` made, through a memory map.

    Args:
        path: the file.
        axes: names of the leading axes of its tensors, for messages.

    Raises:
        DDError: if checksums are not of its rows.
    """

    def __init__(self, path: Path, axes: Sequence[str]) -> None:
        self.path, self.axes = path, axes
        self._file = safetensors.safe_open(str(path), framework="pt")
        self._names = set(self._file.keys())
        for name in sorted(self._names):
            if name.startswith(SUMS):
                self._check_sums(name)

    def _check_sums(self, name: str) -> None:
        """Raise a :class:`DDError` unless the tensor ``name`` has a checksum for each row."""
        of, sums = name.removeprefix(SUMS), self._file.get_slice(name)
        if of not in self._names:
            raise DDError(f"{self.path}: '{name}' is there, but no '{of}'; make the file again")
        wanted = list(self._file.get_slice(of).get_shape())[: len(self.axes)]
        if list(sums.get_shape()) != wanted or sums.get_dtype() != CODES[torch.int64]:
            raise DDError(
                f"{self.path}: '{name}' is {sums.get_dtype()} {sums.get_shape()}, it must be "
                f"{CODES[torch.int64]} {wanted}, a checksum of each {' and '.join(self.axes)}; "
                "make the file again"
            )

    def read(self, name: str, position: tuple[int, ...]) -> torch.Tensor:
        """The row of tensor ``name`` at ``position``; unchecked if the file has no checksums.

        Raises:
            DDError: if its checksum differs.
        """
        row, sums = self._row(name, position), SUMS + name
        if sums in self._names and self._row(sums, position).item() != zlib.crc32(_bytes(row)):
            where = ", ".join(f"{axis} {at}" for axis, at in zip(self.axes, position, strict=True))
            raise DDError(
                f"{self.path}: '{name}' of {where} is not what was written (its checksum "
                "differs); delete the file and make it again"
            )
        return row

    def digest(self) -> str:
        """16 digits that identify all rows, by their checksums; "" if the file has none."""
        sums = [name for name in sorted(self._names) if name.startswith(SUMS)]
        if not sums:
            return ""
        return digest(b"".join(_bytes(self._file.get_tensor(name)) for name in sums))

    def _row(self, name: str, position: tuple[int, ...]) -> torch.Tensor:
        here = self._file.get_slice(name)[tuple(slice(at, at + 1) for at in position)]
        return here[(0,) * len(position)]


def _sum(data: Any) -> bytes:
    """The checksum of a row, as it is stored."""
    return zlib.crc32(data).to_bytes(8, "little")


def _bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def partial_path(path: Path) -> Path:
    """The hidden file that holds the rows of ``path`` until it is finished."""
    return path.with_name(f".{path.name}.partial")
