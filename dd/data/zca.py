"""ZCA whitening: the symmetric linear map that makes pixels uncorrelated.

With Σ = U S Uᵀ the covariance of the flattened images, x is whitened to (x − μ) W with
W = U (S + ε)^(−1/2) Uᵀ. MTT (Cazenavette et al., CVPR 2022, arXiv:2203.11932) distils in this space
with ε = 0.1. Its public code whitens pixels in [0, 1], without a normalisation before or after. It
uses kornia, which divides the covariance by N − 1; so do we.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from dd.errors import DDError
from dd.runtime.precision import without_tf32

MAX_DIMENSIONS = 16384  # a float64 covariance of 2 GB


def fit(batches: Iterable[Tensor], eps: float = 0.1) -> tuple[Tensor, Tensor]:
    """Mean and whitening matrix of the images in ``batches``.

    The covariance is accumulated batch by batch in float64, so memory does not grow with N.

    Args:
        batches: tensors [n, C, H, W] of pixels in [0, 1] (for one tensor: ``[images]``).
        eps: added to the eigenvalues of the covariance.

    Returns:
        mean [D] and matrix [D, D], float64, D = C·H·W.

    Raises:
        DDError: if there are fewer than two images, or D is above :data:`MAX_DIMENSIONS`.
    """
    count = 0
    origin: Tensor | None = None
    total: Tensor
    products: Tensor
    for batch in batches:
        flat = batch.flatten(1).double()
        if origin is None:
            dimensions = flat.shape[1]
            if dimensions > MAX_DIMENSIONS:
                raise DDError(
                    f"ZCA: images have {dimensions} values, at most {MAX_DIMENSIONS} are possible "
                    "(the whitening matrix is their square); use smaller images"
                )
            # subtract a point near the mean first, so that no large numbers cancel
            origin = flat.mean(0)
            total = torch.zeros_like(origin)
            products = flat.new_zeros(dimensions, dimensions)
        flat = flat - origin
        count += len(flat)
        total += flat.sum(0)
        products.addmm_(flat.T, flat)
    if origin is None or count < 2:
        raise DDError(f"ZCA: needs at least 2 training images, not {count}")
    shift = total / count
    covariance = products.sub_(torch.outer(total, shift)).div_(count - 1)
    values, vectors = torch.linalg.eigh(covariance)
    # rounding may leave the smallest eigenvalues slightly below zero
    matrix = (vectors * (values.clamp(min=0) + eps).rsqrt()) @ vectors.T
    return origin + shift, matrix


def whiten(images: Tensor, mean: Tensor, matrix: Tensor) -> Tensor:
    """Whiten ``images`` [N, C, H, W] (pixels in [0, 1]); same shape and dtype, never in TF32."""
    flat = images.flatten(1) - mean.to(images)
    with without_tf32():
        return (flat @ matrix.to(images)).view_as(images)


def unwhiten(images: Tensor, mean: Tensor, matrix: Tensor) -> Tensor:
    """Undo :func:`whiten`: convert whitened ``images`` [N, C, H, W] to pixels.

    It solves in float64, where the inverse of any matrix of :func:`fit` is accurate.
    """
    flat = torch.linalg.solve(matrix.to(images.device).double(), images.flatten(1).double().T).T
    return (flat + mean.to(flat)).to(images.dtype).view_as(images)
