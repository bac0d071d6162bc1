"""Sets that others published: every form gives the set in it, whatever else is one clear line."""

import csv
import re
import shutil
import struct
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dd.artifacts.headers import read_header
from dd.artifacts.tensors import load_tensors, save_tensors
from dd.artifacts.text import file_digest
from dd.command import main
from dd.data import synthetic
from dd.data.dataset import load_dataset
from dd.data.fit import OTHER, fit
from dd.data.space import Space
from dd.errors import DDError
from dd.exchange import forms, import_
from dd.exchange.target import target_of
from dd.exchange.units import class_labels, in_space
from tests.support.others import (
    Evil,
    a_set,
    archive_of,
    dc_form,
    described,
    pickled,
    pictures,
    repacked,
)

LOW = [torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz]
MEAN, STD = 0.1307, 0.3081  # of MNIST in the field's code


def imported(*words, out):
    assert main(["import", *map(str, words), "--out", str(out)]) == 0
    return synthetic.load(out)


def refused(capsys, *words):
    assert main(["import", *map(str, words)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    return said


@pytest.fixture
def digits_words(digits_file):
    return ["--data", digits_file]


@pytest.mark.parametrize("old", [False, True])
def test_form_of_dc(tmp_path, digits_words, digits, old):
    """As it is, with the dataset's normalisation; the old and the new container of torch."""
    pairs = [a_set(seed) for seed in range(3)]
    more = {"_use_new_zipfile_serialization": not old}
    path = dc_form(tmp_path / "res_DSA_X_ConvNet_1ipc.pt", *pairs, **more)
    for words, number in (([], 2), (["--entry", "last"], 2), (["--entry", "0"], 0)):
        made = imported(path, *digits_words, *words, out=tmp_path / "x.safetensors")
        assert torch.equal(made.images, pairs[number][0])
        assert torch.equal(made.labels, pairs[number][1])
        assert torch.equal(made.mean, digits.space.mean) and made.whitening == "none"
        told = made.header["imported"]
        assert (told["entry"], told["entries"], told["form"]) == (str(number), 3, "dc")
        assert (told["units"], told["sha256"]) == ("normalised", file_digest(path))
        assert told["files"] == [path.name]
        assert made.header["objective"] == "dsa" and made.header["ipc"] == 1


def test_the_dataset_is_not_overwritten(tmp_path, digits_file, capsys):
    path, data = dc_form(tmp_path / "a.pt", a_set(0)), tmp_path / "digits.safetensors"
    shutil.copy(digits_file, data)
    said = refused(capsys, path, "--data", data, "--out", data)
    assert f"--out: {data} is read by this command" in said
    assert data.read_bytes() == digits_file.read_bytes()


def test_a_dataset_that_is_not_prepared(tmp_path):
    images, labels = a_set(shape=(1, 28, 28))
    path = dc_form(tmp_path / "a.pt", (images, labels))
    made = imported(path, "--dataset", "mnist", out=tmp_path / "x.safetensors")
    assert torch.equal(made.images, images)
    assert made.mean.tolist() == pytest.approx([MEAN]) and made.std.tolist() == pytest.approx([STD])
    assert made.header["imported"]["normalisation"] == "mnist"


DC_100 = ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762))  # CIFAR-100 in DC's code
MTT_100 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))  # in MTT's, that of CIFAR-10


def cifar100(path, **header):
    """A prepared file with the shape of CIFAR-100, in the units that the header names."""
    stream = torch.Generator().manual_seed(1)
    units = {"cifar10": MTT_100, "cifar100": DC_100, "data": ((0.4,) * 3, (0.3,) * 3)}
    tensors = dict(
        zip(("mean", "std"), map(torch.tensor, units[header["normalisation"]]), strict=True)
    )
    for part in ("train", "test"):
        drawn = torch.randint(0, 256, (100, 3, 32, 32), generator=stream)
        tensors |= {f"{part}_images": drawn.to(torch.uint8), f"{part}_labels": torch.arange(100)}
    save_tensors(path, "dataset", tensors, {"classes": [str(n) for n in range(100)]} | header)
    return path


def published_in(form, folder, pixels, units):
    """The file of a form whose images are ``pixels`` in ``units``: mean and std."""
    mean, std = (np.array(part).reshape(3, 1, 1) for part in units)
    images, labels = torch.from_numpy((pixels - mean) / std).float(), torch.arange(100)
    if form == "dc":
        return dc_form(folder / "res_DM_CIFAR100_ConvNet_1ipc.pt", (images, labels))
    torch.save(images, folder / "images_5000.pt")
    torch.save(labels, folder / "labels_5000.pt")
    return folder / "images_5000.pt"


@pytest.mark.parametrize(("form", "units"), [("dc", DC_100), ("pair", MTT_100)])
@pytest.mark.parametrize(
    "told",
    [
        None,
        {"source": "cifar100", "normalisation": "cifar100"},
        {"source": "cifar100", "normalisation": "cifar10"},
        {"source": "cifar100", "normalisation": "data"},
        {"source": "image-folder", "normalisation": "cifar100"},
        {"normalisation": "data"},
    ],
)
def test_the_units_of_cifar100_are_those_of_the_code_that_writes_the_form(
    form, units, told, tmp_path, capsys
):
    """Whatever the prepared dataset is normalised with. A file that nothing is known of is named
    by ``--dataset``."""
    pixels = np.random.default_rng(0).random((100, 3, 32, 32))
    words = ["--dataset", "cifar100"] if told is None or "source" not in told else []
    if told is not None:
        words += ["--data", cifar100(tmp_path / "data.safetensors", **told)]
    path = published_in(form, tmp_path, pixels, units)
    made = imported(path, *words, out=tmp_path / "x.safetensors")
    back = made.images.double() * made.std.view(3, 1, 1) + made.mean.view(3, 1, 1)
    np.testing.assert_allclose(back.numpy(), pixels, atol=1e-6)
    name = {"dc": "cifar100", "pair": "cifar10"}[form]
    assert made.header["imported"]["normalisation"] == name
    assert made.header["dataset"] == ("cifar100" if told is None else "data")
    said = capsys.readouterr().out
    code = {"dc": "DC", "pair": "MTT"}[form]
    assert f"normalised with the mean and std of {name}, as in {code}'s code (" in said
    if told is not None:
        data = load_dataset(tmp_path / "data.safetensors")
        back = data.space.to_pixels(made.images_for(data))
        np.testing.assert_allclose(back.numpy(), pixels, atol=1e-6)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_units_that_are_stated_count_for_every_form(name, tmp_path):
    units = {"cifar10": MTT_100, "cifar100": DC_100}[name]
    for form in ("dc", "pair"):
        path = published_in(form, tmp_path, np.full((100, 3, 32, 32), 0.5), units)
        words = ["--dataset", "cifar100", "--normalise-as", name]
        made = imported(path, *words, out=tmp_path / "x.safetensors")
        assert made.mean.tolist() == pytest.approx(units[0])
        assert made.header["imported"]["normalisation"] == name


def test_a_form_of_nobody_s_code_takes_the_units_of_the_prepared_dataset(tmp_path):
    told = {"source": "cifar100", "normalisation": "data"}
    data = cifar100(tmp_path / "data.safetensors", **told)
    images = 2 * torch.randn(100, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.save({"images": images, "labels": torch.arange(100)}, tmp_path / "set.pt")
    out = tmp_path / "x.safetensors"
    made = imported(tmp_path / "set.pt", "--data", data, out=out)
    assert made.mean.tolist() == pytest.approx([0.4] * 3)
    made = imported(tmp_path / "set.pt", "--data", data, "--dataset", "cifar100", out=out)
    assert made.mean.tolist() == pytest.approx(DC_100[0])


def test_the_code_s_constants_are_for_as_many_channels_as_the_dataset_has(tmp_path):
    """Grey images of a dataset in colour: the field has no constants for them."""
    told = {"classes": ["a", "b"], "source": "cifar10", "normalisation": "data"}
    tensors = {"mean": torch.tensor([0.4]), "std": torch.tensor([0.3])}
    for part in ("train", "test"):
        pixels = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
        tensors |= {f"{part}_images": pixels, f"{part}_labels": torch.arange(2)}
    save_tensors(tmp_path / "grey.safetensors", "dataset", tensors, told)
    path = dc_form(tmp_path / "a.pt", a_set(classes=2))
    words = ["--data", tmp_path / "grey.safetensors"]
    made = imported(path, *words, out=tmp_path / "x.safetensors")
    assert made.mean.tolist() == pytest.approx([0.4])


def test_all_entries(tmp_path, digits_words):
    pairs = [a_set(seed, ipc=2) for seed in range(2)]
    path = dc_form(tmp_path / "several.pt", *pairs)
    words = ["import", str(path), *map(str, digits_words), "--entry", "all", "--out"]
    assert main([*words, str(tmp_path / "out")]) == 0
    for number, (images, _) in enumerate(pairs):
        made = synthetic.load(tmp_path / f"out/several-{number}.safetensors")
        assert torch.equal(made.images, images) and made.header["ipc"] == 2


def test_pairs_of_mtt(tmp_path, digits_words, capsys):
    """The best, else the last by number; a learned rate beside them; whitened if one says so."""
    for number, name in enumerate(("100", "20", "best")):
        images, labels = a_set(number)
        torch.save(0.24 * images / images.std(), tmp_path / f"images_{name}.pt")
        torch.save(labels, tmp_path / f"labels_{name}.pt")
    torch.save(images, tmp_path / "images_zca_100.pt")
    torch.save(torch.tensor(0.0123), tmp_path / "lr_best.pt")
    out = tmp_path.with_name("pair.safetensors")
    whitened = ["--units", "whitened"]
    made = imported(tmp_path, *digits_words, *whitened, out=out)
    assert made.header["imported"]["entry"] == "best" and made.learned_lr == pytest.approx(0.0123)
    assert made.whitening == "zca" and made.mean is None and made.header["objective"] == "mtt"
    assert "selected on test data" in capsys.readouterr().out
    made = imported(tmp_path / "images_20.pt", *digits_words, *whitened, out=out)
    assert made.images.std().item() == pytest.approx(0.24) and made.learned_lr is None
    (tmp_path / "images_best.pt").unlink()
    capsys.readouterr()
    made = imported(tmp_path, *digits_words, "--lr", "0.5", out=out)
    assert made.header["imported"]["entry"] == "100" and made.learned_lr == 0.5
    assert "were they distilled with ZCA? (--units whitened)" in capsys.readouterr().out


def test_logits_of_datm(tmp_path, digits_words):
    images, _ = a_set()
    logits = torch.eye(10) * 3 - 1
    torch.save({"images": images, "labels": logits, "lr": 0.02}, tmp_path / "set.pt")
    made = imported(tmp_path / "set.pt", *digits_words, out=tmp_path / "x.safetensors")
    high = np.exp(2) / (np.exp(2) + 9 * np.exp(-1))  # softmax of 2 and nine times -1
    low = np.exp(-1) / (np.exp(2) + 9 * np.exp(-1))
    assert made.labels.diagonal().tolist() == pytest.approx([high] * 10)
    assert made.labels[0, 1].item() == pytest.approx(low)
    assert made.learned_lr == pytest.approx(0.02)


def test_folders_of_images(tmp_path, digits_words, digits, capsys):
    """Pixels of 8 bits, normalised; classes by name if the dataset has the same, else in order."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8)
    labels = [n % 10 for n in range(20)]
    expected = (torch.from_numpy(pixels) / 255 - digits.space.mean) / digits.space.std
    turned = [str(9 - n) for n in range(10)]  # the folder of class 0 is called 9
    for names, said, classes in (
        ([f"new{n}" for n in range(10)], "folders in order (new0, new1, ...) are", digits.classes),
        (turned, "folders are classes of digits by name", sorted(turned)),
    ):
        root = pictures(tmp_path / names[0], pixels, labels, names)
        made = imported(root, *digits_words, out=tmp_path / "x.safetensors")
        assert said in capsys.readouterr().out
        assert made.header.get("classes", digits.classes) == classes
        assert made.labels.tolist() == sorted(labels)
        for label in range(10):
            mine = made.images[made.labels == label]
            theirs = int(classes[label]) if names is turned else label
            theirs = 9 - theirs if names is turned else theirs
            assert torch.allclose(mine, expected[[theirs, theirs + 10]][:, None], atol=1e-6)
        told = made.header["imported"]
        assert made.header["objective"] == "sre2l" and told["units"] == "bytes"


def test_ten_comes_after_two(tmp_path, digits_words):
    pixels = np.stack([np.full((8, 8), 10 * n, np.uint8) for n in range(11)])[:10]
    root = pictures(tmp_path / "root", pixels, range(10), [f"class{n + 1}" for n in range(10)])
    made = imported(root, *digits_words, out=tmp_path / "x.safetensors")
    assert made.images.mean((1, 2, 3)).argsort().tolist() == list(range(10))


@pytest.mark.parametrize("channels_last", [False, True])
def test_arrays(tmp_path, digits_words, digits, channels_last):
    pixels = np.random.default_rng(1).integers(0, 256, (10, 1, 8, 8), np.uint8)
    shown = np.moveaxis(pixels, 1, -1) if channels_last else pixels
    path = archive_of(tmp_path / "a.npz", x=shown, y=np.arange(10, dtype=np.int32))
    made = imported(path, *digits_words, out=tmp_path / "x.safetensors")
    expected = (torch.from_numpy(pixels) / 255 - digits.space.mean) / digits.space.std
    assert torch.allclose(made.images, expected, atol=1e-6)
    assert made.labels.tolist() == list(range(10))


@pytest.mark.parametrize(
    "kind", [torch.uint16, torch.uint32, torch.uint64, *LOW, torch.float16, torch.int8]
)
def test_labels_of_any_numbers(tmp_path, digits_words, kind):
    """Also of types of which torch knows little: no minimum, or no test for infinity."""
    images, labels = a_set()[0][:2], torch.tensor([1, 0])
    path, out = tmp_path / "a.pt", tmp_path / "x.safetensors"
    dc_form(path, (images, labels.to(kind)))
    assert imported(path, *digits_words, out=out).labels.tolist() == [1, 0]
    if not kind.is_floating_point:
        array = labels.to(kind).numpy()
        path = archive_of(tmp_path / "a.npz", x=images.numpy(), y=array)
        assert imported(path, *digits_words, out=out).labels.tolist() == [1, 0]
    dc_form(path.with_suffix(".pt"), (images, torch.eye(10)[:2].to(kind)))
    made = imported(path.with_suffix(".pt"), *digits_words, out=out)
    assert torch.equal(made.labels, torch.eye(10)[:2])


@pytest.mark.parametrize("kind", LOW)
def test_a_set_of_low_precision(tmp_path, digits_words, kind):
    pixels = torch.full((10, 1, 8, 8), 0.5)
    shares = torch.full((10, 10), 0.5).fill_diagonal_(4.0)  # logits
    path = dc_form(tmp_path / "a.pt", (pixels.to(kind), shares.to(kind)))
    made = imported(path, *digits_words, out=tmp_path / "x.safetensors")
    assert torch.allclose(made.images * made.std + made.mean, pixels)
    assert torch.allclose(made.labels, shares.softmax(1))


def test_of_arrays_only_what_is_needed_is_read(tmp_path, digits_words, capsys, monkeypatch):
    """Other members may be of any kind and size; what is read counts together."""
    path, images = tmp_path / "a.npz", np.zeros((10, 8, 8), np.float32)
    np.savez_compressed(
        path, x=images, y=np.arange(10), accuracies=np.array([{}]), more=np.zeros(10**5)
    )
    words, out = [path, *digits_words], tmp_path / "x.safetensors"
    size = 128 + images.nbytes + 128 + 80  # with the headers of both
    monkeypatch.setattr(forms, "MOST_UNPACKED", size)
    assert len(imported(*words, out=out)) == 10
    monkeypatch.setattr(forms, "MOST_UNPACKED", size - 1)
    said = refused(capsys, *words, "--out", out)
    assert f"to {size}; at most {size - 1} are read of compressed arrays" in said
    np.savez(path, x=images, y=np.arange(10))  # not compressed: as large as the file
    assert len(imported(*words, out=out)) == 10


def test_a_safetensors_file(tmp_path, digits_words, capsys):
    images, labels = a_set()
    save_file({"images": images, "labels": labels}, tmp_path / "theirs.safetensors")
    made = imported(tmp_path / "theirs.safetensors", *digits_words, out=tmp_path / "x.safetensors")
    assert torch.equal(made.images, images)
    own = torch.tensor([0.5])
    stored = {"images": images, "labels": labels, "mean": own, "std": own.clone()}
    save_file(stored, tmp_path / "theirs.safetensors")
    made = imported(tmp_path / "theirs.safetensors", *digits_words, out=tmp_path / "x.safetensors")
    assert torch.equal(made.mean, own) and torch.equal(made.images, images)
    words = [tmp_path / "theirs.safetensors", *digits_words, "--units", "pixels"]
    said = refused(capsys, *words, "--out", tmp_path / "y.safetensors")
    assert "it says what its images are; leave --units out" in said


@pytest.mark.parametrize("says", ["mean and std", "whitening", "nothing"])
def test_what_a_safetensors_file_says_of_its_images_is_kept(tmp_path, digits_words, says, digits):
    """Classes in another order, data, whitening, networks; not whose import it was before."""
    images, labels = a_set()
    facts = {
        "classes": digits.classes[::-1], "fingerprint": "0123-zca-pixels-45", "seen": ["mlp"],
        "zca": {"of": "pixels in 0 to 1", "eps": 0.5}, "iteration": 7,
        **({"whitening": "zca"} if says == "whitening" else {}),
    }  # fmt: skip
    stored = facts | {"dataset": "x", "ipc": 50, "objective": "dm", "imported": {"by": "another"}}
    space = (torch.tensor([0.5]), torch.tensor([0.25])) if says == "mean and std" else (None, None)
    theirs = tmp_path / "theirs.safetensors"
    synthetic.save(theirs, synthetic.SyntheticSet(images, labels, *space, header=stored))
    made = imported(theirs, *digits_words, "--by", "them", out=tmp_path / "x.safetensors")
    assert {key: made.header.get(key) for key in facts} == facts
    assert (made.header["dataset"], made.header["ipc"]) == ("digits", 1)
    assert made.header["objective"] == "dm" and made.header["imported"]["by"] == "them"
    assert made.header["imported"]["form"] == "set"
    moved = fit(made, digits)
    assert moved.data == OTHER and moved.synthetic.labels.tolist() == list(range(9, -1, -1))
    made = imported(theirs, *digits_words, "--iterations", "8", out=tmp_path / "x.safetensors")
    assert made.header["iteration"] == 8


@pytest.mark.parametrize("says", ["mean and std", "whitening", "nothing"])
@pytest.mark.parametrize("kind", ["targets", "steps"])
def test_what_networks_should_learn_is_kept(tmp_path, digits_words, says, kind, capsys):
    """Targets of a regression are no logits; the steps of DD stay beside the images."""
    images, labels = a_set()
    header, schedule = ({"whitening": "zca"} if says == "whitening" else {}), None
    if kind == "targets":
        header["labels"], labels = "targets", torch.eye(10) - 0.1
    else:
        schedule = synthetic.Schedule(torch.tensor([0.5, 0.25]), torch.arange(10) % 2)
    space = (torch.tensor([0.5]), torch.tensor([0.25])) if says == "mean and std" else (None, None)
    theirs = tmp_path / "theirs.safetensors"
    synthetic.save(
        theirs, synthetic.SyntheticSet(images, labels, *space, header=header, schedule=schedule)
    )
    made = imported(theirs, *digits_words, out=tmp_path / "x.safetensors")
    said = capsys.readouterr().out
    assert torch.equal(made.labels, labels) and made.regresses == (kind == "targets")
    if kind == "targets":
        assert "labels are targets of a regression" in said and "--protocol regression" in said
    else:
        assert torch.equal(made.schedule.rates, schedule.rates)
        assert torch.equal(made.schedule.batches, schedule.batches)
        assert "--protocol steps" in said


@pytest.mark.parametrize(
    ("says", "units", "message"),
    [
        ({"whitening": "zca"}, "whitened", ""),
        ({"whitening": "zca"}, "normalised", "leave --units out (they are whitened, not normal"),
        ({"whitening": "none"}, "whitened", "it says that its images are not whitened"),
        ({}, "whitened", ""),
    ],
)
def test_units_that_a_safetensors_file_contradicts(
    tmp_path, digits_words, capsys, says, units, message
):
    images, labels = a_set()
    theirs, out = tmp_path / "theirs.safetensors", tmp_path / "x.safetensors"
    synthetic.save(theirs, synthetic.SyntheticSet(images / 8, labels, header=says))
    words = [theirs, *digits_words, "--units", units]
    if message:
        assert message in refused(capsys, *words, "--out", out)
    else:
        made = imported(*words, out=out)
        assert made.whitening == "zca" and made.mean is None
        assert torch.equal(made.images, images / 8)


@pytest.mark.parametrize("says", ["mean and std", "whitening"])
def test_what_a_set_says_of_its_images_needs_no_mean_and_std(tmp_path, digits_words, says, capsys):
    space = (torch.tensor([0.5]), torch.tensor([0.25])) if says == "mean and std" else (None, None)
    header = {"whitening": "zca"} if says == "whitening" else {}
    path, out = tmp_path / "theirs.safetensors", tmp_path / "x.safetensors"
    synthetic.save(path, synthetic.SyntheticSet(*a_set(), *space, header=header))
    said = refused(capsys, path, *digits_words, "--normalise-as", "mnist", "--out", out)
    assert "it says what its images are; leave --normalise-as out" in said


@pytest.mark.parametrize("names", [("image", "label"), ("images", "labels")])
def test_targets_of_frepo(tmp_path, digits_words, digits, names, capsys):
    """Channels last, one-hot minus 1/K, of which no softmax is taken; nor on the way back."""
    images, labels = a_set()
    targets = torch.eye(10)[labels] - 0.1
    stored = {names[0]: images.movedim(1, -1).numpy(), names[1]: targets.numpy()}
    path, out = archive_of(tmp_path / "step000100.npz", **stored), tmp_path / "x.safetensors"
    words = [*digits_words, "--objective", "frepo"]
    made = imported(path, *words, out=out)
    assert torch.equal(made.labels, targets) and torch.equal(made.images, images)
    assert made.regresses and made.header["objective"] == "frepo"
    assert "--protocol regression" in capsys.readouterr().out
    assert main(["export", str(out), "--out", str(tmp_path / "x.pt")]) == 0
    again = imported(tmp_path / "x.pt", *words, out=tmp_path / "y.safetensors")
    assert torch.equal(again.labels, targets) and again.regresses
    made = imported(path, *digits_words, out=out)  # whose they are is not said
    assert torch.allclose(made.labels, targets.softmax(1)) and not made.regresses
    assert "targets of a regression are kept if --objective" in capsys.readouterr().out


def test_bytes_that_were_changed(tmp_path, digits_words, capsys):
    """The sums of the archive are looked at, which torch does not do."""
    path = dc_form(tmp_path / "a.pt", a_set())
    content, values = path.read_bytes(), a_set()[0].numpy().tobytes()
    changed = bytearray(values)
    changed[100] ^= 1
    assert content.count(values) == 1
    path.write_bytes(content.replace(values, bytes(changed)))
    said = refused(capsys, path, *digits_words, "--out", tmp_path / "x.safetensors")
    assert "a.pt: is broken: its part 'a/data/0' has another CRC-32 than was written" in said


def test_every_pair_of_a_folder(tmp_path, digits_words, capsys):
    """Labels and rates that belong to a set are no sets that were left out."""
    root, out = tmp_path / "mtt.run", tmp_path / "out"
    root.mkdir()
    for number, name in enumerate(("0", "500", "best")):
        for part, tensor in zip(("images", "labels"), a_set(number), strict=True):
            torch.save(tensor, root / f"{part}_{name}.pt")
    torch.save(torch.tensor(0.01), root / "lr_500.pt")
    words = ["import", str(root), *map(str, digits_words), "--entry", "all", "--out", str(out)]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "skipped" not in said and "import: 3 sets in" in said
    for number, name in enumerate(("0", "500", "best")):
        made = synthetic.load(out / f"mtt.run-{name}.safetensors")
        assert torch.equal(made.images, a_set(number)[0])


def test_each_entry_that_is_skipped_is_named(tmp_path, digits_words, capsys):
    path = dc_form(
        tmp_path / "a.pt", a_set(), (a_set()[0], a_set()[1] + 1), (a_set()[0] * 0, a_set()[1] + 2)
    )
    words = ["import", str(path), *map(str, digits_words), "--entry", "all"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    for entry, low in (("1", 1), ("2", 2)):
        fault = f"skipped: {path}, entry {entry}: its labels span {low} to"
        assert said.count(fault) == 1


def test_a_folder_of_sets(tmp_path, digits_words, capsys):
    root, out = tmp_path / "root", tmp_path / "out"
    (root / "mtt/run").mkdir(parents=True)
    dc_form(root / "a.pt", a_set(1))
    dc_form(root / "colour.pt", a_set(2, shape=(3, 8, 8)))
    (root / "notes.txt").write_text("hello")
    (root / "cut.pt").write_bytes((root / "a.pt").read_bytes()[:900])
    torch.save(Evil(tmp_path / "ran"), root / "evil.pt")
    torch.save(a_set(3)[0], root / "mtt/run/images_best.pt")
    torch.save(a_set(3)[1], root / "mtt/run/labels_best.pt")
    pictures(root / "folders", np.zeros((10, 8, 8), np.uint8), range(10), "abcdefghij")
    words = ["import", str(root), *map(str, digits_words), "--out"]
    assert main([*words, str(out)]) == 0
    said = capsys.readouterr().out
    assert {path.stem for path in out.iterdir()} == {"a", "mtt-run", "folders"}
    assert torch.equal(synthetic.load(out / "mtt-run.safetensors").images, a_set(3)[0])
    assert "skipped: 1 files .txt, 3 sets" in said and "import: 3 sets in" in said
    refusals = ("cut.pt: is truncated or broken", "evil.pt: is refused: it asks for posix.system")
    for fault in (*refusals, "[10, 3, 8, 8], those of digits"):
        assert sum(fault in line and "skipped" in line for line in said.splitlines()) == 1, fault
    assert not (tmp_path / "ran").exists()
    assert main([*words, str(root / "inside")]) == 2
    assert "which is read; choose another place" in capsys.readouterr().err


def test_two_sets_of_one_name_do_not_overwrite_each_other(tmp_path, digits_words, capsys):
    """Files whose folders give the same name, a file beside a folder, and entries of a file."""
    root, out = tmp_path / "root", tmp_path / "out"
    (root / "a").mkdir(parents=True)
    dc_form(root / "a/b.pt", a_set(0))
    dc_form(root / "a-b.pt", a_set(1))
    dc_form(root / "e-0.pt", a_set(2))
    dc_form(root / "e.pt", a_set(3), a_set(4))
    pictures(root / "x", np.zeros((10, 8, 8), np.uint8), range(10), "abcdefghij")
    dc_form(root / "x.pt", a_set(5))
    words = ["import", str(root), *map(str, digits_words), "--entry", "all", "--out", str(out)]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert {path.stem for path in out.iterdir()} == {"a-b", "x", "e-0", "e-1"}
    for name, number in (("a-b", 0), ("e-0", 2), ("e-1", 4)):
        assert torch.equal(synthetic.load(out / f"{name}.safetensors").images, a_set(number)[0])
    assert synthetic.load(out / "x.safetensors").header["imported"]["form"] == "folders"
    for name, kept, left in (("a-b", "a/b.pt", "a-b.pt"), ("e-0", "e-0.pt", "e.pt"),
                             ("x", "x", "x.pt")):  # fmt: skip
        fault = f"{out / name}.safetensors is that of {root / kept}"
        assert f"skipped: {root / left}: {fault}; import it alone" in said
    assert "import: 4 sets in" in said and "skipped: 3 sets" in said


def test_the_command_that_is_named_evaluates_it(tmp_path, digits_words, digits_file, capsys):
    path = dc_form(tmp_path / "a.pt", a_set())
    out = tmp_path / "x.safetensors"
    imported(path, *digits_words, "--objective", "dm", "--by", "them", out=out)
    line = capsys.readouterr().out.splitlines()[-1]
    assert "recipe of dm: 1000 epochs" in line and str(digits_file) in line
    words = line.partition("python -m dd ")[2].partition(" (recipe")[0].split()
    words = [str(tmp_path / "r.csv") if word == "RESULTS.csv" else word for word in words]
    short = ["--epochs", "1", "--networks", "1", "--width-factor", "0.1", "--device", "cpu"]
    assert main([*words, *short]) == 0
    with open(tmp_path / "r.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["set_data"] == "unknown" and row["augment"].startswith("color_crop")
    assert read_header(out)["imported"]["by"] == "them"


# units


@pytest.mark.parametrize(
    ("values", "given", "taken", "said"),
    [
        ([0.0, 0.5, 1.0], "auto", "pixels", "as pixels in [0, 1]"),
        ([0.0, 128.0, 255.0], "auto", "bytes", "as pixels from 0 to 255"),
        ([-1.0, 0.5, 2.0], "auto", "normalised", "as normalised with the mean and std of x"),
        ([0.0, 0.5, 1.0], "normalised", "normalised", "are they pixels? (--units pixels)"),
        ([-1.0, 0.5, 90.0], "auto", "normalised", "a value is beyond 20"),
        ([-1.0, 0.5, 2.0], "whitened", "whitened", "distilled without ZCA? (--units normalised)"),
        ([-0.1, 0.5, 1.0], "pixels", "pixels", "33.3 % of the values are outside"),
        ([-0.001, 0.5, 1.001], "pixels", "pixels", "as pixels in [0, 1]"),
    ],
)
def test_units(values, given, taken, said):
    space = Space(torch.tensor([0.5]), torch.tensor([0.25]))
    images = torch.tensor(values).view(1, 1, 1, 3)
    found = in_space(images, given, space, "x")
    assert found.units == taken and any(said in note for note in found.notes)
    assert ("outside" in found.notes[-1]) == ("outside" in said)
    pixels = {"pixels": images, "bytes": images / 255}.get(taken)
    expected = images if pixels is None else (pixels - 0.5) / 0.25
    assert torch.allclose(found.images, expected)


def test_labels():
    hard = torch.tensor([0.0, 2.0])
    assert class_labels(hard, 3)[0].tolist() == [0, 2]
    assert class_labels(hard.view(2, 1).int(), 3)[0].tolist() == [0, 2]
    shares = torch.tensor([[0.5, 0.25, 0.25]])
    assert torch.equal(class_labels(shares, 3)[0], shares)


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        ({"mean": torch.zeros(3)}, "tensor 'mean' must be [1] float32, one per channel"),
        ({"std": torch.ones(1).double()}, "tensor 'std' must be [1] float32, one per channel"),
        ({"mean": torch.tensor([float("inf")])}, "'mean' and 'std' must be finite, 'std' above 0"),
        ({"std": torch.tensor([float("nan")])}, "'mean' and 'std' must be finite, 'std' above 0"),
        ({"std": torch.zeros(1)}, "'mean' and 'std' must be finite, 'std' above 0"),
    ],
)
def test_whoever_reads_mean_and_std_refuses_the_same(tmp_path, digits_file, spoiled, message):
    """Of a dataset, of a set, and of the dataset that sets are imported for."""
    path = tmp_path / "x.safetensors"
    tensors, header = load_tensors(digits_file, "dataset")
    save_tensors(path, "dataset", tensors | spoiled, header)
    for reader in (load_dataset, lambda path: target_of(path, None, None)):
        with pytest.raises(DDError, match=re.escape(message)):
            reader(path)
    images, labels = a_set()
    stored = {"images": images, "labels": labels, "mean": tensors["mean"], "std": tensors["std"]}
    save_file(stored | spoiled, path)
    with pytest.raises(DDError, match=re.escape(message)):
        synthetic.load(path)


@pytest.mark.parametrize(("off", "soft"), [(0.009, True), (0.011, False)])
def test_what_is_imported_as_probabilities_is_what_a_set_may_hold(tmp_path, off, soft):
    """Rows that sum to 1 ± 0.01; other labels are logits."""
    labels = torch.full((2, 4), 0.25)
    labels[1, 0] += off
    stored = {"images": torch.zeros(2, 1, 8, 8), "labels": labels}
    save_file(stored, tmp_path / "x.safetensors")
    made, (note,) = class_labels(labels, 4)
    assert torch.equal(made, labels) == soft and ("probabilities" in note) == soft
    if soft:
        synthetic.load(tmp_path / "x.safetensors")
    else:
        with pytest.raises(DDError, match="must be probabilities"):
            synthetic.load(tmp_path / "x.safetensors")


# what is refused


def claims(path, out, numbers):
    """The file at ``path`` whose first tensor claims other sizes."""
    text, ten = described(path), b"K\nK\x01K\x08K\x08t"
    assert text.count(ten) >= 1
    size = b"".join(b"J" + struct.pack("<i", number) for number in numbers)
    return repacked(path, out, data=text.replace(ten, size + b"t", 1))


FAULTS = {
    "no file": (lambda p: p / "no.pt", "no.pt: no such file"),
    "another kind of file": (lambda p: text(p / "x.txt"), "end in .pt, .pth, .npz, .safetensors"),
    "text": (lambda p: text(p / "x.pt"), "x.pt: is no file of torch.save"),
    "empty": (lambda p: text(p / "x.pt", ""), "x.pt: is no file of torch.save"),
    "code": (lambda p: saved(p, Evil(p / "ran")), "is refused: it asks for posix.system"),
    "code in an entry": (
        lambda p: saved(p, {"data": [[a_set()[0], Evil(p / "ran")]]}),
        "is refused: it asks for posix.system",
    ),
    "a plain pickle": (
        lambda p: pickled(p / "x.pt", Evil(p / "ran"), 2),
        "x.pt: is refused: it asks for posix.system, which could run code",
    ),
    "a plain pickle of today": (
        lambda p: pickled(p / "x.pt", Evil(p / "ran"), 4),
        "x.pt: is refused: Unsupported operand 149; a set needs tensors, lists, text and numbers",
    ),
    "code in an old container": (
        lambda p: saved(p, Evil(p / "ran"), _use_new_zipfile_serialization=False),
        "x.pt: is refused: it asks for posix.system, which could run code",
    ),
    "a module": (lambda p: saved(p, torch.nn.Linear(2, 2)), "is refused: it asks for torch.nn"),
    "an array": (lambda p: saved(p, {"data": [[np.zeros(3), 1]]}), "is refused: it asks for numpy"),
    "a number": (lambda p: saved(p, 3), "holds a int; expected {'data'"),
    "no entries": (lambda p: saved(p, {"data": []}), "its 'data' has no entry"),
    "no pair": (lambda p: saved(p, {"data": [a_set()[0]]}), "entry 0 is a Tensor, it must be a p"),
    "three in a pair": (
        lambda p: saved(p, {"data": [[*a_set(), 1]]}),
        "entry 0 is a list of 3, it must be a pair",
    ),
    "text for images": (
        lambda p: saved(p, {"data": [["images", a_set()[1]]]}),
        "images of entry 0 must be a tensor, found str",
    ),
    "no labels": (lambda p: saved(p, {"images": a_set()[0]}), "has no 'labels' (it holds images)"),
    "NaN": (lambda p: dc_form(p / "x.pt", with_nan()), "its images hold NaN or infinite values"),
    "label too high": (
        lambda p: dc_form(p / "x.pt", (a_set()[0], a_set()[1] + 1)),
        "its labels span 1 to 10, there are classes 0 to 9",
    ),
    "half a label": (
        lambda p: dc_form(p / "x.pt", (a_set()[0], a_set()[1] + 0.5)),
        "its labels [M] are no whole numbers",
    ),
    "soft labels of others": (
        lambda p: dc_form(p / "x.pt", (a_set()[0], torch.ones(10, 7))),
        "its labels are for 7 classes, there are 10",
    ),
    "labels too few": (
        lambda p: dc_form(p / "x.pt", (a_set()[0], a_set()[1][:9])),
        "it has 10 images and 9 labels",
    ),
    "another size": (
        lambda p: dc_form(p / "x.pt", a_set(shape=(1, 9, 9))),
        "its images are [10, 1, 9, 9], those of digits are [M, 1, 8, 8]",
    ),
    "complex": (
        lambda p: dc_form(p / "x.pt", (a_set()[0].to(torch.complex64), a_set()[1])),
        "is no ordinary tensor of numbers (torch.complex64)",
    ),
    "sparse": (
        lambda p: dc_form(p / "x.pt", (a_set()[0].to_sparse(), a_set()[1])),
        "is no ordinary tensor of numbers (it is sparse, torch.sparse_coo)",
    ),
    "a view that is larger than what is stored": (
        lambda p: dc_form(p / "x.pt", (torch.zeros(1, 1, 8, 8).expand(10**9, 1, 8, 8), a_set()[1])),
        "claims 64000000000 values of torch.float32, but 256 bytes are stored",
    ),
    "huge sizes": (
        lambda p: claims(dc_form(p / "a.pt", a_set()), p / "x.pt", (10**9, 1, 8, 8)),
        "x.pt: is broken, or no file of torch.save (RuntimeError: ",
    ),
    "cut": (
        lambda p: cut(dc_form(p / "x.pt", a_set())),
        "x.pt: is truncated or broken (File is not a zip file)",
    ),
    "compressed": (
        lambda p: repacked(dc_form(p / "a.pt", a_set()), p / "x.pt", zipfile.ZIP_DEFLATED),
        "x.pt: its part 'a/data.pkl' is compressed; torch.save writes no such file",
    ),
    "of the device meta": (
        lambda p: dc_form(p / "x.pt", (a_set()[0].to("meta"), a_set()[1])),
        "is no ordinary tensor of numbers (its values are not stored, it is of the device meta)",
    ),
    "no images": (
        lambda p: dc_form(p / "x.pt", (a_set()[0][:0], a_set()[1][:0])),
        "x.pt: it has no images ([0, 1, 8, 8])",
    ),
    "no label": (
        lambda p: dc_form(p / "x.pt", (a_set()[0], a_set()[1][:0])),
        "x.pt: it has no labels ([0])",
    ),
    "images beyond float32": (
        lambda p: dc_form(p / "x.pt", (a_set()[0].double().sign() * 1e300, a_set()[1])),
        "its images hold values beyond those of float32, up to 1e+300",
    ),
    "lists for images": (
        lambda p: saved(p, [a_set()[0].tolist(), a_set()[1]]),
        "x.pt: images must be a tensor, found list",
    ),
    "another size in an old container": (
        lambda p: lengthened(dc_form(p / "x.pt", a_set(), _use_new_zipfile_serialization=False)),
        "no file of torch.save (it claims other sizes of tensors than it holds)",
    ),
    "code in the header of an array": (
        lambda p: with_code(archive_of(p / "a.npz", x=np.zeros((4, 8, 8)), y=np.arange(4)), p),
        "x.npz: 'x.npy' does not start as an array of NumPy does",
    ),
    "unknown entry": (lambda p: dc_form(p / "x.pt", a_set(), a_set()), "unknown entry '7'"),
    "rate": (
        lambda p: saved(p, {"images": a_set()[0], "labels": a_set()[1], "lr": float("nan")}),
        "its learning rate must be one number above 0",
    ),
    "objects in arrays": (
        lambda p: archive_of(p / "x.npz", x=np.array([{}, None]), y=np.arange(2)),
        "'x.npy' is of object, it must be numbers",
    ),
    "wider numbers than torch has": (
        lambda p: archive_of(p / "x.npz", x=a_set()[0].numpy().astype(np.longdouble),
                             y=np.arange(10)),
        f"'x.npy' is of {np.dtype(np.longdouble)}, which torch does not have",
    ),
    "bits for labels": (
        lambda p: dc_form(p / "x.pt", (a_set()[0], a_set()[1].to(torch.uint8).view(torch.bits8))),
        "labels of entry 0 is no ordinary tensor of numbers (torch.bits8)",
    ),
    "soft labels beyond float32": (
        lambda p: dc_form(p / "x.pt", (a_set()[0], torch.eye(10, dtype=torch.float64) * 1e300)),
        "its labels hold values beyond those of float32, up to 1e+300",
    ),
    "labels beyond 63 bits": (
        lambda p: archive_of(p / "x.npz", x=a_set()[0], y=np.full(10, 2**64 - 1, np.uint64)),
        "its labels span 1.84467e+19 to 1.84467e+19, there are classes 0 to 9",
    ),
    "arrays of other names": (
        lambda p: archive_of(p / "x.npz", a=np.zeros(3)),
        "x.npz: has no 'images' (it holds a)",
    ),
    "an array that claims more": (
        lambda p: shortened(archive_of(p / "a.npz", x=np.zeros((4, 8, 8)), y=np.arange(4)), p),
        "'x.npy' claims 4000000000000 bytes",
    ),
    "no archive": (lambda p: text(p / "x.npz"), "x.npz: is broken, or no .npz file"),
    "an empty folder": (lambda p: p, "no set could be imported (it is empty)"),
    "a folder of one class": (
        lambda p: pictures(p / "x", np.zeros((1, 8, 8), np.uint8), [0], ["a"]),
        "in/x: it has folders for 1 classes, digits has 10",
    ),
}  # fmt: skip


def text(path, words="hello"):
    path.write_text(words)
    return path


def saved(folder, value, **more):
    torch.save(value, folder / "x.pt", **more)
    return folder / "x.pt"


def with_nan():
    images, labels = a_set()
    images[3, 0, 2, 2] = float("nan")
    return images, labels


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])
    return path


def shortened(path, folder):
    """An array whose header claims far more images than are there."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(folder / "x.npz", "w") as new:
        for member in old.infolist():
            data = old.read(member)
            data = data.replace(b"(4, 8, 8), }           ", b"(5000000000, 10, 10), }")
            new.writestr(member.filename, data)
    return folder / "x.npz"


def lengthened(path):
    """A file of the old container in which a tensor of 640 values claims more than there can be."""
    content, count = path.read_bytes(), b"M\x80\x02"
    assert content.count(count) == 1
    path.write_bytes(content.replace(count, b"\x8a\x09" + (10**6).to_bytes(9, "little")))
    return path


def with_code(path, folder):
    """An array whose header calls a function."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(folder / "x.npz", "w") as new:
        for member in old.infolist():
            data = old.read(member).replace(b"(4, 8, 8)", b"(exit(),)")
            new.writestr(member.filename, data)
    return folder / "x.npz"


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(fault, tmp_path, digits_words, capsys):
    make, message = FAULTS[fault]
    (tmp_path / "in").mkdir()
    path, out = make(tmp_path / "in"), tmp_path / "out.safetensors"
    words = ["--entry", "7"] if fault == "unknown entry" else []
    if fault == "an empty folder":
        out = tmp_path / "out"
    said = refused(capsys, path, *digits_words, *words, "--out", out)
    assert message in said, said
    assert not out.exists() and not (tmp_path / "in/ran").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give --dataset NAME or --data FILE"),
        (["--dataset", "mnist", "--data", "x"], "x: no such file"),
        (["--dataset", "cifar"], "did you mean 'cifar"),
        (["--dataset", "digits"], "the field has no mean and std for digits"),
        (["--dataset", "mnist", "--normalise-as", "cifar10"], "is for 3 channels, mnist has 1"),
        (["--dataset", "mnist", "--normalise-as", "data"], "of a prepared dataset; give --data FI"),
        (
            ["--dataset", "mnist", "--normalise-as", "mnist", "--units", "whitened"],
            "--normalise-as: whitened images have no mean and std; leave it out",
        ),
        (["--dataset", "mnist", "--out", "a\0b.safetensors"], "is no name that a file can have"),
        (["--dataset", "mnist", "--objective", "dcc"], "unknown objective 'dcc'"),
        (["--dataset", "mnist", "--lr", "0"], "--lr is 0.0, it must be a number above 0"),
        (["--dataset", "mnist", "--lr", "nan"], "--lr is nan"),
        (["--dataset", "mnist", "--iterations", "-1"], "--iterations is -1"),
        (["--dataset", "mnist", "--ipc", "0"], "--ipc is 0, it must be at least 1"),
        (["--dataset", "mnist", "--ipc", "10"], "a.pt: holds 1 images a class, not ipc 10 (--ipc"),
        (["--dataset", "mnist", "--units", "pixel"], "--units"),
        (["--dataset", "mnist", "--units", "bytes", "--out", "x.csv"], "must end in .safetensors"),
        (["--dataset", "mnist", "--entry", "all"], "must be a folder, for a file of each set"),
    ],
)
def test_options(words, message, tmp_path, capsys):
    pairs = [a_set(shape=(1, 28, 28))] * (2 if "all" in words else 1)
    path = dc_form(tmp_path / "a.pt", *pairs)
    out = [] if "--out" in words else ["--out", str(tmp_path / "out.safetensors")]
    assert message in refused(capsys, path, *words, *out)


@pytest.mark.parametrize(
    ("labels", "ipc", "message"),
    [
        ([0, 0, 1, 1], 2, ""),
        ([0, 1, 0, 1], 2, ""),
        ([0, 0, 1, 1], 1, "holds 2 images a class, not ipc 1 ("),
        ([0, 1, 1, 1], 2, "holds 1 to 3 images a class, not ipc 2 ("),
        ([0, 0, 0, 0], 2, "holds 0 to 4 images a class, not ipc 2 ("),
    ],
)
@pytest.mark.parametrize("soft", [False, True])
def test_the_ipc_of_a_set(labels, ipc, message, soft, tmp_path):
    """Of learned labels the largest value may be at another class: there only the sum counts."""
    labels = torch.eye(2)[labels] if soft else torch.tensor(labels)
    images = torch.randn(4, 1, 8, 8)
    path = tmp_path / "set.safetensors"
    made = synthetic.SyntheticSet(images, labels, None, None, None, {})
    each = synthetic.hard_labels(labels).bincount(minlength=2).tolist()
    if soft:
        message = "holds 4 images, not ipc 1, 2 images (" if ipc == 1 else ""
    if not message:
        import_._check_ipc(path, made, each, ipc)
        return
    with pytest.raises(DDError) as error:
        import_._check_ipc(path, made, each, ipc)
    assert message in str(error.value)
