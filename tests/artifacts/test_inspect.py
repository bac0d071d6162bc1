"""``python -m dd inspect``: what is said of each kind of file, and of broken ones."""

from __future__ import annotations

import json

import numpy
import pytest
import torch
from safetensors.torch import save_file

from dd.artifacts.provenance import provenance
from dd.artifacts.tensors import save_tensors
from dd.artifacts.text import save_json, save_rows
from dd.command import main


def inspect(capsys, path):
    """Exit status, lines and error of ``python -m dd inspect PATH``."""
    status = main(["inspect", str(path)])
    captured = capsys.readouterr()
    return status, captured.out.splitlines(), captured.err


def words(lines, first):
    """The only line that starts with the word ``first``, single spaces between its words."""
    (line,) = [" ".join(line.split()) for line in lines if line.split()[:1] == [first]]
    return line


def test_artifact(tmp_path, capsys):
    path = tmp_path / "x.safetensors"
    tensors = {"train_images": torch.zeros(2, 3, 4, 5, dtype=torch.uint8), "mean": torch.zeros(3)}
    command = "python -m dd prepare --root " + "long/" * 40
    header = {
        "name": "x",
        "classes": ["a", "b"],
        "zca": {"eps": 0.1},
        "provenance": provenance(seed=7, command=command),
    }
    save_tensors(path, "dataset", tensors, header)
    status, lines, _ = inspect(capsys, path)
    assert status == 0
    assert lines[0] == f"{path}: dataset, format 1"
    assert words(lines, "train_images") == "train_images u8 [2, 3, 4, 5] pixels 0..255"
    assert words(lines, "mean") == "mean f32 [3] pixels in [0, 1]"
    assert "classes: 2 entries: a, b" in lines
    assert lines[lines.index("zca:") + 1] == "  eps: 0.1"
    assert lines.index("  seed: 7") > lines.index("provenance:")
    assert f"  command: {command}" in lines  # whole, so that it can be copied


def test_units_depend_on_the_kind(tmp_path, capsys):
    path = tmp_path / "x.safetensors"
    save_tensors(path, "synthetic", {"images": torch.zeros(1, 1, 2, 2)}, {})
    assert words(inspect(capsys, path)[1], "images").endswith(
        "2] normalised units, or whitened pixels"
    )
    save_tensors(path, "networks", {"images": torch.zeros(1, 1, 2, 2)}, {})
    assert words(inspect(capsys, path)[1], "images").endswith("2]")


def test_foreign_safetensors(tmp_path, capsys):
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.zeros(2, 3, dtype=torch.float16)}, path)
    status, lines, _ = inspect(capsys, path)
    assert status == 0
    assert "from elsewhere" in lines[0]
    assert words(lines, "w") == "w f16 [2, 3]"


def test_a_file_without_tensors(tmp_path, capsys):
    path = tmp_path / "x.safetensors"
    save_file({}, path)
    assert inspect(capsys, path)[0] == 0


ROWS = [
    {"arch": "convnet", "seed": 3, "accuracy": 44.5, "note": ""},
    {"arch": "mlp", "seed": 1, "accuracy": 23.25, "note": ""},
    {"arch": "mlp", "seed": 2, "accuracy": 31.0, "note": ""},
]


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl"])
def test_results(tmp_path, capsys, suffix):
    path = tmp_path / f"x.{suffix}"
    if suffix == "csv":
        save_rows(path, ROWS)
    elif suffix == "json":
        save_json(path, ROWS)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    status, lines, _ = inspect(capsys, path)
    assert status == 0
    assert lines[1] == "3 rows, 4 columns:"
    assert words(lines, "arch") == "arch 2 distinct: convnet, mlp"
    assert words(lines, "seed") == "seed 1 to 3"
    assert words(lines, "accuracy") == "accuracy 23.25 to 44.5"
    assert words(lines, "note") == "note empty"


def test_rows_may_differ_in_their_keys(tmp_path, capsys):
    path = tmp_path / "x.jsonl"
    path.write_text('{"loss": 2.5}\n\n{"loss": 1.5, "lr": 0.1}\n')
    _, lines, _ = inspect(capsys, path)
    assert lines[1:] == ["2 rows, 2 columns:", "  loss  1.5 to 2.5", "  lr    0.1 to 0.1"]


def test_json_document(tmp_path, capsys):
    path = tmp_path / "x.json"
    save_json(path, {"run": "smoke", "hardware": {"gpus": 0}})
    assert inspect(capsys, path)[1][1:] == ["run: smoke", "hardware:", "  gpus: 0"]


def test_long_lists_are_cut(tmp_path, capsys):
    path = tmp_path / "x.json"
    save_json(path, {"classes": [f"class{k}" for k in range(1000)]})
    line = inspect(capsys, path)[1][1]
    assert line.startswith("classes: 1000 entries: class0, class1,")
    assert line.endswith("...")
    assert len(line) <= 100


@pytest.mark.parametrize("name", ["empty.csv", "empty.jsonl", "empty.json"])
def test_no_rows(tmp_path, capsys, name):
    path = tmp_path / name
    path.write_text("[]" if name.endswith(".json") else "")
    assert inspect(capsys, path)[0] == 0


BAD = {
    "missing.safetensors": (None, "no such file"),
    "missing.csv": (None, "no such file"),
    "missing.json": (None, "no such file"),
    "missing.jsonl": (None, "no such file"),
    "text.safetensors": (b"this is text", "no safetensors file"),
    "short.safetensors": (b"", "no safetensors file"),
    "notes.txt": (b"anything at all", "no safetensors file"),
    "x.json": (b"{1", "is not JSON"),
    "x.jsonl": (b'{"a": 1}\n{"a"\n', "line 2 is not JSON"),
    "list.jsonl": (b'{"a": 1}\n[1]\n', "line 2 is no JSON object"),
    "binary.csv": (b"a,b\n\xff\xfe\x00,1\n", "is not CSV"),
    "binary.jsonl": (b"\xff\xfe\x00", "is not text"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_line(tmp_path, capsys, name):
    content, expected = BAD[name]
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    status, lines, error = inspect(capsys, path)
    assert (status, lines) == (2, [])
    assert str(path) in error
    assert expected in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["notes.md", "set.pt", "set.npz"])
def test_other_files_are_called_what_they_are(tmp_path, capsys, name):
    """With what reads them, and what this command reads."""
    path = tmp_path / name
    expected = "no safetensors file (Error"
    if name == "set.pt":
        torch.save({"images": torch.zeros(2)}, path)
        expected = "is a file of torch.save, which can run code when it is read; `python -m dd impo"
    elif name == "set.npz":
        numpy.savez(path, images=numpy.zeros(2))
        expected = "is a .npz file, no safetensors file; `python -m dd import` makes a set of it"
    else:
        path.write_text("# Notes, longer than eight bytes")
    status, _, error = inspect(capsys, path)
    assert (status, error.count("\n")) == (2, 1)
    assert expected in error and error.endswith("inspect reads .safetensors, .csv, .json, .jsonl\n")


def test_truncated_artifact(tmp_path, capsys):
    path = tmp_path / "x.safetensors"
    save_tensors(path, "dataset", {"mean": torch.zeros(100)}, {})
    path.write_bytes(path.read_bytes()[:-50])
    status, _, error = inspect(capsys, path)
    assert (status, "truncated" in error, error.count("\n")) == (2, True, 1)


@pytest.mark.parametrize("header", ["[1]", "{", '"text"'])
def test_broken_header(tmp_path, capsys, header):
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.zeros(1)}, path, metadata={"dd": header})
    status, _, error = inspect(capsys, path)
    assert (status, "header" in error, error.count("\n")) == (2, True, 1)


def test_folder(tmp_path, capsys):
    status, _, error = inspect(capsys, tmp_path)
    assert (status, "is a folder" in error) == (2, True)
