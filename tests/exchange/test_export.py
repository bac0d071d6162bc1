"""Sets for others: what comes back when they are imported again; pixels as anybody reads them."""

import errno
import pathlib

import numpy as np
import pytest
import torch
from PIL import Image

from dd.artifacts.tensors import load_tensors, save_tensors
from dd.command import main
from dd.data import synthetic
from dd.data.classes import NAMES
from dd.data.dataset import load_dataset
from dd.data.space import Space
from dd.data.synthetic import SyntheticSet
from tests.support.others import a_set

CLASSES = [f"class {n}" for n in range(10)]


def run(command, path, *words):
    return main([command, str(path), *map(str, words)])


def in_range(space, ipc=2, shape=(1, 8, 8)):
    """Images whose pixels are in [0, 1], in the units of ``space``."""
    pixels = torch.rand(10 * ipc, *shape, generator=torch.Generator().manual_seed(3))
    return pixels, space.from_pixels(pixels)


@pytest.fixture
def made(tmp_path, digits):
    _, images = in_range(digits.space)
    labels = torch.arange(10).repeat_interleave(2)
    mean, std = digits.mean_and_std()
    path = tmp_path / "made.safetensors"
    synthetic.save(path, SyntheticSet(images, labels, mean, std, header={"whitening": "none"}))
    return path


def test_pictures(made, tmp_path, digits, digits_file, capsys):
    """Class by class, within half a step of 8 bits, in the order of the set."""
    out = tmp_path / "pictures"
    assert run("export", made, "--out", out, "--data", digits_file) == 0
    pixels, images = in_range(digits.space)
    for number, wanted in enumerate(pixels):
        file = out / digits.classes[number // 2] / f"{number:05}.png"
        found = np.asarray(Image.open(file))
        assert found.dtype == np.uint8 and found.shape == (8, 8)
        assert np.abs(found / 255 - wanted[0].numpy()).max() <= 0.5 / 255 + 1e-6
    assert "outside" not in capsys.readouterr().out
    again = tmp_path / "again.safetensors"
    assert run("import", out, "--data", digits_file, "--out", again) == 0
    back = synthetic.load(again)
    error = (back.images - images).abs().max().item() * digits.space.std.item()
    assert error <= 0.5 / 255 + 1e-6
    assert torch.equal(back.labels, synthetic.load(made).labels)


def test_colour(tmp_path):
    space_mean, space_std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
    pixels = torch.zeros(2, 3, 4, 5)
    pixels[0, 0], pixels[1, 2, 0, 4] = 1.0, 0.5
    images = (pixels - space_mean.view(-1, 1, 1)) / space_std.view(-1, 1, 1)
    synthetic.save(
        tmp_path / "x.safetensors",
        SyntheticSet(images, torch.tensor([11, 0]), space_mean, space_std),
    )
    assert run("export", tmp_path / "x.safetensors", "--out", tmp_path / "out") == 0
    red = np.asarray(Image.open(tmp_path / "out/11/00000.png"))
    assert (red == [255, 0, 0]).all() and red.shape == (4, 5, 3)
    other = np.asarray(Image.open(tmp_path / "out/00/00001.png"))
    assert other[0, 4].tolist() == [0, 0, 128] and other.sum() == 128


def test_form_of_dc_does_not_hold_its_units_so_a_line_says_them(tmp_path, digits_file, capsys):
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2023, 0.1994, 0.2010])
    path, out = tmp_path / "x.safetensors", tmp_path / "x.pt"
    synthetic.save(path, SyntheticSet(torch.zeros(2, 3, 4, 4), torch.arange(2), mean, std))
    assert run("export", path, "--out", out) == 0
    said = capsys.readouterr().out
    assert (
        "2 images in normalised units (mean 0.4914 0.4822 0.4465, std 0.2023 0.1994 0.201)" in said
    )
    images, labels = a_set()
    synthetic.save(path, SyntheticSet(images, labels))
    assert run("export", path, "--out", out) == 0
    assert "10 images in normalised units\n" in capsys.readouterr().out
    assert run("export", path, "--out", out, "--data", digits_file) == 0
    assert "10 images in normalised units (mean 0.3" in capsys.readouterr().out


def test_whitened_images_are_shown_as_pixels(tmp_path, capsys):
    """By the dataset's own whitening; without it they are refused."""
    data, path = tmp_path / "data.safetensors", tmp_path / "x.safetensors"
    assert main(["prepare", "--source", "digits", "--zca", "--out", str(data)]) == 0
    dataset = load_dataset(data, whitening="zca")
    pixels, images = in_range(dataset.space, ipc=1)
    header = {"whitening": "zca"}
    synthetic.save(path, SyntheticSet(images, torch.arange(10), header=header))
    capsys.readouterr()
    assert run("export", path, "--out", tmp_path / "no") == 2
    said = capsys.readouterr().err
    assert "--data: the set is whitened" in said and said.count("\n") == 1
    assert run("export", path, "--out", tmp_path / "out", "--data", data) == 0
    for number, wanted in enumerate(pixels):
        found = np.asarray(Image.open(tmp_path / f"out/{number}/{number:05}.png"))
        assert np.abs(found / 255 - wanted[0].numpy()).max() <= 0.5 / 255 + 1e-4
    assert run("export", path, "--out", tmp_path / "x.pt") == 0
    words = ["--data", data, "--units", "whitened", "--out", tmp_path / "y.safetensors"]
    assert run("import", tmp_path / "x.pt", *words) == 0
    back = synthetic.load(tmp_path / "y.safetensors")
    assert torch.equal(back.images, images) and back.whitening == "zca" and back.mean is None


@pytest.mark.parametrize("soft", [False, True])
def test_form_of_dc_comes_back_exactly(tmp_path, digits, digits_file, soft, capsys):
    images, labels = a_set()  # also far outside the range of pixels
    labels = labels if not soft else torch.eye(10) * 0.5 + 0.05
    mean, std = digits.mean_and_std()
    path, out = tmp_path / "x.safetensors", tmp_path / "out.pt"
    synthetic.save(path, SyntheticSet(images, labels, mean, std, learned_lr=0.25))
    assert run("export", path, "--out", out) == 0
    assert "learning rate 0.25 is left out" in capsys.readouterr().out
    held = torch.load(out, weights_only=True)
    assert held.keys() == {"data", "accs_all_exps"} and len(held["data"]) == 1
    assert run("import", out, "--data", digits_file, "--out", tmp_path / "y.safetensors") == 0
    back = synthetic.load(tmp_path / "y.safetensors")
    assert torch.equal(back.images, images) and torch.equal(back.labels, labels)
    assert torch.equal(back.mean, mean) and torch.equal(back.std, std)


@pytest.mark.parametrize("out", ["x.pt", "x"])
def test_what_other_forms_do_not_hold_is_said(tmp_path, digits, out, capsys):
    images, _ = a_set()
    schedule = synthetic.Schedule(torch.tensor([0.5, 0.25]), torch.arange(10) % 2)
    header = {"labels": "targets", "whitening": "none"}
    path = tmp_path / "s.safetensors"
    made = SyntheticSet(images, torch.eye(10) - 0.1, *digits.mean_and_std(), header=header)
    made.schedule = schedule
    synthetic.save(path, made)
    assert run("export", path, "--out", tmp_path / out) == 0
    said = capsys.readouterr().out
    assert "the 2 steps that it was made for are left out" in said
    assert (
        "targets of a regression, which the file" if out == "x.pt" else "targets are left"
    ) in said


@pytest.mark.parametrize("named", [False, True])
def test_the_order_of_the_classes_is_said_where_a_form_does_not_hold_it(
    made, tmp_path, named, capsys
):
    stored = synthetic.load(made)
    stored.header = {"classes": CLASSES[::-1]} if named else {}
    synthetic.save(made, stored)
    assert run("export", made, "--out", tmp_path / "x.pt") == 0
    said = "names of its classes are left out, labels are in the order class 9, class 8, ..."
    assert (said in capsys.readouterr().out) == named


def test_pixels_of_8_bits_are_not_cut_off(tmp_path, capsys):
    """Whatever normalising them and going back rounds."""
    pixels = torch.arange(256.0).repeat(3).view(1, 3, 16, 16) / 255
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2023, 0.1994, 0.2010])
    space = Space(mean, std)
    images = space.from_pixels(pixels)
    back = space.to_pixels(images)
    assert ((back < 0) | (back > 1)).any()  # the rounding that is not meant
    path = tmp_path / "x.safetensors"
    synthetic.save(path, SyntheticSet(images, torch.tensor([0]), mean, std))
    assert run("export", path, "--out", tmp_path / "out") == 0
    assert "outside" not in capsys.readouterr().out
    found = np.asarray(Image.open(tmp_path / "out/0/00000.png"))
    assert (found.transpose(2, 0, 1).ravel() == np.tile(np.arange(256), 3)).all()


def test_indices_are_real_images(tmp_path, digits, digits_file):
    path = tmp_path / "x.safetensors"
    indices = torch.tensor([5, 17])
    chosen = SyntheticSet(None, digits.train.labels[indices], indices=indices)
    synthetic.save(path, chosen)
    assert run("export", path, "--out", tmp_path / "no.pt") == 2
    assert run("export", path, "--out", tmp_path / "out.pt", "--data", digits_file) == 0
    images, labels = torch.load(tmp_path / "out.pt", weights_only=True)["data"][0]
    assert torch.equal(images, digits.train.take(indices))
    assert run("export", path, "--out", tmp_path / "out", "--data", digits_file) == 0
    name = digits.classes[labels[0]]
    found = np.asarray(Image.open(tmp_path / f"out/{name}/00000.png"))
    assert (found == digits.train.images[5, 0].numpy()).all()


def test_what_is_cut_off_is_said(tmp_path, digits, capsys):
    images = torch.zeros(1, 1, 2, 2)
    images[0, 0, 0, 0], images[0, 0, 0, 1] = 1e3, -1e3
    mean, std = digits.mean_and_std()
    synthetic.save(tmp_path / "x.safetensors", SyntheticSet(images, torch.tensor([0]), mean, std))
    assert run("export", tmp_path / "x.safetensors", "--out", tmp_path / "out") == 0
    assert "50 % of the values are outside the range of pixels" in capsys.readouterr().out
    found = np.asarray(Image.open(tmp_path / "out/0/00000.png"))
    assert found[0].tolist() == [255, 0]


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("../x", "-.-x"), ("a/b", "a-b"), (".hidden", "-hidden"), ("a\nb", "a-b"),
        ("a\\b", "a-b"), ("", "0"), ("CLASS 1", "0"), ("class 1", "0"), ("class/1", "0"),
    ],
)  # fmt: skip
def test_no_class_leads_out_of_the_folder(made, tmp_path, name, folder, capsys):
    stored = synthetic.load(made)
    stored.header = {"classes": [name, *CLASSES[1:]]}
    synthetic.save(made, stored)
    assert run("export", made, "--out", tmp_path / "out/in") == 0
    said = capsys.readouterr().out
    assert ("folders are numbers" if folder == "0" else f"are replaced ({folder})") in said
    assert said.count("\n") == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"in"}
    (first, *others) = sorted(path.parent.name for path in tmp_path.glob("out/in/*/*.png"))[::2]
    assert first == folder and len(others) == 9


def test_names_with_signs_come_back(made, tmp_path, digits, digits_file):
    """Those of Fashion-MNIST, to a dataset that has its classes in another order."""
    stored = synthetic.load(made)
    stored.header = {"classes": list(NAMES["fashion_mnist"]), "whitening": "none"}
    synthetic.save(made, stored)
    assert run("export", made, "--out", tmp_path / "out") == 0
    assert (tmp_path / "out/T-shirt-top").is_dir()
    tensors, header = load_tensors(digits_file, "dataset")
    moved = [*reversed(NAMES["fashion_mnist"])]
    save_tensors(tmp_path / "d.safetensors", "dataset", tensors, header | {"classes": moved})
    words = ["--data", tmp_path / "d.safetensors", "--out", tmp_path / "again.safetensors"]
    assert run("import", tmp_path / "out", *words) == 0
    again = synthetic.load(tmp_path / "again.safetensors")
    labels = dict(zip(again.labels.tolist(), again.images, strict=False))
    for number in range(10):
        last = stored.images[stored.labels == number][-1]
        torch.testing.assert_close(labels[9 - number], last, atol=0.02, rtol=0)


@pytest.mark.parametrize("ending", ["", ".pt"])
@pytest.mark.parametrize(
    ("header", "indices", "message"),
    [
        ({"fingerprint": "0123"}, [5, 17], "indices are into a dataset with fingerprint 0123"),
        ({}, [5, 10**6], "indices span 5 to 1000000"),
    ],
)
def test_indices_are_those_of_their_own_dataset(
    ending, header, indices, message, tmp_path, digits_file, capsys
):
    path, places = tmp_path / "x.safetensors", torch.tensor(indices)
    synthetic.save(path, SyntheticSet(None, torch.tensor([0, 1]), indices=places, header=header))
    assert run("export", path, "--out", tmp_path / f"o{ending}", "--data", digits_file) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("x.png", "must end in .pt, or be a folder"),
        ("there", "holds another file, file; name a new folder"),
        ("there/file", "there/file: is a file; name a folder"),
    ],
)
def test_places(made, tmp_path, capsys, out, message):
    (tmp_path / "there").mkdir()
    (tmp_path / "there/file").touch()
    assert run("export", made, "--out", tmp_path / out) == 2
    assert message in capsys.readouterr().err


def test_a_full_disk_is_one_line(made, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    out = tmp_path / "set.pt"
    assert run("export", made, "--out", out) == 1
    assert capsys.readouterr().err == (
        f"error: {out}: the disk is full; free space and run again\n"
    )
    assert not out.exists()
