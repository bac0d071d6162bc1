"""Whether networks are trained stacked, in one vectorised pass, or one after the other."""

from __future__ import annotations

from collections.abc import Sequence

PIXELS = 64 * 32 * 32
"""Of the images of a step, up to which stacked training pays on a GPU. Ten ConvNets were measured
on one NVIDIA H200, in float32, on 10 and on 100 images of 32 × 32 (benchmarks/README.md); 64 lies
on the line between. In turn they wait for Python, so a step of few images takes as long as one of
many. Stacked they do not, but a grouped convolution takes longer than as many single ones."""


def stacks(asked: bool | None, kind: str, images: int, size: Sequence[int]) -> bool:
    """Whether networks are stacked.

    Args:
        asked: what the user wants; None: what is faster.
        kind: of device, ``cuda`` or ``cpu``. On a CPU stacking is faster only for tiny batches of
            tiny images (benchmarks/README.md).
        images: number of images of a training step.
        size: (H, W) of an image.
    """
    if asked is not None:
        return asked
    return kind == "cuda" and images * size[0] * size[1] <= PIXELS
