"""The space in which networks see images: pixels normalised by channel, or whitened by ZCA.

*Normalised units* are (pixel in [0, 1] − mean) / std of each channel. The whitening ``zca``
replaces this normalisation: it is applied to pixels in [0, 1], as in the public code of MTT
(arXiv:2203.11932), where ``--zca`` leaves the normalisation out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dd.data import zca
from dd.errors import DDError

WHITENINGS = ("none", "zca")  # the choices of a reader of a dataset file
PIXELS = "pixels in 0 to 1"  # in a dataset file: what its ZCA whitens
MARK = "-zca-pixels-"  # in the fingerprint of a dataset that is read whitened
_OLD_MARK = re.compile(r"-zca[0-9a-f]{8}$")
LARGEST = 20.0  # standard deviations; hardly any normalised value is as far out
_CHUNK = 8192  # images whitened at once


@dataclass(frozen=True)
class Space:
    """Maps pixels in [0, 1] to what networks see, and back.

    Attributes:
        mean, std: ``[C]`` float32, of each channel; they normalise if there is no whitening.
        zca_mean, zca_matrix: ``[D]`` and ``[D, D]`` float32, the whitening of pixels; or None.
    """

    mean: Tensor
    std: Tensor
    zca_mean: Tensor | None = None
    zca_matrix: Tensor | None = None

    @property
    def whitening(self) -> str:
        """One of :data:`WHITENINGS`."""
        return "none" if self.zca_matrix is None else "zca"

    def from_pixels(self, pixels: Tensor) -> Tensor:
        """Convert pixels in [0, 1], ``[N, C, H, W]``, to this space; differentiable."""
        if self.zca_mean is not None and self.zca_matrix is not None:
            return zca.whiten(pixels, self.zca_mean, self.zca_matrix)
        return (pixels - _per_channel(self.mean, pixels)) / _per_channel(self.std, pixels)

    def from_pixels_(self, pixels: Tensor) -> Tensor:
        """Like :meth:`from_pixels`, but in place, without a second copy of a whole split."""
        if self.zca_matrix is None:
            return pixels.sub_(_per_channel(self.mean, pixels)).div_(_per_channel(self.std, pixels))
        for part in pixels.split(_CHUNK):
            part.copy_(self.from_pixels(part))
        return pixels

    def to_pixels(self, images: Tensor) -> Tensor:
        """Convert images ``[N, C, H, W]`` in this space to pixels; not clamped to [0, 1]."""
        if self.zca_mean is not None and self.zca_matrix is not None:
            return zca.unwhiten(images, self.zca_mean, self.zca_matrix)
        return images * _per_channel(self.std, images) + _per_channel(self.mean, images)


def like_pixels(low: float, high: float) -> bool:
    """Whether values from ``low`` to ``high`` are all in the range of pixels in [0, 1]."""
    return low >= 0 and high <= 1


def outside_pixels(pixels: Tensor) -> float:
    """How many per cent of ``pixels`` in [0, 1] no 8 bits hold: rounded, they are not 0 to 255."""
    levels = (pixels * 255).round()
    return 100.0 * ((levels < 0) | (levels > 255)).double().mean().item()


def beyond_normalised(low: float, high: float) -> bool:
    """Whether values from ``low`` to ``high`` go further than normalised ones hardly ever do."""
    return max(-low, high) > LARGEST


def check_space(path: str | Path, header: Mapping[str, Any]) -> None:
    """Refuse a file whose whitening is that of this suite before version 0.2.

    Until then, images were normalised by channel before they were whitened. Such files are no
    longer read.

    Raises:
        DDError: if the ``header`` of the file shows the old whitening.
    """
    whitened = header.get("zca")
    old = isinstance(whitened, Mapping) and whitened.get("of") != PIXELS
    if old or _OLD_MARK.search(str(header.get("fingerprint", ""))):
        raise DDError(
            f"{path}: its ZCA whitens normalised images, as this suite did before version 0.2; it "
            "whitens pixels in [0, 1] now, so make the file again"
        )


def check_constants(path: str | Path, mean: Tensor, std: Tensor, channels: int) -> None:
    """Refuse tensors ``mean`` and ``std`` of a file that cannot normalise ``channels`` channels.

    Raises:
        DDError: unless they are float32 ``[channels]`` and finite, ``std`` above 0.
    """
    for name, tensor in (("mean", mean), ("std", std)):
        if tensor.dtype != torch.float32 or list(tensor.shape) != [channels]:
            raise DDError(
                f"{path}: tensor '{name}' must be [{channels}] float32, one per channel, found "
                f"{list(tensor.shape)} {tensor.dtype}"
            )
    if not (mean.isfinite().all() and std.isfinite().all() and (std > 0).all()):
        raise DDError(f"{path}: 'mean' and 'std' must be finite, 'std' above 0")


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like).view(-1, 1, 1)
