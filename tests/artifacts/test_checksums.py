"""A flipped bit in an artifact is noticed when it is read, wherever it is."""

from __future__ import annotations

import json
import os
import struct

import pytest
import torch
from safetensors.torch import save_file

from dd.artifacts.headers import read_header
from dd.artifacts.row_files import RowReader, RowWriter
from dd.artifacts.tensors import load_tensors, save_tensors
from dd.errors import DDError
from tests.support.runs import flip

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


def place(path, name):
    """First and last byte of tensor ``name`` in a file."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    return [
        8 + length + offset for offset in json.loads(data[8 : 8 + length])[name]["data_offsets"]
    ]


@pytest.mark.parametrize("name", ["images", "half", "count"])
def test_a_flipped_bit_of_a_tensor(name, artifact):
    flip(artifact, sum(place(artifact, name)) // 2)
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


ROWS = {
    "classes": torch.arange(24, dtype=torch.int16).view(2, 3, 4),
    "values": torch.arange(12, dtype=torch.bfloat16).view(2, 3, 2),
}


@pytest.fixture
def rows(tmp_path):
    """A file of 2 x 3 rows of two tensors."""
    path = tmp_path / "rows.safetensors"
    told = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in ROWS.items()}
    writer = RowWriter(path, "labels", 2, told, {"seed": 5})
    for name, tensor in ROWS.items():
        for first in range(2):
            for second in range(3):
                writer.put(name, (first, second), tensor[first, second])
    writer.finish({"seed": 5, "dataset": "digits"})
    return path


def read_all(path):
    """What is read of each row, or the message why it is not."""
    reader, found = RowReader(path, ("expert", "epoch")), {}
    for name in ROWS:
        for at in ((first, second) for first in range(2) for second in range(3)):
            try:
                found[name, at] = reader.read(name, at).tolist()
            except DDError as error:
                found[name, at] = str(error)
    return found


@pytest.mark.parametrize("name", ROWS)
def test_a_flipped_bit_of_a_row(name, rows):
    whole = read_all(rows)
    assert whole == {(n, at): ROWS[n][at].tolist() for n, at in whole}
    first, last = place(rows, name)
    flip(rows, first + (last - first) * 5 // 6)  # where the last row starts
    found = read_all(rows)
    message = found.pop((name, (1, 2)))
    assert message.startswith(f"{rows}: '{name}' of expert 1, epoch 2 is not what was written")
    assert "delete the file and make it again" in message
    assert found.items() <= whole.items()


def test_a_row_that_was_never_written_is_noticed(tmp_path):
    path = tmp_path / "rows.safetensors"
    writer = RowWriter(path, "labels", 1, {"values": (torch.float32, (2, 3))}, {})
    writer.put("values", (1,), torch.ones(3))
    writer.finish({})
    reader = RowReader(path, ("view",))
    assert reader.read("values", (1,)).tolist() == [1, 1, 1]
    with pytest.raises(DDError, match="'values' of view 0 is not what was written"):
        reader.read("values", (0,))


def test_a_flipped_bit_of_the_header_of_rows(rows):
    assert read_header(rows)["dataset"] == "digits"
    flip(rows, rows.read_bytes().index(b"digits") + 2)
    with pytest.raises(DDError, match="its header is not what was written"):
        read_header(rows)


def test_rows_without_checksums_are_read_as_they_are(tmp_path):
    path = tmp_path / "theirs.safetensors"
    save_file({"values": torch.arange(6.0).view(2, 3)}, path)
    assert RowReader(path, ("view",)).read("values", (1,)).tolist() == [3, 4, 5]


def test_rows_of_another_layout_are_not_found(tmp_path):
    """As those that were kept before rows had checksums."""
    path, told = tmp_path / "rows.safetensors", {"values": (torch.float32, (2, 3))}
    assert not RowWriter(path, "labels", 1, told, {}).found
    assert RowWriter(path, "labels", 1, told, {}).found
    partial = tmp_path / ".rows.safetensors.partial"
    os.truncate(partial, partial.stat().st_size - 2 * 8)  # two rows
    assert not RowWriter(path, "labels", 1, told, {}).found
