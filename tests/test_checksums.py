"""A flipped bit in an artifact is noticed when it is read, wherever it is."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from dd.artifacts import load_tensors, read_header, save_tensors
from dd.errors import DDError

TENSORS = {
    "images": torch.arange(12, dtype=torch.float32).view(3, 4),
    "half": torch.ones(5, dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "none": torch.empty(0, 3),
}


@pytest.fixture
def artifact(tmp_path):
    path = tmp_path / "made.safetensors"
    save_tensors(path, "synthetic", TENSORS, {"ipc": 1, "dataset": "digits"})
    return path


def test_what_was_written_is_read(artifact):
    tensors, header = load_tensors(artifact, "synthetic")
    assert header["ipc"] == 1 and tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], value) for name, value in TENSORS.items())


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["images", "half", "count"])
def test_a_flipped_bit_of_a_tensor(name, artifact):
    data = artifact.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    first, last = json.loads(data[8 : 8 + length])[name]["data_offsets"]
    flip(artifact, 8 + length + (first + last) // 2)
    with pytest.raises(DDError, match=f"tensor '{name}' is not what was written") as error:
        load_tensors(artifact, "synthetic")
    assert str(artifact) in str(error.value)
    others = [other for other in TENSORS if other != name]
    assert load_tensors(artifact, "synthetic", only=others)[0].keys() == set(others)


def test_a_flipped_bit_of_the_header(artifact):
    flip(artifact, artifact.read_bytes().index(b"digits") + 2)
    for read in (read_header, lambda path: load_tensors(path, "synthetic")):
        with pytest.raises(DDError, match="its header is not what was written"):
            read(artifact)


def test_foreign_files_have_no_checksums(tmp_path):
    path = tmp_path / "theirs.safetensors"
    save_file({"images": TENSORS["images"]}, path)
    assert load_tensors(path, "synthetic")[1] == {}
