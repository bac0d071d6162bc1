"""ZCA whitening against NumPy, in any chunks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dd.data import zca
from dd.errors import DDError
from dd.rng import generator
from tests.support.whitening import numpy_zca


def correlated(count=300, dtype=torch.float64):
    stream = generator(0, "zca")
    mix = torch.randn(12, 12, generator=stream, dtype=dtype)
    flat = torch.randn(count, 12, generator=stream, dtype=dtype) @ mix + 100
    return flat.view(count, 3, 2, 2)


def test_zca_equals_numpy_whatever_the_chunks():
    images = correlated()
    expected = numpy_zca(images.numpy(), 0.1)
    for batches in ([images], images.split(7), images.split(299)):
        for ours, theirs in zip(zca.fit(batches, 0.1), expected, strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-8, atol=1e-9)


def test_zca_decorrelates_and_is_symmetric():
    images = correlated()
    mean, matrix = zca.fit([images], eps=1e-12)
    torch.testing.assert_close(matrix, matrix.T)
    flat = zca.whiten(images, mean, matrix).flatten(1).numpy()
    np.testing.assert_allclose(flat.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(np.cov(flat, rowvar=False), np.eye(12), atol=1e-6)


def test_zca_shrinks_by_eps():
    images = correlated()
    mean, matrix = zca.fit([images], eps=0.5)
    whitened = np.cov(zca.whiten(images, mean, matrix).flatten(1).numpy(), rowvar=False)
    eigenvalues = np.linalg.eigvalsh(np.cov(images.flatten(1).numpy(), rowvar=False))
    np.testing.assert_allclose(
        np.sort(np.linalg.eigvalsh(whitened)), eigenvalues / (eigenvalues + 0.5), rtol=1e-8
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zca_round_trip(dtype):
    images = correlated(dtype=dtype)
    mean, matrix = zca.fit([images])
    whitened = zca.whiten(images, mean.float(), matrix.float())
    assert (whitened.dtype, whitened.shape) == (dtype, images.shape)
    torch.testing.assert_close(
        zca.unwhiten(whitened, mean.float(), matrix.float()), images, rtol=1e-5, atol=1e-3
    )


def test_zca_of_fewer_images_than_dimensions_is_finite():
    _, matrix = zca.fit([correlated(4)])
    assert matrix.isfinite().all()
    # a direction without variance is scaled by 1/sqrt(eps)
    assert torch.linalg.eigvalsh(matrix).max().item() == pytest.approx(0.1**-0.5)


@pytest.mark.parametrize("batches", [[], [correlated(1)], [torch.zeros(2, 1, 129, 128)]])
def test_zca_refuses(batches):
    with pytest.raises(DDError, match="ZCA"):
        zca.fit(batches)
