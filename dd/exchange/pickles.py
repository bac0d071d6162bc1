"""Read files of ``torch.save`` without running anything from them.

``torch.load`` with ``weights_only=True`` makes tensors, lists, dictionaries, text and numbers, and
refuses every other name that a file asks for. Files of the field also hold accuracies as numbers of
NumPy. These names are allowed, but nothing of NumPy is called for them: a stand-in takes their
place, since nobody reads these numbers.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dd.artifacts.headers import PICKLE, ZIP
from dd.errors import DDError

MOST_NAMES = 32 << 20  # bytes of the part of a file that says what the tensors are

_NUMBERS = frozenset(  # types of tensors that torch converts to others
    {
        *(torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
        *(torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz),
        torch.float8_e8m0fnu,
    }
)
_SIZES = re.compile(
    r"wrong byte size|alloc_cpu|Overflow when unpacking"
)  # how torch says that a size is a wrong one
_TRUST = "a set needs tensors, lists, text and numbers, and nothing else is read"


class _Number:
    """In place of a number of NumPy, or of its type."""

    def __init__(self, *given: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


_ALLOWED: list[Any] = [  # NumPy 2 and NumPy 1 name the same function
    (_Number, "numpy._core.multiarray.scalar"),
    (_Number, "numpy.core.multiarray.scalar"),
    (_Number, "numpy.dtype"),
]


def load_pickled(path: Path) -> Any:
    """What a file of ``torch.save`` holds, its tensors on the CPU.

    Raises:
        DDError: if the file is missing, broken, no such file, claims to hold more than it does, or
            asks for anything but tensors, lists, dictionaries, text and numbers.
    """
    _check_container(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_ALLOWED):
            warnings.simplefilter("ignore")  # of old ways to store tensors
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DDError(f"{path}: {_refusal(str(error))}") from None
    except Exception as error:  # damaged bytes lead to errors of any type
        said = f"{type(error).__name__}: {_first_line(error)}"
        if _SIZES.search(said):
            said = "it claims other sizes of tensors than it holds"
        raise DDError(f"{path}: is broken, or no file of torch.save ({said})") from None


def plain(path: Path, value: Any, what: str) -> Tensor:
    """The tensor ``value`` from the file ``path``, as an ordinary one.

    Args:
        path: the file, for messages.
        value: what it holds there.
        what: its name, for messages.

    Raises:
        DDError: if it is no tensor, not dense, not of real numbers, or has more values than are
            stored (then a small file could fill the memory).
    """
    if not isinstance(value, Tensor):
        raise DDError(f"{path}: {what} must be a tensor, found {_kind(value)}")
    if odd := _oddity(value):
        raise DDError(f"{path}: {what} is no ordinary tensor of numbers ({odd})")
    tensor = value.detach()
    stored = tensor.untyped_storage().nbytes()
    if tensor.numel() * tensor.itemsize > stored:
        raise DDError(
            f"{path}: {what} claims {tensor.numel()} values of {tensor.dtype}, but {stored} bytes "
            "are stored"
        )
    return tensor


def _oddity(tensor: Tensor) -> str:
    """What keeps ``tensor`` from being an ordinary one; "" if nothing does."""
    if tensor.is_nested:
        return "it is nested"
    if tensor.layout != torch.strided:
        return f"it is sparse, {tensor.layout}"
    if tensor.device.type != "cpu":
        return f"its values are not stored, it is of the device {tensor.device.type}"
    return "" if tensor.dtype in _NUMBERS else str(tensor.dtype)


def _check_container(path: Path) -> None:
    """Refuse what is no file of ``torch.save``, or unpacks to more than it is."""
    if not path.is_file():
        there = path.exists() and not path.is_dir()
        raise DDError(f"{path}: is a device or pipe, no file" if there else f"{path}: no such file")
    with open(path, "rb") as file:
        start = file.read(4)
    if not start.startswith(ZIP):
        if not start.startswith(PICKLE):
            raise DDError(f"{path}: is no file of torch.save")
        return
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OverflowError, RuntimeError) as error:
        raise DDError(f"{path}: is truncated or broken ({error})") from None
    # torch.save does not compress, so a compressed member is somebody's trick
    packed = [member for member in members if member.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise DDError(
            f"{path}: its part '{packed[0].filename}' is compressed; torch.save writes no such file"
        )
    claimed = sum(member.file_size for member in members)
    if claimed > path.stat().st_size:
        raise DDError(
            f"{path}: its parts claim {claimed} bytes, the file has {path.stat().st_size}; "
            "torch.save writes no such file"
        )
    for member in members:
        if member.filename.endswith("data.pkl") and member.file_size > MOST_NAMES:
            raise DDError(
                f"{path}: describes its tensors in {member.file_size} bytes, at most {MOST_NAMES} "
                "are read"
            )
    _check_sums(path)


def _check_sums(path: Path) -> None:
    """Refuse a file with a part that is not what was written; torch does not look at it."""
    try:
        with zipfile.ZipFile(path) as archive:
            changed = archive.testzip()
    except Exception as error:  # damaged bytes lead to errors of any type
        raise DDError(f"{path}: is truncated or broken ({_first_line(error)})") from None
    if changed is not None:
        raise DDError(
            f"{path}: is broken: its part '{changed}' has another CRC-32 than was written"
        )


def _refusal(message: str) -> str:
    """Why torch refuses a file, in a line."""
    if asked := re.search(r"GLOBAL ([\w.]+)", message):
        return f"is refused: it asks for {asked[1]}, which could run code; {_TRUST}"
    detail = re.sub(r"\x1b\[[0-9;]*m", "", message).split("WeightsUnpickler error:")[-1]
    detail = detail.removeprefix("Weights only load failed. ")
    return f"is refused: {_first_line(detail)}; {_TRUST}"


def _first_line(text: object) -> str:
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    return lines[0].rstrip(".")[:200] if lines else "without a reason"


def _kind(value: Any) -> str:
    return type(value).__name__
