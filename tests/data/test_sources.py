"""Sources with a split of their own: digits, MNIST, CIFAR and SVHN, as their files say."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct

import numpy as np
import pytest
import torch

from dd.data.sources import SOURCES, SourceOptions
from dd.errors import DDError
from tests.support.pictures import random_pixels


def test_digits_is_complete_stratified_and_fixed():
    from sklearn.datasets import load_digits

    raw = SOURCES["digits"](SourceOptions())
    bunch = load_digits()
    assert raw.train_images.shape == (1438, 1, 8, 8)
    assert raw.test_images.shape == (359, 1, 8, 8)
    ours = torch.cat([raw.train_images, raw.test_images]).flatten(1).tolist()
    labels = torch.cat([raw.train_labels, raw.test_labels]).tolist()
    theirs = np.floor(bunch.images * 255 / 16 + 0.5).astype(int).reshape(-1, 64).tolist()
    pairs = zip(theirs, bunch.target.tolist(), strict=True)
    assert sorted(zip(ours, labels, strict=True)) == sorted(pairs)
    for label in range(10):
        whole = int((bunch.target == label).sum())
        assert abs(int((raw.test_labels == label).sum()) - whole / 5) <= 0.5
    # known bytes: the split must be the same on every machine and in every version
    digest = hashlib.sha256(raw.test_images.numpy().tobytes()).hexdigest()
    assert digest.startswith("a30307ac1ffbd179")


def write_mnist(root, images, labels):
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, name in enumerate(("train", "t10k")):
        header = struct.pack(">4i", 0x803, *images[part].shape)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(header + images[part].tobytes())
        header = struct.pack(">2i", 0x801, len(labels[part]))
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(header + labels[part].tobytes())


def test_mnist_from_an_existing_folder(tmp_path):
    images = [random_pixels(12, 28, 28), random_pixels(5, 28, 28, seed=1)]
    labels = [np.arange(12, dtype=np.uint8) % 10, np.arange(5, dtype=np.uint8)]
    write_mnist(tmp_path, images, labels)
    raw = SOURCES["mnist"](SourceOptions(root=tmp_path, download=False))
    assert np.array_equal(raw.train_images.numpy(), images[0][:, None])
    assert np.array_equal(raw.test_images.numpy(), images[1][:, None])
    assert raw.train_labels.tolist() == labels[0].tolist()
    assert raw.train_labels.dtype == torch.int64
    assert len(raw.classes) == 10


def test_cifar_and_its_checksums(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    images = random_pixels(6, 3, 32, 32)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()

    def write(name, document):
        data = pickle.dumps(document)
        (folder / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    def batch(part, labels):
        return {"data": images[part].reshape(-1, 3072), "labels": labels}

    train = write("data_batch_1", batch(slice(0, 4), [3, 1, 0, 2]))
    test = write("test_batch", batch(slice(4, 6), [1, 0]))
    meta = write("batches.meta", {"label_names": ["a", "b", "c", "d"]})
    options = SourceOptions(root=tmp_path, download=False)
    # files that are not the original ones are refused before they are unpickled
    with pytest.raises(DDError, match=r"cifar10 is not complete.*cifar-10-batches-py"):
        SOURCES["cifar10"](options)
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", train]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", test]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": meta})
    raw = SOURCES["cifar10"](options)
    assert np.array_equal(raw.train_images.numpy(), images[:4])
    assert np.array_equal(raw.test_images.numpy(), images[4:])
    assert (raw.train_labels.tolist(), raw.test_labels.tolist()) == ([3, 1, 0, 2], [1, 0])
    assert raw.classes == ["a", "b", "c", "d"]


def test_svhn_layout(tmp_path, monkeypatch):
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    images = random_pixels(32, 32, 3, 4)  # SVHN's files: [H, W, C, N], the digit 0 labelled 10
    listed = {}
    for part in ("train", "test"):
        file = tmp_path / f"{part}_32x32.mat"
        savemat(file, {"X": images, "y": np.array([[1], [10], [9], [2]], dtype=np.uint8)})
        listed[part] = ["", file.name, hashlib.md5(file.read_bytes()).hexdigest()]
    monkeypatch.setattr(SVHN, "split_list", listed)
    raw = SOURCES["svhn"](SourceOptions(root=tmp_path, download=False))
    assert np.array_equal(raw.train_images.numpy(), images.transpose(3, 2, 0, 1))
    assert raw.train_labels.tolist() == [1, 0, 9, 2]
    assert raw.classes == [str(digit) for digit in range(10)]


def test_failed_download_is_one_line(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    def offline(self):
        raise OSError("no route\nto host")

    monkeypatch.setattr(CIFAR10, "download", offline)
    with pytest.raises(DDError, match=r"downloaded \(no route to host\).*image-folder") as caught:
        SOURCES["cifar10"](SourceOptions(root=tmp_path))
    assert "\n" not in str(caught.value)


def test_an_archive_of_cifar_that_was_packed_again_is_named(tmp_path):
    archive = tmp_path / "a b" / "cifar-10-python.tar.gz"
    archive.parent.mkdir()
    archive.write_bytes(gzip.compress(b"something"))
    with pytest.raises(DDError) as error:
        SOURCES["cifar10"](SourceOptions(root=archive.parent, download=False))
    assert f"tar -xzf '{archive}' -C '{archive.parent}'" in str(error.value)


def test_archives_that_were_packed_again_are_named(tmp_path):
    """Debian packs the files of Fashion-MNIST again: other bytes, perhaps the same content."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"something"))
    with pytest.raises(DDError) as error:
        SOURCES["fashion_mnist"](SourceOptions(root=tmp_path, download=False))
    said = str(error.value)
    assert "t10k-labels-idx1-ubyte.gz is not the original archive" in said
    assert f"gunzip -k {raw}/*.gz" in said
