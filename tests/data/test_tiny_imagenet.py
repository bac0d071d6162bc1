"""Tiny ImageNet's folders, whole and spoilt."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from dd.data import decode, layouts
from dd.data.sources import SOURCES, SourceOptions
from tests.support.pictures import append, picture, refused


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


@pytest.mark.parametrize("spoil", TINY_FAULTS)
def test_bad_tiny_imagenet_is_one_line(spoil, tiny, tmp_path, capsys):
    expected = spoil(tiny)
    refused(capsys, tmp_path, expected, "--source", "tiny-imagenet", "--root", tiny)


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
