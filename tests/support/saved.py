"""What autograd keeps for backward passes."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


class Saved:
    """Counts the bytes that autograd keeps for backward passes, now and at most."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def pack(self, tensor: Tensor) -> Saved.Kept:
        return Saved.Kept(self, tensor)

    def count(self, change: int) -> None:
        self.now += change
        self.most = max(self.most, self.now)

    class Kept:
        def __init__(self, saved: Saved, tensor: Tensor) -> None:
            # detached, because an output that holds its own graph would never be freed
            self.tensor, size = tensor.detach(), tensor.numel() * tensor.itemsize
            saved.count(size)
            weakref.finalize(self, saved.count, -size)


def most_saved(work: Callable[[], object]) -> int:
    saved = Saved()
    with saved_tensors_hooks(saved.pack, lambda kept: kept.tensor):
        work()
    return saved.most
