"""Sources, preparation, ZCA and the dataset on the device."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import pickle
import re
import shutil
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from dd.__main__ import main
from dd.artifacts.headers import read_header
from dd.artifacts.tensors import load_tensors, save_tensors
from dd.data import decode, layouts, zca
from dd.data.dataset import fingerprint, load_dataset
from dd.data.prepare import channel_statistics, prepare
from dd.data.sources import SOURCES, RawDataset, SourceOptions
from dd.data.split import stratified_groups
from dd.errors import DDError
from dd.rng import generator


def random_pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def picture(path, mode="RGB", size=(6, 5), seed=0):
    """A random image file; returns its values, [H, W] or [H, W, bands]."""
    width, height = size
    bands = {"L": (), "LA": (2,), "RGB": (3,), "RGBA": (4,), "CMYK": (4,), "P": ()}[mode]
    values = random_pixels(height, width, *bands, seed=seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.frombytes(mode, size, values.tobytes())
    if mode == "P":
        image.putpalette(random_pixels(768, seed=1).tobytes())
    image.save(path)
    return values


@pytest.fixture
def folder(tmp_path):
    """Two classes, three training and two test images each, RGB PNG of 6x5 pixels."""
    root = tmp_path / "pictures"
    for split, count in (("train", 3), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            for k in range(count):
                picture(root / split / name / f"{k}.png", seed=10 * label + k)
    return root


@pytest.fixture
def dataset_file(tmp_path):
    """A small prepared dataset: 40 training and 12 test images of 4 classes, 3x4x4."""
    path = tmp_path / "small.safetensors"
    save_tensors(path, "dataset", prepare(small_raw()), {"name": "small", "classes": list("abcd")})
    return path


def small_raw(count=40, shape=(3, 4, 4)):
    images = torch.from_numpy(random_pixels(count + 12, *shape))
    labels = torch.arange(count + 12) * 7 % 4
    return RawDataset(
        "small",
        "Small",
        images[:count],
        labels[:count],
        images[count:],
        labels[count:],
        list("abcd"),
    )


def cli(capsys, *arguments):
    """Exit status, output and error of ``python -m dd prepare``."""
    status = main(["prepare", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


# Sources


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


# Image folders


def test_image_folder_values_order_and_names(tmp_path):
    root = tmp_path / "r"
    expected = {}
    for split in ("train", "test"):
        for name in ("zebra", "Ölfarbe", "two words", "猫"):
            for k in range(2):
                expected[split, name, k] = picture(
                    root / split / name / f"{k}.PNG", seed=len(expected)
                )
        (root / split / ".hidden").mkdir()
    (root / "train" / "zebra" / "notes.txt").write_text("no image")
    (root / "train" / "zebra" / ".hidden.png").write_text("no image")
    raw = SOURCES["image-folder"](SourceOptions(root=root))
    classes = raw.classes
    assert classes == sorted(["zebra", "Ölfarbe", "two words", "猫"])
    for split in ("train", "test"):
        images, labels = getattr(raw, f"{split}_images"), getattr(raw, f"{split}_labels")
        assert labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
        assert images.shape == (8, 3, 5, 6)
        for label, name in enumerate(classes):
            for k in range(2):
                values = expected[split, name, k].transpose(2, 0, 1)
                assert np.array_equal(images[2 * label + k], values)


def test_processes_read_the_same_as_one(folder, monkeypatch):
    paths = sorted(folder.rglob("*.png"))
    alone = decode.decode_all(paths)
    monkeypatch.setattr(decode, "_SERIAL", 0)
    monkeypatch.setattr(decode, "_CHUNK", 2)
    assert np.array_equal(decode.decode_all(paths, workers=2), alone)
    assert len(alone) == 10
    (folder / "test" / "dog" / "1.png").write_bytes(b"broken")
    with pytest.raises(DDError, match=r"1\.png"):
        decode.decode_all(paths, workers=2)


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "webp"])
def test_other_formats(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    Image.new("RGB", (8, 8), (200, 100, 50)).save(path)
    array = decode.decode(path)
    assert array.shape == (3, 8, 8)
    assert np.abs(array.astype(int) - np.array([200, 100, 50])[:, None, None]).max() <= 3


def test_modes(tmp_path):
    def read(mode, suffix="png"):
        path = tmp_path / f"{mode}.{suffix}"
        return picture(path, mode), decode.decode(path)

    values, array = read("L")
    assert np.array_equal(array, values[None])
    values, array = read("LA")
    assert np.array_equal(array, values[None, :, :, 0])
    values, array = read("RGBA")
    assert np.array_equal(array, values[:, :, :3].transpose(2, 0, 1))
    values, array = read("P")
    palette = random_pixels(768, seed=1).reshape(256, 3)
    assert np.array_equal(array, palette[values].transpose(2, 0, 1))
    _, array = read("CMYK", "jpg")
    assert array.shape == (3, 5, 6)
    deep = np.array([[0, 128, 129, 65535], [257, 385, 386, 32896]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    array = decode.decode(tmp_path / "deep.png")
    assert array.tolist() == [[[0, 0, 1, 255], [1, 1, 2, 128]]]


def test_channels_convert(tmp_path):
    grey, colour = tmp_path / "grey.png", tmp_path / "colour.png"
    values = picture(grey, "L")
    assert np.array_equal(decode.decode(grey, channels=3), np.stack([values] * 3))
    red, green, blue = picture(colour, "RGB").astype(float).transpose(2, 0, 1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R 601-2
    assert np.abs(decode.decode(colour, channels=1)[0] - luma).max() <= 1


def test_resize_crops_the_centre_and_antialiases(tmp_path):
    values = np.zeros((8, 16), dtype=np.uint8)
    values[:, 4:12] = 255 * (np.indices((8, 8)).sum(0) % 2)  # a chessboard between black bars
    path = tmp_path / "x.png"
    Image.fromarray(values).save(path)
    assert np.array_equal(decode.decode(path, resize=8)[0], values[:, 4:12])
    # no bar is seen, and one-pixel squares become grey where sampling would give 0 or 255
    small = decode.decode(path, resize=2)[0].astype(int)
    assert small.shape == (2, 2)
    assert np.abs(small - 127).max() <= 2


def test_tall_and_wide_become_one_size(tmp_path, capsys):
    for split in ("train", "test"):
        for label, size in enumerate(((9, 6), (6, 9), (4, 4))):
            picture(tmp_path / "in" / split / str(label) / "x.png", size=size, seed=label)
    out = tmp_path / "out.safetensors"
    arguments = ("--source", "image-folder", "--root", tmp_path / "in", "--out", out)
    assert cli(capsys, *arguments, "--resize", 5)[0] == 0
    assert load_dataset(out).size == (5, 5)


# Tiny ImageNet's folders


@pytest.fixture
def tiny(tmp_path):
    """Three classes in the original layout: three training and two val images each."""
    root = tmp_path / "tiny-imagenet-200"
    lines = []
    for label, wnid in enumerate(("n03", "n01", "n02")):
        for k in range(3):
            file = root / "train" / wnid / "images" / f"{wnid}_{k}.JPEG"
            picture(file, "L" if k == 1 else "RGB", seed=10 * label + k)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t5\t4\n")
        for k in range(2):
            picture(root / "val" / "images" / f"val_{label}{k}.JPEG", seed=100 + 10 * label + k)
            lines.append(f"val_{label}{k}.JPEG\t{wnid}\t0\t0\t5\t4\n")
    (root / "val" / "val_annotations.txt").write_text("".join(reversed(lines)))
    (root / "wnids.txt").write_text("n03\nn01\nn02\n")
    (root / "words.txt").write_text("n01\tcrane, bird\nn02\tpail\nn03\tcrane, machine\nn99\tx\n")
    picture(root / "test" / "images" / "test_0.JPEG")
    return root


def test_tiny_imagenet_layout(tiny):
    raw = SOURCES["tiny-imagenet"](SourceOptions(root=tiny))
    assert (raw.name, raw.label) == ("tiny-imagenet", "Tiny ImageNet")
    assert raw.classes == ["crane (n01)", "pail", "crane (n03)"]
    assert raw.train_labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert raw.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    names = [f"{wnid}/images/{wnid}_{k}.JPEG" for wnid in ("n01", "n02", "n03") for k in range(3)]
    files = [tiny / "train" / name for name in names]
    tests = [
        tiny / "val" / "images" / f"val_{n}.JPEG" for n in ("10", "11", "20", "21", "00", "01")
    ]
    for images, paths in ((raw.train_images, files), (raw.test_images, tests)):
        expected = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
        assert np.array_equal(images.numpy().transpose(0, 2, 3, 1), expected)


def test_tiny_imagenet_without_its_optional_files(tiny):
    (tiny / "wnids.txt").unlink()
    (tiny / "words.txt").unlink()
    raw = SOURCES["tiny-imagenet"](SourceOptions(root=tiny, channels=1, resize=4))
    assert raw.classes == ["n01", "n02", "n03"]
    assert raw.train_images.shape == (9, 1, 4, 4)


def no_val(root):
    (root / "val").rename(root / "validation")
    return "no folder 'val/images'"


def no_annotations(root):
    (root / "val" / "val_annotations.txt").unlink()
    return "val_annotations.txt: no such file"


def unlisted_image(root):
    picture(root / "val" / "images" / "val_77.JPEG")
    return "no line for image 'val_77.JPEG' (1 such)"


def unknown_wnid(root):
    append(root / "val" / "val_annotations.txt", "val_00.JPEG\tn04\t0\t0\t5\t4\n")
    return "line 7: 'n04' is no class"


def no_tab(root):
    append(root / "val" / "val_annotations.txt", "val_00.JPEG n03\n")
    return "line 7: '' is no class"


def annotated_twice(root):
    append(root / "val" / "val_annotations.txt", "val_00.JPEG\tn03\t0\t0\t5\t4\n")
    return "line 7: no image 'val_00.JPEG'"


def half_unpacked(root):
    shutil.rmtree(root / "train" / "n02")
    return "differ in 1 classes, the first is 'n02'"


def flat_class(root):
    for file in (root / "train" / "n01" / "images").iterdir():
        file.rename(root / "train" / "n01" / file.name)
    return "class 'n01' has no image"


def class_not_in_val(root):
    path = root / "val" / "val_annotations.txt"
    path.write_text(path.read_text().replace("n02", "n01"))
    return "class 'n02' has no image (.jpeg, .jpg, .png, .webp) in val"


TINY_FAULTS = [
    no_val,
    no_annotations,
    unlisted_image,
    unknown_wnid,
    no_tab,
    annotated_twice,
    half_unpacked,
    flat_class,
    class_not_in_val,
]


def append(path, text):
    path.write_text(path.read_text() + text)


@pytest.mark.parametrize("spoil", TINY_FAULTS)
def test_bad_tiny_imagenet_is_one_line(spoil, tiny, tmp_path, capsys):
    expected = spoil(tiny)
    refused(capsys, tmp_path, expected, "--source", "tiny-imagenet", "--root", tiny)


def refused(capsys, tmp_path, expected, *arguments):
    """``prepare`` says ``expected`` in one line and writes nothing."""
    out = tmp_path / "x.safetensors"
    status, _, error = cli(capsys, *arguments, "--out", out)
    assert status == 2
    assert expected in error
    assert error.count("\n") == 1
    assert not out.exists()


# Class folders, split here


@pytest.fixture
def patients(tmp_path):
    """Two classes of ten images, with masks beside one; ``groups.csv`` has two images a patient."""
    root = tmp_path / "radiographs"
    rows = ["file,group,age\n"]
    for label, (name, folder) in enumerate((("sick", "images"), ("healthy", "."))):
        for k in range(10):
            picture(root / name / folder / f"{name}-{k}.png", "L", seed=10 * label + k)
            relative = f"{name}-{k}.png" if k % 2 else f"sick/images/sick-{k}.png"
            relative = relative if label == 0 else f"healthy/healthy-{k}.png"
            rows.append(f"{relative},{name}{k // 2},{k}\n")
        picture(root / "sick" / "masks" / f"sick-{label}.png", "L")
    (root / "README.txt").write_text("no class")
    (tmp_path / "groups.csv").write_text("".join(rows))
    return root


def rows_of(images):
    return {image.numpy().tobytes() for image in images}


def test_class_folders_are_split_by_class(patients):
    options = SourceOptions(root=patients, test_share=0.3)
    raw = SOURCES["class-folders"](options)
    assert (raw.name, raw.classes) == ("radiographs", ["healthy", "sick"])
    assert raw.train_labels.tolist() == [0] * 7 + [1] * 7
    assert raw.test_labels.tolist() == [0] * 3 + [1] * 3
    everything = {
        np.asarray(Image.open(path)).tobytes()
        for path in patients.rglob("*.png")
        if path.parent.name != "masks"
    }
    train, test = rows_of(raw.train_images), rows_of(raw.test_images)
    assert len(train) == 14 and len(test) == 6 and train | test == everything
    again = SOURCES["class-folders"](options)
    assert torch.equal(again.test_images, raw.test_images)
    other = SOURCES["class-folders"](dataclasses.replace(options, split_seed=1))
    assert rows_of(other.test_images) != test


def test_groups_stay_together(patients, tmp_path):
    listing = layouts.class_folders(patients, 0.2, generator(3), tmp_path / "groups.csv")
    for files, count in ((listing.train, 8), (listing.test, 2)):
        assert [len(found) for found in files] == [count, count]
    for found in (*listing.train, *listing.test):
        numbers = [int(path.stem.split("-")[1]) for path in found]
        assert sorted({n // 2 * 2 + k for n in numbers for k in range(2)}) == numbers


def test_split_of_lone_images_is_rounded_and_random():
    classes = ["a", "b", "c"]
    labels = [0] * 10 + [1] * 13 + [2] * 2
    chosen = set()
    for seed in range(20):
        tested = stratified_groups(labels, range(25), classes, 0.2, generator(seed))
        # 10 * 0.2 = 2; 13 * 0.2 = 2.6, rounded 3; 2 * 0.2 = 0.4, rounded 0, but one is needed
        assert [
            sum(t for t, k in zip(tested, labels, strict=True) if k == c) for c in range(3)
        ] == [
            2,
            3,
            1,
        ]
        chosen |= {n for n, test in enumerate(tested) if test}
    assert chosen == set(range(25))


def test_split_keeps_something_to_train_on():
    for seed in range(10):
        tested = stratified_groups([0, 0, 1, 1], "abcd", ["a", "b"], 0.9, generator(seed))
        assert sorted(tested[:2]) == sorted(tested[2:]) == [False, True]


def test_split_of_groups_across_classes():
    """Groups of 1 to 6 images of up to three classes: near the share in every class."""
    draw = np.random.default_rng(0)
    groups = np.repeat(np.arange(300), draw.integers(1, 7, 300))
    labels = (groups + draw.integers(0, 2, len(groups))) % 3
    tested = np.array(
        stratified_groups(labels.tolist(), groups.tolist(), list("abc"), 0.25, generator(0))
    )
    assert not set(groups[tested]) & set(groups[~tested])
    for k in range(3):
        assert tested[labels == k].mean() == pytest.approx(0.25, abs=0.02)


def group_rows(change):
    """A fault of ``groups.csv``: ``change`` maps its rows to others."""

    def spoil(root):
        path = root.parent / "groups.csv"
        rows = [line.split(",") for line in path.read_text().splitlines()]
        path.write_text("\n".join(",".join(row) for row in change(rows)))

    return spoil


def twin(root):
    """Another image with the name of one that ``groups.csv`` names by its name alone."""
    picture(root / "healthy" / "sick-1.png", "L")
    append(root.parent / "groups.csv", "healthy/sick-1.png,healthy9,1\n")


GROUP_FAULTS = {
    "no column": (
        group_rows(lambda rows: [[w.replace("group", "patient") for w in row] for row in rows]),
        "no column 'group' (its columns are file, patient, age)",
    ),
    "no row": (group_rows(lambda rows: rows[:-1]), "'healthy/healthy-9.png' has no group (1 such)"),
    "no group": (
        group_rows(lambda rows: [*rows[:-1], [rows[-1][0], "", ""]]),
        "'healthy/healthy-9.png' has no group",
    ),
    "unknown file": (
        group_rows(lambda rows: [*rows, ["masks/sick-0.png", "sick0", "1"]]),
        "row 21: 'masks/sick-0.png' is no image of",
    ),
    "there twice": (
        group_rows(lambda rows: [*rows, ["healthy-9.png", "sick0", "1"]]),
        "row 21: 'healthy-9.png' is there twice",
    ),
    "ambiguous": (twin, "row 2: 2 images are called 'sick-1.png'; give the path relative to"),
    "one group a class": (
        group_rows(lambda rows: [rows[0], *([row[0], row[1][:4], ""] for row in rows[1:])]),
        "class 'healthy' cannot be in both splits: all its images are in the group 'heal'",
    ),
    "missing": (lambda root: (root.parent / "groups.csv").unlink(), "groups.csv: no such file"),
}


@pytest.mark.parametrize("case", GROUP_FAULTS)
def test_bad_groups_are_one_line(case, patients, tmp_path, capsys):
    spoil, expected = GROUP_FAULTS[case]
    spoil(patients)
    source = ("--source", "class-folders", "--root", patients)
    refused(capsys, tmp_path, expected, *source, "--groups", tmp_path / "groups.csv")


def single_image(root):
    picture(root / "rare" / "0.png", "L")
    return "class 'rare' cannot be in both splits: it has a single image"


def images_in_both(root):
    picture(root / "sick" / "0.png", "L")
    return "class 'sick' has images both directly in it and in 'images'"


def masks_only(root):
    (root / "sick" / "images").rename(root / "sick" / "pictures")
    return "class 'sick' has no image"


@pytest.mark.parametrize("spoil", [single_image, images_in_both, masks_only])
def test_bad_class_folders_are_one_line(spoil, patients, tmp_path, capsys):
    expected = spoil(patients)
    refused(capsys, tmp_path, expected, "--source", "class-folders", "--root", patients)


def test_split_that_groups_do_not_allow():
    """Three classes, each two of which share a group: two classes are served, none is left."""
    labels, groups = [0, 0, 1, 1, 2, 2], [1, 2, 1, 3, 2, 3]
    with pytest.raises(DDError, match="gets no test image: each of its groups"):
        stratified_groups(labels, groups, ["a", "b", "c"], 0.2, generator(0))


# Preparation


def test_prepare_writes_everything(folder, tmp_path, capsys):
    out = tmp_path / "deep" / "out.safetensors"
    status, said, _ = cli(capsys, "--source", "image-folder", "--root", folder, "--out", out)
    assert status == 0
    assert said.count("\n") == 1
    for part in (str(out), "6 training", "4 test", "2 classes", "3x5x6"):
        assert part in said
    tensors, header = load_tensors(out, "dataset")
    assert (header["name"], header["label"]) == ("pictures", "pictures")
    assert header["classes"] == ["cat", "dog"]
    assert header["source"] == "image-folder"
    assert header["zca"] is None
    assert header["normalisation"] == "data" and "its own mean and std" in said
    assert "command" in header["provenance"]
    assert header["fingerprint"] == fingerprint(tensors, ["cat", "dog"])
    assert len(header["fingerprint"]) == 16
    pixels = tensors["train_images"].numpy() / 255
    assert tensors["mean"].numpy() == pytest.approx(pixels.mean((0, 2, 3)), abs=1e-6)
    assert tensors["std"].numpy() == pytest.approx(pixels.std((0, 2, 3)), abs=1e-6)
    options = ("--name", "pets", "--label", "Cats and dogs")
    cli(capsys, "--source", "image-folder", "--root", folder, "--out", out, *options)
    assert (read_header(out)["name"], read_header(out)["label"]) == ("pets", "Cats and dogs")


def test_channel_statistics_are_exact():
    images = torch.full((5000, 2, 8, 8), 200, dtype=torch.uint8)
    images[0, 0, 0, 0] = 201  # a deviation that float32 sums lose
    images[:, 1, ::2] = 100
    mean, std = channel_statistics(images)
    share = 1 / 320000
    assert mean[0].item() == pytest.approx((200 + share) / 255, rel=1e-15)
    assert std[0].item() == pytest.approx((share * (1 - share)) ** 0.5 / 255, rel=1e-12)
    assert mean[1].item() == pytest.approx(150 / 255, rel=1e-15)
    assert std[1].item() == pytest.approx(50 / 255, rel=1e-15)


def test_fingerprint_sees_every_change():
    tensors = prepare(small_raw())
    seen = {fingerprint(tensors, list("abcd")), fingerprint(tensors, list("abce"))}
    for name in tensors:
        changed = {**tensors, name: tensors[name].clone()}
        changed[name].view(-1)[0] += 1
        seen.add(fingerprint(changed, list("abcd")))
    assert len(seen) == 2 + len(tensors)
    assert fingerprint(prepare(small_raw()), list("abcd")) in seen


BAD = {
    "unknown source": (["--source", "cifar11"], "did you mean 'cifar10'"),
    "no root": (["--source", "cifar10"], "--root"),
    "no root for a folder": (["--source", "image-folder"], "--root"),
    "root is no folder": (["--source", "image-folder", "--root", "nowhere"], "nowhere"),
    "share 1": (["--source", "class-folders", "--test-share", "1"], "--test-share: 1.0"),
    "share NaN": (["--source", "class-folders", "--test-share", "nan"], "--test-share: nan"),
    "split of a split": (
        ["--source", "image-folder", "--split-seed", "0"],
        "--split-seed: only for --source class-folders",
    ),
    "groups of digits": (["--source", "digits", "--groups", "x"], "--groups: only for"),
    "root of Tiny ImageNet": (["--source", "tiny-imagenet", "--root", "nowhere"], "is no folder"),
    "resize of another source": (["--source", "digits", "--resize", "8"], "image-folder"),
    "resize 0": (["--source", "image-folder", "--root", ".", "--resize", "0"], "--resize: 0"),
    "channels 2": (["--source", "image-folder", "--channels", "2"], "--channels"),
    "eps 0": (["--source", "digits", "--zca", "--zca-eps", "0"], "--zca-eps"),
    "unknown constants": (
        ["--source", "digits", "--normalise-as", "cifar-10"],
        "unknown normalisation 'cifar-10': did you mean 'cifar10'",
    ),
    "constants for colour": (
        ["--source", "digits", "--normalise-as", "cifar10"],
        "the constants of cifar10 are for 3 channels, images of digits have 1; use "
        "--normalise-as data",
    ),
    "negative threads": (["--source", "digits", "--threads", "-1"], "--threads"),
    "not downloaded": (
        ["--source", "mnist", "--root", "empty", "--no-download"],
        "MNIST/raw",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_options_are_one_line(case, tmp_path, capsys):
    arguments, expected = BAD[case]
    status, _, error = cli(capsys, *arguments, "--out", tmp_path / "x.safetensors")
    assert status == 2
    assert expected in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def no_train(root):
    (root / "train").rename(root / "training")
    return "no folder 'train'"


def no_test(root):
    (root / "test").rename(root / "val")
    return "no folder 'test'"


def missing_in_test(root):
    (root / "test" / "dog").rename(root / "test" / ".dog")
    return "class 'dog' is in train but not in test"


def only_in_test(root):
    picture(root / "test" / "emu" / "0.png")
    return "class 'emu' is in test but not in train"


def empty_class(root):
    (root / "train" / "emu").mkdir()
    picture(root / "test" / "emu" / "0.png")
    return "class 'emu' has no image"


def no_classes(root):
    for entry in (root / "train").iterdir():
        entry.rename(entry.with_name(f".{entry.name}"))
    return "no class folders"


def no_image(root):
    (root / "train" / "dog" / "1.png").write_text("this is text")
    return "dog/1.png: cannot be read as an image (not an image)"


def truncated(root):
    path = root / "test" / "cat" / "0.png"
    path.write_bytes(path.read_bytes()[:80])
    return "cat/0.png: cannot be read as an image"


def folder_named_like_an_image(root):
    (root / "train" / "dog" / "9.png").mkdir()
    return "dog/9.png: cannot be read as an image"


def mixed_channels(root):
    picture(root / "test" / "dog" / "0.png", "L")
    return "train/cat/0.png is colour"


def mixed_sizes(root):
    picture(root / "train" / "dog" / "2.png", size=(6, 7))
    return "dog/2.png has 6x7 pixels"


def constant(root):
    for path in (root / "train").rglob("*.png"):
        values = np.array(Image.open(path))
        values[:, :, 1] = 9
        Image.fromarray(values).save(path)
    return "channel 1"


@pytest.mark.parametrize(
    "spoil",
    [
        no_train,
        no_test,
        missing_in_test,
        only_in_test,
        empty_class,
        no_classes,
        no_image,
        truncated,
        folder_named_like_an_image,
        mixed_channels,
        mixed_sizes,
        constant,
    ],
)
def test_bad_folder_is_one_line(spoil, folder, tmp_path, capsys):
    expected = spoil(folder)
    refused(capsys, tmp_path, expected, "--source", "image-folder", "--root", folder)


# ZCA


def numpy_zca(images, eps):
    flat = images.reshape(len(images), -1).astype(np.float64)
    mean = flat.mean(0)
    u, s, _ = np.linalg.svd(np.cov(flat, rowvar=False))
    return mean, u @ np.diag(1 / np.sqrt(s + eps)) @ u.T


def correlated(count=300, dtype=torch.float64):
    stream = generator(0, "zca")
    mix = torch.randn(12, 12, generator=stream, dtype=dtype)
    flat = torch.randn(count, 12, generator=stream, dtype=dtype) @ mix + 100
    return flat.view(count, 3, 2, 2)


def test_zca_equals_numpy_whatever_the_chunks():
    images = correlated()
    expected = numpy_zca(images.numpy(), 0.1)
    for batches in ([images], images.split(7), images.split(299)):
        for ours, theirs in zip(zca.fit(batches, 0.1), expected, strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-8, atol=1e-9)


def test_zca_decorrelates_and_is_symmetric():
    images = correlated()
    mean, matrix = zca.fit([images], eps=1e-12)
    torch.testing.assert_close(matrix, matrix.T)
    flat = zca.whiten(images, mean, matrix).flatten(1).numpy()
    np.testing.assert_allclose(flat.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(np.cov(flat, rowvar=False), np.eye(12), atol=1e-6)


def test_zca_shrinks_by_eps():
    images = correlated()
    mean, matrix = zca.fit([images], eps=0.5)
    whitened = np.cov(zca.whiten(images, mean, matrix).flatten(1).numpy(), rowvar=False)
    eigenvalues = np.linalg.eigvalsh(np.cov(images.flatten(1).numpy(), rowvar=False))
    np.testing.assert_allclose(
        np.sort(np.linalg.eigvalsh(whitened)), eigenvalues / (eigenvalues + 0.5), rtol=1e-8
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zca_round_trip(dtype):
    images = correlated(dtype=dtype)
    mean, matrix = zca.fit([images])
    whitened = zca.whiten(images, mean.float(), matrix.float())
    assert (whitened.dtype, whitened.shape) == (dtype, images.shape)
    torch.testing.assert_close(
        zca.unwhiten(whitened, mean.float(), matrix.float()), images, rtol=1e-5, atol=1e-3
    )


def test_zca_of_fewer_images_than_dimensions_is_finite():
    _, matrix = zca.fit([correlated(4)])
    assert matrix.isfinite().all()
    # a direction without variance is scaled by 1/sqrt(eps)
    assert torch.linalg.eigvalsh(matrix).max().item() == pytest.approx(0.1**-0.5)


@pytest.mark.parametrize("batches", [[], [correlated(1)], [torch.zeros(2, 1, 129, 128)]])
def test_zca_refuses(batches):
    with pytest.raises(DDError, match="ZCA"):
        zca.fit(batches)


# The dataset


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


def test_real_image_folder(real_images, tmp_path, capsys):
    """Chest X-rays, greyscale; Tiny ImageNet mixes grey and colour."""
    out = tmp_path / "x.safetensors"
    source = ("--source", "image-folder", "--out", out, "--root")
    assert cli(capsys, *source, real_images / "covid_cxr")[0] == 0
    assert load_dataset(out).channels == 1
    status, _, error = cli(capsys, *source, real_images / "tiny_imagenet")
    assert (status, "--channels 3" in error) == (2, True)


def test_real_tiny_imagenet(real_images, tmp_path):
    """The original layout, built of links to the real images; some of them are grey."""
    root, source = tmp_path / "tiny", real_images / "tiny_imagenet"
    (root / "val" / "images").mkdir(parents=True)
    lines = []
    for folder in sorted((source / "train").iterdir()):
        (root / "train" / folder.name).mkdir(parents=True)
        (root / "train" / folder.name / "images").symlink_to(folder)
    for file in (source / "test").rglob("*.JPEG"):
        (root / "val" / "images" / file.name).symlink_to(file)
        lines.append(f"{file.name}\t{file.parent.name}\t0\t0\t63\t63\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    listing = layouts.tiny_imagenet(root)
    assert listing.classes == sorted(folder.name for folder in (source / "train").iterdir())
    for part, files in (("train", listing.train), ("test", listing.test)):
        for wnid, found in zip(listing.classes, files, strict=True):
            names = [path.name for path in found]
            assert names == sorted(path.name for path in (source / part / wnid).iterdir())
    array = decode.decode_all([files[k] for files in listing.train for k in range(20)], None, 3)
    assert array.shape == (20 * len(listing.classes), 3, 64, 64)
    assert any((image == image[:1]).all() for image in array)  # a grey one, made colour


def test_real_patients_stay_in_one_split(real_images, tmp_path):
    """Chest X-rays of both splits brought together and split anew, by patient."""
    source = real_images / "covid_cxr"
    with open(source / "sources.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with open(tmp_path / "groups.csv", "w", encoding="utf-8") as file:
        file.write("file,group\n")
        for row in rows:
            folder = tmp_path / "x" / row["class"] / "images"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / row["file"]).symlink_to(source / row["split"] / row["class"] / row["file"])
            file.write(f'{row["file"]},"{row["patient"]}"\n')
    listing = layouts.class_folders(tmp_path / "x", 0.2, generator(0), tmp_path / "groups.csv")
    assert listing.classes == ["covid19", "normal", "pneumonia"]
    patient = {row["file"]: row["patient"] for row in rows}
    train, test = (
        {patient[p.name] for f in part for p in f} for part in (listing.train, listing.test)
    )
    assert train and test and not train & test
    for trained, tested in zip(listing.train, listing.test, strict=True):
        assert len(tested) / (len(trained) + len(tested)) == pytest.approx(0.2, abs=0.01)
