"""ZCA in NumPy."""

from __future__ import annotations

import numpy as np

# ZCA


def numpy_zca(images, eps):
    flat = images.reshape(len(images), -1).astype(np.float64)
    mean = flat.mean(0)
    u, s, _ = np.linalg.svd(np.cov(flat, rowvar=False))
    return mean, u @ np.diag(1 / np.sqrt(s + eps)) @ u.T
