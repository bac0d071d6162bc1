"""What jobs that are killed start from, and undisturbed ones to compare with."""

from __future__ import annotations

import pytest

from dd.command import main
from tests.support.resuming import FILES, POOL, TRAINED, TRANSFORMER, buffer, distill


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """The digits, prepared, and beside them a pool, a buffer, frozen networks and a generator."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "pool.yaml").write_text(POOL)
    path = folder / "digits.safetensors"
    assert main(["prepare", "--source", "digits", "--out", str(path), "--threads", "1"]) == 0
    assert main(buffer(path, path.with_name("shard.safetensors"))) == 0
    machine = ["--data", str(path), "--threads", "1", "--device", "cpu", "--epochs", "1"]
    for name, words in (
        ("TRAINED", ["pretrain", "--network", TRAINED]),
        ("TRANSFORMER", ["pretrain", "--network", TRANSFORMER]),
        ("GENERATOR", ["generator", "--width", "8"]),
    ):
        assert main([*words, *machine, "--out", str(path.with_name(FILES[name]))]) == 0
    return path


@pytest.fixture(scope="session")
def alone(data, tmp_path_factory):
    """``alone(method)``: the folder of an undisturbed run, made once."""
    made = {}

    def run(method):
        if method not in made:
            made[method] = tmp_path_factory.mktemp(f"alone-{method}")
            assert main(distill(data, method, made[method])) == 0
        return made[method]

    return run
