"""Memory of a device: what a computation takes, counted without doing it; what is left; halving.

A computation whose size may be chosen (networks that are trained side by side, images in one pass)
gets a size that should fit, by counting (:mod:`dd.networks.memory`, :mod:`dd.training.memory`). If
the memory runs out all the same, since a library takes workspace or somebody else uses the GPU, the
size is halved:

    for piece, result in in_pieces(images, size, compute, "test images"):
        ...

On the CPU nothing is halved, and sizes are fixed: only DM counts there, so that its pieces take
4 GB at most.
"""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from dd.errors import is_out_of_gpu_memory
from dd.runtime.say import say
from dd.runtime.watching import Watching

SHARE = 0.9  # of what is left; the rest is for workspaces of libraries and gaps between blocks
BLOCK = 512  # bytes: torch's allocator for CUDA rounds up to multiples of it

T = TypeVar("T")
Items = TypeVar("Items", Tensor, Sequence[Any])


class Living:
    """Counts the bytes of tensors that are alive.

    Args:
        block: each tensor counts as a multiple of it.

    Attributes:
        now: bytes of the tensors that were seen and are still alive; two views of one tensor count
            once. peak: the most that there have been.
    """

    def __init__(self, block: int = BLOCK) -> None:
        self.block = block
        self.now = self.peak = 0
        self._seen: dict[int, Any] = {}  # by identity of its storage, a reference that tells us

    def see(self, tensor: Tensor) -> None:
        """Count ``tensor`` from now on until nothing holds its memory, if it does not yet."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, -(-storage.nbytes() // self.block) * self.block
        if key in self._seen:
            return

        def gone(_: object) -> None:
            del self._seen[key]
            self.now -= size

        self._seen[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


class _Watched(Watching):
    """Counts the results of all operations under it, those of backward passes too."""

    def __init__(self, block: int = BLOCK) -> None:
        super().__init__()
        self.living = Living(block)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self.living.see(value)
        return result


def peak_bytes(work: Callable[[], object]) -> int:
    """The most bytes that tensors made by ``work()`` take at a time.

    Tensors on the device ``meta`` have no data, so with them this takes no memory and little time.
    It is what torch's allocator for CUDA would report as allocated, without what libraries take
    within an operation.
    """
    with _Watched() as watched:
        work()
    return watched.living.peak


def kept_bytes(work: Callable[[], object]) -> int:
    """The bytes of tensors that ``work()`` made, or made views of, as long as its result lives."""
    with _Watched(block=1) as watched:
        result = work()  # noqa: F841  # it is alive while it is counted
    return watched.living.now


def available(device: torch.device) -> float:
    """The bytes that new tensors may take on ``device``: of a GPU, nine tenths of what is free or
    was freed by this process. On the CPU there is no limit (infinite): it has virtual memory."""
    if device.type != "cuda":
        return math.inf
    free, _ = torch.cuda.mem_get_info(device)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return SHARE * (free + kept)


def release() -> None:
    """Give what nothing refers to any more back to the GPU."""
    gc.collect()
    torch.cuda.empty_cache()


@cache
def tell(what: str) -> None:
    """Say ``what`` of the GPU's memory, each thing once in a process."""
    say(f"memory of the GPU: {what}")


def halved(work: Callable[[int], T], size: int, what: str = "") -> tuple[T, int]:
    """``work(size)``, or, if the GPU's memory runs out, ``work`` of half the size, and so on.

    Args:
        work: leaves nothing behind if it raises an error.
        size: at least 1, which is not halved.
        what: of what there are ``size``, for the line that says that they were too many; "": no
            line.

    Returns:
        The result, and the size that fitted.

    Raises:
        Exception: what ``work`` raises otherwise, or with size 1.
    """
    first = size
    while True:
        try:
            result = work(size)
            break
        except RuntimeError as error:
            if size == 1 or not is_out_of_gpu_memory(error):
                raise
        release()  # after the error is forgotten, and with it the tensors that its frames held
        size = -(-size // 2)
    if size < first and what:
        tell(f"{first} {what} at a time are too many, going on with {size}")
    return result, size


class Fitting:
    """How many things are done at a time; fewer from then on when the GPU's memory ran out.

    Args:
        size: at least 1.
        what: see :func:`halved`.
    """

    def __init__(self, size: int, what: str = "") -> None:
        self.size, self.what = size, what

    def once(self, work: Callable[[int], T], most: int) -> tuple[T, int]:
        """:func:`halved`, with the size that fitted before, but no more than ``most``."""
        tried = min(self.size, most)
        result, fitted = halved(work, tried, self.what)
        if fitted < tried:
            self.size = fitted
        return result, fitted

    def pieces(self, items: Items, work: Callable[[Items], T]) -> Iterator[tuple[Items, T]]:
        """Consecutive pieces of ``items`` (a tensor or a sequence), each with the result of
        ``work``.

        The caller forgets a result before the next one is made, if both would not fit.
        """
        start = 0
        while start < len(items):
            result, fitted = self.once(
                lambda count: work(items[start : start + count]),  # noqa: B023  # called at once
                len(items) - start,
            )
            yield items[start : start + fitted], result
            del result
            start += fitted


def in_pieces(
    items: Items, size: int, work: Callable[[Items], T], what: str = ""
) -> Iterator[tuple[Items, T]]:
    """:meth:`Fitting.pieces` of something that is done once."""
    return Fitting(size, what).pieces(items, work)
