"""What commands are given: bad input, and small files that every stage reads."""

from __future__ import annotations

import shutil

import pytest
from safetensors.torch import load_file

from benchmarks.every_stage import make_files
from dd.command import main
from tests.support.broken import POOLS, broken_datasets, broken_folders, broken_sets, image_folder
from tests.support.commands import run


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """A folder with a sound dataset, synthetic set and pool, and everything broken."""
    root = tmp_path_factory.mktemp("files")
    data, made = root / "data.safetensors", root / "made"
    assert main(["prepare", "--source", "digits", "--out", str(data)]) == 0
    assert run(f"distill --data {data} --objective random --ipc 1 --out {made}") == 0
    shutil.copy(made / "it0.safetensors", root / "set.safetensors")
    shutil.copy(data, root / "it2.safetensors")  # named as a set that a stage writes
    broken_sets(root, load_file(made / "it0.safetensors"))
    broken_datasets(root, data)
    broken_folders(root / "folders")
    image_folder(root / "small")
    for name, text in POOLS.items():
        (root / name).write_text(text)
    (root / "latin.yaml").write_bytes("title: Pool f\xfcr alle".encode("latin-1"))
    (root / "file").write_text("in the way")
    return root


@pytest.fixture(scope="session")
def stage_files(tmp_path_factory):
    """What the commands of :mod:`benchmarks.every_stage` read, by its name in them."""
    return make_files(tmp_path_factory.mktemp("stages"))
