"""What distillations that match trajectories start from."""

from __future__ import annotations

import pytest

from tests.support.matching import made


@pytest.fixture(scope="session")
def shard(digits_file, tmp_path_factory):
    """Trajectories of two experts over three epochs in which they get somewhere."""
    return made(digits_file, tmp_path_factory.mktemp("buffers") / "shard0.safetensors")
