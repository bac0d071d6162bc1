"""What identifies raw images: their source, options and files, not their place."""

import errno
import hashlib
import os
from pathlib import Path

import pytest

from dd.artifacts.headers import read_header
from dd.command import main
from dd.data.raw import identity, listing_digest
from dd.errors import DDError
from tests.support.broken import image, image_folder


def test_the_digest_of_a_listing_by_hand(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b/2.png").write_bytes(b"12345")
    (tmp_path / "a.png").write_bytes(b"1")
    (tmp_path / ".hidden").write_bytes(b"1")
    expected = hashlib.sha256(b"a.png\x001\nb/2.png\x005\n").hexdigest()[:16]
    assert listing_digest(tmp_path) == expected
    (tmp_path / "b").rename(tmp_path / "c")
    assert listing_digest(tmp_path) != expected


def test_what_cannot_be_read_in_a_folder_is_named(tmp_path, monkeypatch):
    image_folder(tmp_path / "pets")
    link = tmp_path / "pets/train/self"
    link.symlink_to(link)
    with pytest.raises(DDError) as error:
        listing_digest(tmp_path / "pets")
    assert str(error.value).startswith(f"{link}: cannot be read (Too many levels of symbolic ")
    link.unlink()
    closed = tmp_path / "pets/lost+found"
    closed.mkdir()
    real = os.scandir

    def scandir(folder):  # the superuser may read every folder
        if Path(folder) == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DDError) as error:
        listing_digest(tmp_path / "pets")
    assert str(error.value).startswith(f"{closed}: cannot be read (Permission denied); mend it")


def test_a_loop_of_links_ends(tmp_path):
    image_folder(tmp_path / "pets")
    before = listing_digest(tmp_path / "pets")
    (tmp_path / "pets/train/cat/loop").symlink_to(tmp_path / "pets")
    assert listing_digest(tmp_path / "pets") == before  # too deep for any layout


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({"root": "elsewhere"}, True),
        ({"label": "another"}, True),
        ({"zca_eps": 0.2}, True),  # without a whitening it has no effect
        ({"resize": None}, True),
        ({"zca": True}, False),
        ({"resize": 8}, False),
        ({"source": "class-folders"}, False),
        ({"normalise_as": "cifar10"}, False),
    ],
)
def test_what_counts(options, same):
    plain = {"source": "image-folder", "normalise_as": "data", "root": "here", "label": "l"}
    assert (identity(plain, "x") == identity(plain | options, "x")) is same
    assert identity(plain, "x") != identity(plain, "y")


def test_groups_count_by_content(tmp_path):
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    one.write_text("file,group\n")
    two.write_text("file,group\n")
    assert identity({"groups": one}, None) == identity({"groups": two}, None)
    two.write_text("file,group\na.png,1\n")
    assert identity({"groups": one}, None) != identity({"groups": two}, None)


def test_a_prepared_file_is_left_as_it_is(tmp_path, capsys):
    """It says what its images depend on, and is written again only if something in it changes."""
    folder, out = image_folder(tmp_path / "pets"), tmp_path / "pets.safetensors"

    def prepare(*words):
        os.utime(out, (1, 1)) if out.exists() else None
        argv = ["--source", "image-folder", "--out", str(out), "--name", "pets"]
        assert main(["prepare", *argv, *words]) == 0
        return "left as it is" in capsys.readouterr().out, out.stat().st_mtime == 1

    assert prepare("--root", str(folder)) == (False, False)
    made = out.read_bytes()
    said = read_header(out)["images"]
    assert said == {
        "source": "image-folder",
        "normalise_as": "data",
        "listing": listing_digest(folder),
    }
    assert prepare("--root", f"{folder}/") == (True, True)
    folder.rename(tmp_path / "moved")
    # the label of images without one is the name of their folder
    assert prepare("--root", str(tmp_path / "moved"), "--label", "pets") == (True, True)
    assert out.read_bytes() == made
    assert prepare("--root", str(tmp_path / "moved"), "--label", "dogs") == (False, False)
    assert prepare("--root", str(tmp_path / "moved"), "--label", "dogs", "--zca") == (False, False)
    assert read_header(out)["images"]["zca_eps"] == 0.1
    image(tmp_path / "moved/train/dog/9.png", seed=3)
    assert prepare("--root", str(tmp_path / "moved"), "--label", "dogs", "--zca") == (False, False)
    assert read_header(out)["images"]["listing"] == listing_digest(tmp_path / "moved")
    out.write_bytes(made[:100])  # broken
    assert prepare("--root", str(tmp_path / "moved")) == (False, False)
