"""Image folders: values, order, names and formats; folders that are none."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dd.data import decode
from dd.data.dataset import load_dataset
from dd.data.sources import SOURCES, SourceOptions
from dd.errors import DDError
from tests.support.pictures import cli, picture, random_pixels, refused


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


def no_train(root):
    (root / "train").rename(root / "training")
    return "no folder 'train'"


def no_test(root):
    (root / "test").rename(root / "testing")
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
        mixed_channels,
        mixed_sizes,
        constant,
    ],
)
def test_bad_folder_is_one_line(spoil, folder, tmp_path, capsys):
    expected = spoil(folder)
    refused(capsys, tmp_path, expected, "--source", "image-folder", "--root", folder)


def test_real_image_folder(real_images, tmp_path, capsys):
    """Chest X-rays, greyscale; Tiny ImageNet mixes grey and colour."""
    out = tmp_path / "x.safetensors"
    source = ("--source", "image-folder", "--out", out, "--root")
    assert cli(capsys, *source, real_images / "covid_cxr")[0] == 0
    assert load_dataset(out).channels == 1
    status, _, error = cli(capsys, *source, real_images / "tiny_imagenet")
    assert (status, "--channels 3" in error) == (2, True)
