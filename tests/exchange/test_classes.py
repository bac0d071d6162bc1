"""Which class of the dataset a label of others is: by the name of its folder, or as their code
numbers it."""

import numpy as np
import pytest
import torch
import torchvision

from dd.artifacts.tensors import save_tensors
from dd.data import synthetic
from dd.data.classes import NAMES, order_in
from dd.errors import DDError
from dd.exchange.classes import class_numbers
from tests.exchange.test_import import imported, refused
from tests.support.others import dc_form, pictures

CLOTHES = NAMES["fashion_mnist"]
NUMBERS = (193, 182, 258, 162, 155, 167, 159, 273, 207, 229)  # of ImageWoof in MTT's code


@pytest.mark.parametrize(
    ("name", "dataset"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")]
)
def test_names_are_those_of_torchvision(name, dataset):
    """Those of prepared files, with which evaluation compares them."""
    assert list(NAMES[name]) == getattr(torchvision.datasets, dataset).classes


def test_the_order_of_imagewoof_is_that_of_its_numbers_in_imagenet():
    folders, numbered = NAMES["imagewoof"], order_in("imagewoof", "mtt")
    assert list(folders) == sorted(folders)
    assert [folders.index(name) for name in numbered] == [sorted(NUMBERS).index(n) for n in NUMBERS]
    assert (
        order_in("imagenette", "mtt") is order_in("imagewoof", "dc") is order_in(None, None) is None
    )


@pytest.mark.parametrize(
    ("names", "classes", "expected"),
    [
        (["b", "a"], ["a", "b"], [1, 0]),
        (["Ankle_Boot", "t-shirt", "trouser"], ["T-shirt/top", "Trouser", "Ankle boot"], [2, 0, 1]),
        (["one", "zero"], ["0 - zero", "1 - one"], [1, 0]),
        (["new0", "new1"], ["a", "b"], None),
        (["a", "b"], [], None),
        (["a/x", "a/y"], ["a/y", "a/x"], [1, 0]),
        (["+", "-"], ["-", "+"], [1, 0]),
        (["a", "c"], ["a", "b"], "'c' is none, or one that is there already, and 'b' is missing"),
        (["t-shirt", "top"], ["T-shirt/top", "b"], "'top' is none, or one that is there already"),
        (["a", "y"], ["a/x", "a/y"], "'a' is none, or one that is there already, and 'a/x' is"),
    ],
)
def test_names(names, classes, expected):
    if isinstance(expected, str):
        with pytest.raises(DDError) as caught:
            class_numbers(names, classes, "them")
        assert expected in str(caught.value)
        return
    found = class_numbers(names, classes, "them")
    assert (found if found is None else found.tolist()) == expected


def test_folders_of_a_dataset_that_is_not_prepared(tmp_path, capsys):
    """Their order is no longer that of the alphabet; one that is no class is refused."""
    pixels = np.stack([np.full((28, 28), 20 * label, np.uint8) for label in range(10)])
    names = [name.partition("/")[0] for name in CLOTHES]
    root = pictures(tmp_path / "root", pixels, range(10), names)
    words = ["--dataset", "fashion_mnist"]
    made = imported(root, *words, out=tmp_path / "x.safetensors")
    shown = (made.images * made.std + made.mean) * 255
    assert torch.allclose(shown[:, 0, 0, 0], 20.0 * made.labels, atol=1e-3)
    assert made.header["classes"] == list(CLOTHES)
    assert "folders are classes of fashion_mnist by name" in capsys.readouterr().out
    (root / "Bag").rename(root / "Hat")
    said = refused(capsys, root, *words, "--out", tmp_path / "y.safetensors")
    assert f"{root}: some of its classes are those of fashion_mnist by name, but 'Hat' is" in said
    assert "'Bag' is missing" in said


def woof(path, names):
    """A prepared file with the shape of ImageWoof and some names."""
    tensors = {"mean": torch.full((3,), 0.4), "std": torch.full((3,), 0.3)}
    for part in ("train", "test"):
        pixels = torch.zeros(10, 3, 128, 128, dtype=torch.uint8)
        tensors |= {f"{part}_images": pixels, f"{part}_labels": torch.arange(10)}
    facts = {"classes": list(names), "source": "image-folder", "normalisation": "data"}
    save_tensors(path, "dataset", tensors, facts)
    return path


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("told", ["name", "file", "both"])
def test_imagewoof_of_mtt_s_code(told, soft, tmp_path, capsys):
    """Its label 0 is number 193 of ImageNet, which is the sixth of the folders."""
    images = torch.randn(10, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    torch.save(images, tmp_path / "images_100.pt")
    torch.save(torch.eye(10) if soft else torch.arange(10), tmp_path / "labels_100.pt")
    words = ["--dataset", "imagewoof"] if told != "file" else []
    if told != "name":
        data = woof(tmp_path / "data.safetensors", NAMES["imagewoof"])
        words += ["--data", data]
    made = imported(tmp_path / "images_100.pt", *words, out=tmp_path / "x.safetensors")
    assert made.hard_labels.tolist() == [sorted(NUMBERS).index(number) for number in NUMBERS]
    assert made.labels.ndim == 1 + soft and torch.equal(made.images, images)
    assert made.header["classes"] == list(NAMES["imagewoof"])
    assert made.mean.tolist() == pytest.approx([0.485, 0.456, 0.406])
    said = capsys.readouterr().out
    assert (
        "MTT's code numbers the classes of imagewoof as n02096294, n02093754, ...; labels" in said
    )


def test_imagewoof_in_other_forms_or_with_other_names(tmp_path, capsys):
    images, out = torch.randn(10, 3, 128, 128), tmp_path / "x.safetensors"
    path = dc_form(tmp_path / "a.pt", (images, torch.arange(10)))
    assert imported(path, "--dataset", "imagewoof", out=out).labels.tolist() == list(range(10))
    torch.save(images, tmp_path / "images_100.pt")
    torch.save(torch.arange(10), tmp_path / "labels_100.pt")
    made = imported(tmp_path / "images_100.pt", "--dataset", "imagenette", out=out)
    assert made.labels.tolist() == list(range(10))
    data = woof(tmp_path / "data.safetensors", "abcdefghij")
    words = [tmp_path / "images_100.pt", "--dataset", "imagewoof", "--data", data, "--out", out]
    said = refused(capsys, *words)
    assert "as n02096294, n02093754, ..., and data names none of them; prepare it from" in said


def test_labels_get_other_numbers():
    order = torch.tensor([2, 0, 1])
    assert synthetic.renumbered(torch.tensor([0, 1, 2, 0]), order).tolist() == [2, 0, 1, 2]
    soft = synthetic.renumbered(torch.tensor([[0.5, 0.3, 0.2]]), order)
    assert torch.equal(soft, torch.tensor([[0.3, 0.2, 0.5]]))
