"""The space that networks see images in: pixels normalised by channel, or whitened by ZCA.

*Normalised units* are (pixel in [0, 1] − mean) / std of each channel. The whitening ``zca`` takes
their place, it does not follow them: pixels in [0, 1] are whitened as they are, as in the public
code of MTT (arXiv:2203.11932), where ``--zca`` leaves the normalisation out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dd.data import zca
from dd.errors import DDError

WHITENINGS = ("none", "zca")  # what a reader of a dataset file chooses from
PIXELS = "pixels in 0 to 1"  # what a dataset file says that it whitens
MARK = "-zca-pixels-"  # in the fingerprint of a dataset that is read whitened
_OLD_MARK = re.compile(r"-zca[0-9a-f]{8}$")
_CHUNK = 8192  # images whitened at once


@dataclass(frozen=True)
class Space:
    """Maps pixels in [0, 1] to what networks see, and back.

    Attributes:
        mean, std: ``[C]`` float32, of each channel; without a whitening, what normalises it.
        zca_mean, zca_matrix: ``[D]`` and ``[D, D]`` float32, what whitens pixels; or None.
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
        """``[N, C, H, W]`` pixels in [0, 1] as networks see them; differentiable."""
        if self.zca_mean is not None and self.zca_matrix is not None:
            return zca.whiten(pixels, self.zca_mean, self.zca_matrix)
        return (pixels - _per_channel(self.mean, pixels)) / _per_channel(self.std, pixels)

    def from_pixels_(self, pixels: Tensor) -> Tensor:
        """The same in place: no second copy of a whole split."""
        if self.zca_matrix is None:
            return pixels.sub_(_per_channel(self.mean, pixels)).div_(_per_channel(self.std, pixels))
        for part in pixels.split(_CHUNK):
            part.copy_(self.from_pixels(part))
        return pixels

    def to_pixels(self, images: Tensor) -> Tensor:
        """``[N, C, H, W]`` as networks see them, as pixels; not clamped to [0, 1]."""
        if self.zca_mean is not None and self.zca_matrix is not None:
            return zca.unwhiten(images, self.zca_mean, self.zca_matrix)
        return images * _per_channel(self.std, images) + _per_channel(self.mean, images)


def check_space(path: str | Path, header: Mapping[str, Any]) -> None:
    """Refuse a file in the space that this suite whitened to before version 0.2.

    There, images were normalised by channel before they were whitened. Nothing reads that any more.

    Raises:
        DDError: if the ``header`` of the file says so.
    """
    whitened = header.get("zca")
    old = isinstance(whitened, Mapping) and whitened.get("of") != PIXELS
    if old or _OLD_MARK.search(str(header.get("fingerprint", ""))):
        raise DDError(
            f"{path}: its ZCA whitens normalised images, as this suite did before version 0.2; it "
            "whitens pixels in [0, 1] now, so make the file again"
        )


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like).view(-1, 1, 1)
