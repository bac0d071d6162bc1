"""The dataset on the device: units, samples by class, whitening, files that are none."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from benchmarks.every_stage import small_raw
from dd.artifacts.headers import read_header
from dd.artifacts.tensors import load_tensors, save_tensors
from dd.data import zca
from dd.data.dataset import fingerprint, load_dataset
from dd.data.prepare import prepare
from dd.errors import DDError
from dd.rng import generator
from tests.support.pictures import cli
from tests.support.whitening import numpy_zca


def test_take_normalises(dataset_file):
    data = load_dataset(dataset_file)
    raw = small_raw()
    pixels = raw.train_images.double() / 255
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3), correction=0)
    expected = ((pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)).float()
    indices = torch.tensor([3, 0, 39, 3])
    taken = data.train.take(indices)
    assert taken.dtype == torch.float32
    torch.testing.assert_close(taken, expected[indices], rtol=1e-5, atol=1e-5)
    assert torch.equal(data.train.images, raw.train_images)  # taking must not write back
    assert (len(data.train), len(data.test)) == (40, 12)
    assert (data.channels, data.size, data.classes) == (3, (4, 4), list("abcd"))
    assert data.whitening == "none"


def test_by_class_and_sample(dataset_file):
    split = load_dataset(dataset_file).train
    for label in range(4):
        assert split.by_class[label].tolist() == [
            n for n, value in enumerate(split.labels.tolist()) if value == label
        ]
    drawn = split.sample(2, 6, generator(0)).tolist()
    assert len(set(drawn)) == 6
    assert set(drawn) <= set(split.by_class[2].tolist())
    assert drawn == split.sample(2, 6, generator(0)).tolist()
    assert drawn != split.sample(2, 6, generator(1)).tolist()
    everything = split.sample(2, 1000, generator(0)).tolist()
    assert sorted(everything) == split.by_class[2].tolist() != everything


@pytest.fixture
def whitened_file(tmp_path):
    """The dataset of ``dataset_file`` with a whitening."""
    path = tmp_path / "white.safetensors"
    tensors = prepare(small_raw(), 0.1)
    header = {"classes": list("abcd"), "fingerprint": fingerprint(tensors, list("abcd"))}
    save_tensors(path, "dataset", tensors, header)
    return path


@pytest.mark.parametrize("whitening", ["none", "zca"])
def test_pixels_and_normalised_units_are_inverse(whitening, whitened_file):
    data = load_dataset(whitened_file, whitening=whitening)
    assert data.whitening == whitening
    pixels = small_raw().train_images / 255
    normalised = (pixels - data.space.mean.view(3, 1, 1)) / data.space.std.view(3, 1, 1)
    taken = data.train.take(torch.arange(40))
    # whitening must have changed what is then changed back
    assert torch.allclose(taken, normalised, atol=1e-4) is (whitening == "none")
    torch.testing.assert_close(data.to_pixels(taken), pixels, rtol=1e-4, atol=1e-4)
    bright = data.to_pixels(100 * taken)
    assert (bright.min(), bright.max()) == (0, 1)


def test_whitened_dataset_equals_numpy(tmp_path, capsys, digits):
    path = tmp_path / "digits.safetensors"
    status, said, _ = cli(capsys, "--source", "digits", "--zca", "--zca-eps", 0.3, "--out", path)
    assert (status, "ZCA" in said) == (0, True)
    assert read_header(path)["zca"] == {"eps": 0.3, "of": "pixels in 0 to 1"}
    assert read_header(path)["fingerprint"] == digits.fingerprint
    data = load_dataset(path, whitening="zca")
    tensors = load_tensors(path, "dataset")[0]
    train = tensors["train_images"].numpy() / 255
    mean, matrix = numpy_zca(train, 0.3)
    for part, split in (("train", data.train), ("test", data.test)):
        pixels = tensors[f"{part}_images"].numpy() / 255
        expected = (pixels.reshape(-1, 64) - mean) @ matrix
        ours = split.take(slice(None)).flatten(1).numpy()
        np.testing.assert_allclose(ours, expected, atol=1e-4)
        resident = split.resident()
        np.testing.assert_allclose(resident.images.flatten(1).numpy(), expected, atol=1e-4)
        some = torch.tensor([5, 0, 5])
        assert torch.equal(resident.take(some), resident.images[some])
        assert resident.resident() is resident


def test_whitening_is_lazy(whitened_file, monkeypatch):
    """Loading whitens nothing, taking whitens what is taken, in parts."""
    seen = []
    whiten = zca.whiten
    monkeypatch.setattr(zca, "whiten", lambda *args: seen.append(len(args[0])) or whiten(*args))
    monkeypatch.setattr("dd.data.space._CHUNK", 16)
    split = load_dataset(whitened_file, whitening="zca").train
    assert (seen, split.images.dtype) == ([], torch.uint8)
    few = split.take(torch.tensor([39, 1, 1]))
    assert seen == [3]
    resident = split.resident()
    assert seen == [3, 16, 16, 8]
    torch.testing.assert_close(few, resident.images[[39, 1, 1]])
    assert torch.equal(split.images, small_raw().train_images)  # taking must not write back
    plain = load_dataset(whitened_file).train
    assert plain.resident() is plain
    assert len(seen) == 4


def test_reader_chooses_the_whitening(dataset_file, whitened_file, tmp_path):
    """A file with a whitening and one without are the same dataset until it is asked for."""
    plain, unused = load_dataset(dataset_file), load_dataset(whitened_file)
    assert unused.space.zca_mean is None and unused.space.zca_matrix is None
    every = slice(None)
    assert torch.equal(plain.train.take(every), unused.train.take(every))
    assert plain.fingerprint == unused.fingerprint == fingerprint(prepare(small_raw()), "abcd")
    used = load_dataset(whitened_file, whitening="zca").fingerprint
    assert re.fullmatch(f"{plain.fingerprint}-zca-pixels-[0-9a-f]{{8}}", used)
    other = tmp_path / "other.safetensors"
    save_tensors(other, "dataset", prepare(small_raw(), 0.2), {"classes": list("abcd")})
    assert load_dataset(other).fingerprint == plain.fingerprint
    assert load_dataset(other, whitening="zca").fingerprint not in (used, plain.fingerprint)
    with pytest.raises(DDError, match=r"small\.safetensors.*--zca"):
        load_dataset(dataset_file, whitening="zca")
    with pytest.raises(DDError, match="unknown whitening 'ZCA': known are none, zca"):
        load_dataset(whitened_file, whitening="ZCA")


def test_foreign_file_gets_sensible_names(tmp_path):
    path = tmp_path / "mine.safetensors"
    save_tensors(path, "dataset", prepare(small_raw()), {})
    data = load_dataset(path)
    assert (data.name, data.label, data.classes) == ("mine", "mine", ["0", "1", "2", "3"])
    assert data.fingerprint == fingerprint(prepare(small_raw()), data.classes)


SPOILED = {
    "train_images as float": ("train_images", lambda t: t.float()),
    "train_images flat": ("train_images", lambda t: t.flatten(1)),
    "test_images of another size": ("test_images", lambda t: t[:, :, 1:].clone()),
    "no test image": ("test_images", lambda t: t[:0].clone()),
    "two channels": ("train_images", lambda t: t[:, :2].clone()),
    "too few labels": ("train_labels", lambda t: t[1:].clone()),
    "int32 labels": ("test_labels", lambda t: t.int()),
    "label too high": ("test_labels", lambda t: t + 1),
    "negative label": ("train_labels", lambda t: t - 1),
    "class without images": ("train_labels", lambda t: t.clamp(max=2)),
    "mean of one channel": ("mean", lambda t: t[:1].clone()),
    "double std": ("std", lambda t: t.double()),
    "std 0": ("std", lambda t: t * 0),
    "NaN mean": ("mean", lambda t: t * float("nan")),
    "zca_mean too short": ("zca_mean", lambda t: t[1:].clone()),
    "zca_matrix not square": ("zca_matrix", lambda t: t[1:].clone()),
    "infinite zca_matrix": ("zca_matrix", lambda t: t / 0),
    "zca_mean missing": ("zca_mean", None),
    "std missing": ("std", None),
}


@pytest.mark.parametrize("case", SPOILED)
def test_bad_dataset_names_file_and_tensor(case, tmp_path):
    name, spoil = SPOILED[case]
    tensors = prepare(small_raw(), 0.1)
    if spoil is None:
        del tensors[name]
    else:
        tensors[name] = spoil(tensors[name])
    path = tmp_path / "bad.safetensors"
    save_tensors(path, "dataset", tensors, {"classes": list("abcd")})
    with pytest.raises(DDError, match=rf"bad\.safetensors.*'{name}'"):
        load_dataset(path, whitening="zca")
