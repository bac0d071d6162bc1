"""Kernel ridge regression on features of synthetic images, and its derivatives."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dd.training.regression import squared_error


class Fit(NamedTuple):
    """A loss on real images and its derivatives, all float64.

    Attributes:
        loss: scalar.
        features: by the features of the synthetic images, ``[P, F]``.
        targets: by their targets, ``[P, K]``.
        condition: of the matrix that was inverted, in the 1-norm. A relative error of the features
            may become this many times as large in the prediction.
        positive: whether the matrix was positive definite; if not, the other values are worthless.
    """

    loss: Tensor
    features: Tensor
    targets: Tensor
    condition: Tensor
    positive: Tensor


def prediction(
    features: Tensor, targets: Tensor, real: Tensor, ridge: float
) -> tuple[Tensor, Tensor, Tensor]:
    """K_rs (K_ss + λ I)⁻¹ Y with linear kernels of features (arXiv:2206.00719, Eq. 3).

    λ = ridge · trace(K_ss) / P, so that it does not depend on the scale of the features.

    Args:
        features: of the synthetic images, ``[P, F]``; targets: Y, ``[P, K]``.
        real: features of real images, ``[B, F]``.
        ridge: relative to the mean of the diagonal.

    Returns:
        The prediction ``[B, K]``, the Cholesky factor ``[P, P]`` of the matrix, and 0, or where it
        turned out not to be positive definite.
    """
    kernel = features @ features.T
    shift = ridge * kernel.diagonal().mean()
    factor, failed = torch.linalg.cholesky_ex(
        kernel + shift * torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)
    )
    return real @ features.T @ torch.cholesky_solve(targets, factor), factor, failed


def fit(features: Tensor, targets: Tensor, real: Tensor, wanted: Tensor, ridge: float) -> Fit:
    """How well a ridge regression on synthetic images predicts real ones, in float64.

    In float32 a matrix as badly conditioned as 1 / ``ridge`` would leave no digit.

    Args:
        features, targets, real, ridge: see :func:`prediction`.
        wanted: targets of the real images, ``[B, K]``.
    """
    with torch.enable_grad():
        leaf = features.detach().double().requires_grad_()
        goal = targets.detach().double().requires_grad_()
        found, factor, failed = prediction(leaf, goal, real.detach().double(), ridge)
        loss = squared_error(found, wanted.double())
    by_features, by_targets = torch.autograd.grad(loss, [leaf, goal])
    with torch.no_grad():
        # a failed factor cannot be inverted
        one = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
        factor = torch.where(failed == 0, factor.detach(), one)
        condition = _one_norm(factor @ factor.T) * _one_norm(torch.cholesky_inverse(factor))
    return Fit(loss.detach(), by_features, by_targets, condition, failed == 0)


def margin_loss(labels: Tensor) -> Tensor:
    """The regulariser of FRePo's labels: minus the mean margin between the two largest values of an
    image, where a margin counts up to 1 / K; ``[M, K]`` to a scalar."""
    first, second = labels.topk(2, dim=1).values.unbind(1)
    return -(first - second).clamp(max=1 / labels.shape[1]).mean()


def _one_norm(matrix: Tensor) -> Tensor:
    return matrix.abs().sum(0).max()
