"""From the host to the device in few copies.

A copy to a GPU takes about as long for one number as for some thousand, and what is drawn on the
CPU (indices, parameters of augmentations) is many small tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def moved(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """``tensors`` of the CPU, of any shapes and types, on ``device``: by one copy, and bit for bit.

    On the CPU they are returned as they are. Elsewhere they share one piece of memory, so they are
    for reading.
    """
    if device.type == "cpu":
        return list(tensors)
    # wide types first: then each part starts at a multiple of its own width
    order = sorted(range(len(tensors)), key=lambda n: -tensors[n].element_size())
    parts = [tensors[n].contiguous().flatten().view(torch.uint8) for n in order]
    sizes = [len(part) for part in parts]
    found = list(tensors)
    if not sum(sizes):
        return [tensor.to(device) for tensor in tensors]
    for n, part in zip(order, torch.cat(parts).to(device).split(sizes), strict=True):
        found[n] = part.view(tensors[n].dtype).view(tensors[n].shape)
    return found
