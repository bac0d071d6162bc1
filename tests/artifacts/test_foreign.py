"""Files that others wrote, and what is no file at all: read, or named in one line."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import socket
import struct
import unicodedata
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.datasets import MNIST

from dd.artifacts.atomic import check_folder, check_target
from dd.artifacts.headers import read_header
from dd.artifacts.text import load_json, load_rows, read_text, save_text
from dd.command import main
from dd.data import layouts
from dd.data.dataset import load_dataset
from dd.errors import DDError


def refused(read, path):
    with pytest.raises(DDError) as caught:
        read(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ") and "\n" not in said
    return said


@pytest.mark.parametrize("new", [True, False])
def test_a_file_of_torch_save_is_called_that(new, tmp_path):
    path = tmp_path / "set.safetensors"
    torch.save({"images": torch.zeros(2)}, path, _use_new_zipfile_serialization=new)
    assert "is a file of torch.save, which can run code" in refused(read_header, path)


def test_a_header_as_long_as_a_pickle_starts_is_no_pickle(tmp_path):
    """0x80 0x02 is the start of a pickle, and of a safetensors file with a header of 640 bytes."""
    path = tmp_path / "set.safetensors"
    for length in range(400, 700):
        save_file({"x": torch.zeros(1)}, path, metadata={"note": "-" * length})
        if path.read_bytes()[:2] == b"\x80\x02":
            break
    assert path.read_bytes()[:8] == struct.pack("<Q", 640)
    assert read_header(path) == {}


@pytest.fixture
def odd(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket")
        yield {
            "fifo": tmp_path / "fifo",
            "socket": tmp_path / "socket",
            "device": Path("/dev/null"),
        }


@pytest.mark.parametrize("what", ["fifo", "socket", "device"])
@pytest.mark.parametrize("read", [load_json, load_rows, read_text, read_header])
def test_what_is_no_file_is_not_waited_for(what, read, odd):
    assert "is a device or pipe, no file" in refused(read, odd[what])


@pytest.mark.parametrize("what", ["fifo", "socket"])
def test_what_is_no_file_is_not_replaced(what, odd):
    """As root, a rename onto a device would take it from everybody."""
    before = odd[what].lstat()
    for write in (save_text, lambda path, text: check_target(path)):
        assert "must not be replaced" in refused(lambda path, do=write: do(path, "x"), odd[what])
    after = odd[what].lstat()
    assert (after.st_mode, after.st_ino) == (before.st_mode, before.st_ino)


@pytest.mark.parametrize("check", [check_target, check_folder])
def test_places_where_nothing_can_be_made(check, tmp_path):
    (tmp_path / "loose").symlink_to(tmp_path / "away" / "x")
    (tmp_path / "file").touch()
    for name, fault in (
        ("a\0b", f"is no name that a {'file' if check is check_target else 'folder'} can have"),
        ("loose/x", f"{tmp_path / 'loose'} is a link that leads nowhere; choose another place"),
        ("file/x", "its folder cannot be made, a file is in the way"),
    ):
        assert fault in refused(check, tmp_path / name)


def test_a_place_for_a_folder(tmp_path):
    """The folder that was named is what a message is about."""
    (tmp_path / "file").touch()
    assert "is a file; name a folder" in refused(check_folder, tmp_path / "file")
    (tmp_path / "loose").symlink_to(tmp_path / "away")
    assert "is a link that leads nowhere" in refused(check_folder, tmp_path / "loose")
    check_folder(tmp_path)
    check_folder(tmp_path / "new" / "folder")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="only Linux has /proc")
def test_a_folder_that_only_looks_as_if_it_could_be_written_to():
    said = refused(lambda path: save_text(path, "x"), Path("/proc/x.csv"))
    assert "nothing can be made in /proc; choose another place" in said


@pytest.mark.parametrize("name", ["\ud800", "a\0b"])
@pytest.mark.parametrize("read", [load_json, load_rows, read_text, read_header])
def test_a_name_that_no_file_can_have_is_that_of_none(name, read):
    assert "no such file" in refused(read, name)


def test_a_folder_is_called_a_folder(tmp_path):
    assert "is a folder, no file" in refused(load_json, tmp_path)


def test_byte_order_marks_and_semicolons(tmp_path):
    path = tmp_path / "groups.csv"
    path.write_bytes('\ufefffile;group\na.png;1,5\n"b;c.png";2\n'.encode())
    assert load_rows(path) == [
        {"file": "a.png", "group": "1,5"}, {"file": "b;c.png", "group": "2"}
    ]  # fmt: skip
    path.write_bytes("\ufefffile,group\na;b.png,1\n".encode())
    assert load_rows(path) == [{"file": "a;b.png", "group": "1"}]
    path.write_bytes(b"\xef\xbb\xbf[1]")
    assert load_json(path) == [1]


def test_deep_json_is_one_line(tmp_path):
    path = tmp_path / "run.json"
    path.write_text("[" * 100_000)
    assert "is nested too deeply" in refused(load_json, path)
    deep = tmp_path / "deep.safetensors"
    save_file({"x": torch.zeros(1)}, deep, metadata={"dd": "[" * 100_000})
    assert "its header is not JSON" in refused(read_header, deep)
    save_file({"x": torch.zeros(1)}, deep, metadata={"sha256": "[" * 100_000})
    assert "its checksums are broken" in refused(read_header, deep)


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(numpy.full((4, 4, 3), value, dtype=numpy.uint8)).save(path, format="png")


@pytest.fixture
def folder(tmp_path):
    for split in ("train", "test"):
        for number, name in enumerate(("café", "dog")):
            for index in range(2):
                picture(tmp_path / split / name / f"{index}.png", 90 * number + 10 * index)
    return tmp_path


def test_what_is_left_out_is_counted(folder, capsys):
    dog = folder / "train" / "dog"
    for name in ("a.bmp", "b.BMP", "notes.txt", "README", ".hidden.png"):
        (dog / name).write_text("x")
    for index in range(3):
        picture(dog / "more" / f"{index}.png")
    (dog / "more" / "list.csv").write_text("x")
    os.mkfifo(dog / "pipe.png")
    (dog / "9.png").mkdir()
    listing = layouts.image_folder(folder)
    assert [len(files) for files in (*listing.train, *listing.test)] == [2, 2, 2, 2]
    assert listing.notes == (
        f"{folder}: left out: 2 .bmp, 1 .csv, 1 .png, 1 .txt, 3 images one folder deeper, "
        "1 without an ending (images are .jpeg, .jpg, .png, .webp)",
    )
    out = folder / "x.safetensors"
    words = ["--source", "image-folder", "--root", str(folder), "--out", str(out)]
    assert main(["prepare", *words]) == 0
    assert f"prepare: {listing.notes[0]}\n" in capsys.readouterr().out


def test_nothing_is_said_where_nothing_is_left_out(folder):
    assert layouts.image_folder(folder).notes == ()


def test_val_is_the_test_split_where_there_is_no_test(folder):
    plain = layouts.image_folder(folder)
    (folder / "test").rename(folder / "val")
    listing = layouts.image_folder(folder)
    assert listing.notes == (f"{folder}: has no folder 'test'; 'val' is the test split",)
    assert [len(files) for files in listing.test] == [len(files) for files in plain.test]
    (folder / "test").mkdir()  # there is one: an empty one is a fault
    with pytest.raises(DDError, match="test: holds no class folders"):
        layouts.image_folder(folder)


def test_unicode_forms_of_a_name_are_one_name(folder):
    apart = unicodedata.normalize("NFD", "café")
    assert apart != "café"
    (folder / "test" / "café").rename(folder / "test" / apart)
    assert layouts.image_folder(folder).classes == ["café", "dog"]
    (folder / "test" / "café").mkdir()
    with pytest.raises(DDError, match="same name in two Unicode forms"):
        layouts.image_folder(folder)


def test_groups_name_files_in_any_unicode_form(tmp_path):
    for name in ("a", "b"):
        for index in range(4):
            picture(tmp_path / "images" / name / f"é{index}-{name}.png")
    rows = [
        f"{unicodedata.normalize('NFD', f'é{index}')}-{name}.png;{index}"
        for name in ("a", "b")
        for index in range(4)
    ]
    groups = tmp_path / "groups.csv"
    groups.write_text("\n".join(["file;group", *rows]), encoding="utf-8-sig")
    stream = torch.Generator().manual_seed(0)
    listing = layouts.class_folders(tmp_path / "images", 0.25, stream, groups)
    assert [len(files) for files in listing.test] == [1, 1]
    assert {path.name[1] for files in listing.test for path in files} in (
        {"0"},
        {"1"},
        {"2"},
        {"3"},
    )


def test_complete_archives_are_unpacked(tmp_path, monkeypatch, capsys):
    """MNIST's four gzip files, and nothing unpacked: no download is needed."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    resources = []
    for name, magic, shape in (
        ("train-images-idx3-ubyte", 2051, (20, 28, 28)), ("train-labels-idx1-ubyte", 2049, (20,)),
        ("t10k-images-idx3-ubyte", 2051, (10, 28, 28)), ("t10k-labels-idx1-ubyte", 2049, (10,)),
    ):  # fmt: skip
        values = numpy.arange(numpy.prod(shape)) % (10 if len(shape) == 1 else 251)
        content = struct.pack(f">{1 + len(shape)}I", magic, *shape) + values.astype("u1").tobytes()
        (raw / f"{name}.gz").write_bytes(gzip.compress(content))
        resources.append((f"{name}.gz", hashlib.md5((raw / f"{name}.gz").read_bytes()).hexdigest()))
    out = tmp_path / "mnist.safetensors"
    words = ["--source", "mnist", "--root", str(tmp_path), "--out", str(out), "--no-download"]
    assert main(["prepare", *words]) == 2  # they are not MNIST's by their checksums
    assert "mnist is not complete" in capsys.readouterr().err
    monkeypatch.setattr(MNIST, "resources", resources)
    assert main(["prepare", *words]) == 0
    assert load_dataset(out).train.labels.tolist() == [n % 10 for n in range(20)]


def test_json_of_a_run_that_is_no_run(tmp_path, capsys):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"run": {"name": "x"}}))
    assert main(["record", "--config", str(path), "--out", str(tmp_path / "r.json")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
