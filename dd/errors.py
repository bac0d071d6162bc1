"""Errors that the user can correct: one line that says what is wrong, where, and what is right."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator


class DDError(Exception):
    """Bad input. ``python -m dd`` prints it as one line and exits with status 2."""


class Divergence(DDError):
    """The computation diverged under the given settings: a loss is NaN, a learned rate exploded."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, or torch on the CPU or a GPU, raised it because memory ran out.

    Libraries may answer such an error with another one, so the errors before it count, too.
    """
    on_host = any(isinstance(one, MemoryError) or no_memory(one) for one in _chain(error))
    return on_host or is_out_of_gpu_memory(error, surely=True)


def is_out_of_gpu_memory(error: BaseException, surely: bool = False) -> bool:
    """Whether it was raised because the memory of a GPU ran out, in one of CUDA's ways to say it.

    Args:
        error: what was raised.
        surely: leave out what may have other causes, too: a library that gets no workspace says
            that it does not support the operation. Who tries again with less finds out.
    """
    ways = _NO_GPU_MEMORY if surely else (*_NO_GPU_MEMORY, *_PERHAPS_NO_GPU_MEMORY)
    return any(
        type(one).__name__ == "OutOfMemoryError" or _line(one, ways) for one in _chain(error)
    )


def no_memory(error: BaseException) -> str:
    """The line of a message that says that memory ran out; "" if it does not say so."""
    return _line(error, (*_NO_MEMORY, *_NO_GPU_MEMORY))


def _line(error: BaseException, patterns: Iterable[str]) -> str:
    """The first line of a message in which one of ``patterns`` is found, or ""."""
    lines = str(error).splitlines()
    return next((line for line in lines if any(re.search(p, line) for p in patterns)), "")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those before it."""
    now: BaseException | None = error
    while now is not None:
        yield now
        now = now.__cause__ or now.__context__


_NO_MEMORY = (
    r"out of memory",
    r"can't allocate memory",
    r"annot allocate memory",
    r"bad_alloc",
    r"failed to map segment",  # a library that is loaded
    r"can't start new thread",  # no room for its stack
    r"Resource temporarily unavailable",
)
_NO_GPU_MEMORY = (
    r"(?i:cuda|hip|gpu|device).*out of memory",  # torch's allocator, runtime, driver
    r"(?i:cuda_error_out_of_memory|cudaErrorMemoryAllocation|hipErrorOutOfMemory)",
    r"(CUBLAS|CUDNN|CUSOLVER|CUSPARSE|HIPBLAS)_STATUS_ALLOC_FAILED|CUFFT_ALLOC_FAILED",
    r"CUDNN_STATUS_\w*ALLOCATION_FAILED",
    r"NVML_SUCCESS ==",  # torch asks the driver how much is left, and this fails, too
)
_PERHAPS_NO_GPU_MEMORY = (
    r"(CUBLAS|CUDNN|CUSOLVER|CUSPARSE)_STATUS_NOT_INITIALIZED",  # no memory for its handle
    r"CUDNN_STATUS_NOT_SUPPORTED",  # no memory for a workspace
    r"(?i:unable to find an engine|unable to find a valid cudnn algorithm)",  # likewise
)


def printable(text: str) -> str:
    """``text`` with control characters written as Python escapes.

    Text from a file must neither control the terminal nor break a message into two lines.
    """
    return "".join(sign if sign.isprintable() or sign == " " else repr(sign)[1:-1] for sign in text)


def unknown(what: str, name: object, known: Iterable[str]) -> DDError:
    """A :class:`DDError` for a name that is not in ``known``; it suggests the nearest one.

    ``name`` is text, or whatever a file has in its place.
    """
    known, name = sorted(known), str(name)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return DDError(f"unknown {what} '{name}': {hint}known are {', '.join(known) or 'none'}")
