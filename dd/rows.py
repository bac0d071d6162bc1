"""Big tensors written row by row into a safetensors file, by jobs that may be killed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dd.artifacts import FORMAT

_CODES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int32: "I32",
}
ROOM = 1 << 14  # bytes that the header may grow by until the file is finished


class RowWriter:
    """Writes tensors row by row; what is there is kept when a killed job comes back.

    The rows go to a hidden file beside ``path``, at its full size from the start, so a disk that is
    too small says so before the first row.

    Args:
        path: the file to make.
        kind: what it is (``trajectories``, ``labels``).
        tensors: dtype and shape of each.
        facts: the header while rows are missing.
        room: bytes that the header may grow by.
    """

    def __init__(
        self,
        path: Path,
        kind: str,
        tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
        facts: Mapping[str, Any],
        room: int = ROOM,
    ) -> None:
        self.path, self.kind, self.tensors = path, kind, tensors
        self.partial = partial_path(path)
        self.offsets, size = {}, 0
        for name, (dtype, shape) in tensors.items():
            self.offsets[name] = size
            size += math.prod(shape) * dtype.itemsize
        self.start = -(-(len(self._header(facts)) + room) // 64) * 64
        size += self.start
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = os.open(self.partial, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            os.ftruncate(self.file, size)
            os.posix_fallocate(self.file, 0, size)
        except OSError as error:
            self.discard()
            raise OSError(error.errno, error.strerror, str(path)) from None

    def _header(self, facts: Mapping[str, Any]) -> bytes:
        entries = {}
        for name, (dtype, shape) in self.tensors.items():
            first = self.offsets[name]
            last = first + math.prod(shape) * dtype.itemsize
            entries[name] = {
                "dtype": _CODES[dtype],
                "shape": list(shape),
                "data_offsets": [first, last],
            }
        document = json.dumps({"kind": self.kind, "format": FORMAT, **facts})
        return json.dumps({"__metadata__": {"dd": document}, **entries}).encode()

    def put(self, name: str, position: tuple[int, ...], values: torch.Tensor) -> None:
        """Store ``values`` in tensor ``name`` from ``position`` on, an index into its first axes:
        rows that follow each other there, in whatever shape."""
        dtype, shape = self.tensors[name]
        first = 0
        for axis, index in enumerate(position):
            first += index * math.prod(shape[axis + 1 :])
        values = values.detach().to("cpu", dtype).contiguous()
        data = values.view(torch.uint8).numpy().data
        os.pwrite(self.file, data, self.start + self.offsets[name] + first * dtype.itemsize)

    def sync(self) -> None:
        """Return when the rows so far are on the disk."""
        os.fsync(self.file)

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Write the header and give the file its name."""
        header = self._header(facts)
        room = self.start - 8  # the first eight bytes are the header's length
        if len(header) > room:
            raise ValueError(f"{self.path}: the header needs {len(header)} bytes, {room} are free")
        os.pwrite(self.file, room.to_bytes(8, "little") + header.ljust(room), 0)
        self.sync()
        os.close(self.file)
        os.replace(self.partial, self.path)

    def discard(self) -> None:
        """Drop the rows."""
        os.close(self.file)
        self.partial.unlink(missing_ok=True)


def partial_path(path: Path) -> Path:
    """Where the rows of ``path`` are until it is finished."""
    return path.with_name(f".{path.name}.partial")
