"""What tests of several sources and of preparation start from."""

from __future__ import annotations

import pytest

from benchmarks.every_stage import small_raw
from dd.artifacts.tensors import save_tensors
from dd.data.prepare import prepare
from tests.support.pictures import picture


@pytest.fixture
def folder(tmp_path):
    """Two classes, three training and two test images each, RGB PNG of 6x5 pixels."""
    root = tmp_path / "pictures"
    for split, count in (("train", 3), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            for k in range(count):
                picture(root / split / name / f"{k}.png", seed=10 * label + k)
    return root


@pytest.fixture
def dataset_file(tmp_path):
    """A small prepared dataset: 40 training and 12 test images of 4 classes, 3x4x4."""
    path = tmp_path / "small.safetensors"
    save_tensors(path, "dataset", prepare(small_raw()), {"name": "small", "classes": list("abcd")})
    return path
