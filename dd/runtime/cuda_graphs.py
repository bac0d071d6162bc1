"""Work on a GPU that is captured once as a CUDA graph, and then repeated without Python.

A graph repeats the kernels of the work on the same addresses. So the work reads tensors into which
new values are copied before each repetition, and its results are overwritten by it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import torch

Made = TypeVar("Made")
WARM = 3  # calls before a capture, in which libraries choose their algorithms and allocate


class Captured(NamedTuple, Generic[Made]):
    """A captured piece of work.

    Attributes:
        replay: repeats it.
        made: its result, the tensors of which every repetition overwrites.
        pool: the memory that it uses; another piece that reads its tensors must share it.
    """

    replay: Callable[[], None]
    made: Made
    pool: Any


def warm(work: Callable[[], object]) -> None:
    """Call ``work`` as often as a capture needs, beside the current stream.

    Raises:
        RuntimeError: if it waits for the GPU. It is better found here: a capture that fails leaves
            the allocator of torch in a state that later calls may stumble over.
    """
    stream, mode = torch.cuda.Stream(), torch.cuda.get_sync_debug_mode()
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream):
            for _ in range(WARM - 1):
                work()
            torch.cuda.set_sync_debug_mode("error")
            work()
    finally:
        torch.cuda.set_sync_debug_mode(mode)
        torch.cuda.current_stream().wait_stream(stream)


def capture(work: Callable[[], Made], pool: Any = None) -> Captured[Made]:
    """``work`` as a CUDA graph; it was called before (:func:`warm`).

    Args:
        work: what is captured. It may not copy from or to the host, nor wait for the GPU.
        pool: that of an earlier piece whose tensors this one reads; it is then repeated after it.

    Raises:
        RuntimeError: if it cannot be captured.
    """
    graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph, pool=pool):
            made = work()
    finally:
        torch.cuda.set_stream(before)  # torch does so only after a capture that succeeded
    return Captured(graph.replay, made, graph.pool())
