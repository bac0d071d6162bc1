"""The space of images: the field's normalisation, ZCA of pixels, and files of the older ZCA."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dd.artifacts.headers import read_header
from dd.artifacts.tensors import load_tensors, save_tensors
from dd.artifacts.text import load_rows
from dd.command import main
from dd.config import normalisation
from dd.data import synthetic, zca
from dd.data.dataset import fingerprint, load_dataset
from dd.data.prepare import prepare
from dd.data.sources import SOURCES, RawDataset
from dd.data.space import Space
from dd.data.synthetic import SyntheticSet
from dd.errors import DDError
from dd.rng import generator

WIDTH = 0.125

# The field's constants, as its public code has them.
FIELD = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2861,), (0.3530,)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "tiny-imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def raw(channels=3, count=30):
    pixels = torch.randint(0, 256, (count, channels, 4, 4), generator=generator(0, "raw"))
    images, labels = pixels.to(torch.uint8), torch.arange(count) % 3
    test = images[:9].clone(), labels[:9].clone()
    return RawDataset("raw", "Raw", images, labels, *test, ["a", "b", "c"])


def saved(path, zca_eps=None, normalise_as="data", **header):
    tensors = prepare(raw(), zca_eps, normalise_as)
    known = {"classes": ["a", "b", "c"], "fingerprint": fingerprint(tensors, ["a", "b", "c"])}
    save_tensors(path, "dataset", tensors, known | header)
    return path


@pytest.mark.parametrize("name", FIELD)
def test_the_field_s_constants(name, tmp_path):
    mean, std = FIELD[name]
    assert name in SOURCES and normalisation.of_source(name) == name
    tensors = prepare(raw(len(mean)), None, name)
    assert torch.equal(tensors["mean"], torch.tensor(mean))
    assert torch.equal(tensors["std"], torch.tensor(std))
    save_tensors(tmp_path / "data.safetensors", "dataset", tensors, {})
    taken = load_dataset(tmp_path / "data.safetensors").train.take(torch.tensor([4]))
    pixels = raw(len(mean)).train_images[4].numpy() / 255
    by_hand = [(pixels[c] - mean[c]) / std[c] for c in range(len(mean))]
    np.testing.assert_allclose(taken[0].numpy(), np.stack(by_hand), rtol=1e-5, atol=1e-6)


def test_sources_without_constants_have_their_own():
    left = {name for name in SOURCES if normalisation.of_source(name) == "data"}
    assert left == {"digits", "image-folder", "class-folders"}
    assert normalisation.of_published("tiny_imagenet") == "tiny-imagenet"
    assert normalisation.of_published("fashionmnist") == "fashion_mnist"
    assert normalisation.of_published("imagewoof", "mtt") == "imagenet"
    assert normalisation.of_published("covid") == normalisation.of_published("") == "data"


def test_the_authors_of_trajectory_matching_normalise_cifar100_like_cifar10():
    """DC, DSA and DM do not. No other dataset that these codes share differs."""
    for name in FIELD:
        for method in ("dc", "dsa", "dm", "mtt", "iadd", "random"):
            trajectories = name == "cifar100" and method in ("mtt", "iadd")
            assert normalisation.of_published(name, method) == ("cifar10" if trajectories else name)
    assert normalisation.of_published("covid", "mtt") == "data"


@pytest.mark.parametrize(
    ("method", "name", "own"),
    [
        ("sre2l", "cifar100", "cifar10"),
        ("sre2l", "tiny_imagenet", "tiny-imagenet-sre2l"),
        ("sre2l", "cifar10", "cifar10"),
        ("sre2l", "imagenet", "imagenet"),
        ("dd", "cifar10", "data"),
        ("dd", "mnist", "mnist"),
        ("frepo", "cifar10", "data"),
        ("frepo", "cifar100", "data"),
        ("frepo", "tiny_imagenet", "data"),
        ("frepo", "fashion_mnist", "fashion_mnist"),
    ],
)
def test_whose_constants_a_method_has(method, name, own):
    """As its authors' code has them; FRePo whitens where it takes the data's own."""
    assert normalisation.of_published(name, method) == own


def test_the_units_of_sre2l_on_tiny_imagenet():
    """Its code has others than the code of DC and MTT."""
    tensors = prepare(raw(), None, "tiny-imagenet-sre2l")
    assert torch.equal(tensors["mean"], torch.tensor([0.4802, 0.4481, 0.3975]))
    assert torch.equal(tensors["std"], torch.tensor([0.2302, 0.2265, 0.2262]))
    assert normalisation.of_source("tiny-imagenet") == "tiny-imagenet"


def test_a_folder_takes_the_constants_asked_for(tmp_path, capsys):
    from PIL import Image

    for number, image in enumerate(raw().train_images):
        folder = tmp_path / "pictures" / ("train" if number < 20 else "test") / f"c{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.movedim(0, -1).numpy()).save(folder / f"{number}.png")
    command = ["prepare", "--source", "image-folder", "--root", str(tmp_path / "pictures")]
    told = {}
    for name, options in (("own", []), ("svhn", ["--normalise-as", "svhn"])):
        path = tmp_path / f"{name}.safetensors"
        assert main([*command, *options, "--out", str(path)]) == 0
        tensors, header = load_tensors(path, "dataset")
        told[name] = header["normalisation"], tensors["mean"].tolist(), header["fingerprint"]
        assert header["fingerprint"] == fingerprint(tensors, ["c0", "c1"])
    assert told["svhn"][:2] == ("svhn", pytest.approx([0.4377, 0.4438, 0.4728]))
    assert told["own"][0] == "data" and told["own"][2] != told["svhn"][2]
    said = capsys.readouterr().out
    assert "its own mean and std" in said and "the constants of svhn" in said


def plain_whitening(pixels, eps):
    """Mean and matrix by NumPy in float64, covariance divided by N − 1."""
    flat = pixels.reshape(len(pixels), -1).astype(np.float64)
    values, vectors = np.linalg.eigh(np.cov(flat, rowvar=False))
    return flat.mean(0), vectors @ np.diag((values + eps) ** -0.5) @ vectors.T


def test_the_whitening_is_of_pixels_whatever_the_normalisation(tmp_path):
    pixels = raw().train_images.numpy() / 255
    mean, matrix = plain_whitening(pixels, 0.1)
    expected = (pixels.reshape(30, -1) - mean) @ matrix
    for name in ("data", "cifar10", "tiny-imagenet"):
        data = load_dataset(saved(tmp_path / f"{name}.safetensors", 0.1, name), whitening="zca")
        taken = data.train.take(slice(None))
        np.testing.assert_allclose(taken.flatten(1).numpy(), expected, atol=1e-4)
        np.testing.assert_allclose(data.train.pixels(slice(None)).numpy(), pixels, atol=1e-6)
        np.testing.assert_allclose(data.train.resident().pixels(slice(9)), pixels[:9], atol=1e-4)
        assert data.mean_and_std() == (None, None)


def test_spaces_are_inverse_and_differentiable():
    pixels = torch.rand(5, 3, 2, 2, generator=generator(0), dtype=torch.float64)
    many = torch.rand(50, 3, 2, 2, generator=generator(1), dtype=torch.float64)
    flat = Space(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7]))
    for space in (flat, Space(flat.mean, flat.std, *zca.fit([many]))):
        images = space.from_pixels(pixels)
        torch.testing.assert_close(space.to_pixels(images), pixels, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(space.from_pixels_(pixels.clone()), images, rtol=0, atol=0)
        assert torch.autograd.gradcheck(space.from_pixels, pixels.clone().requires_grad_())


def test_the_whitening_of_cifar10(real_images, tmp_path):
    """On the JPEG copy, by NumPy from its pixels: 127 eigenvalues above 0.1, whitened std 0.255.

    What others state, 129 and 0.240, is that of a random thousand of its images.
    """
    path = tmp_path / "cifar10.safetensors"
    command = ["prepare", "--source", "image-folder", "--root", str(real_images / "cifar10")]
    assert main([*command, "--normalise-as", "cifar10", "--zca", "--out", str(path)]) == 0
    data = load_dataset(path, whitening="zca")
    pixels = data.train.images.flatten(1).numpy()
    mean, products = pixels.mean(0) / 255, np.zeros((3072, 3072))
    for part in np.split(pixels, 10):
        part = part / 255 - mean
        products += part.T @ part
    values = np.linalg.eigvalsh(products / (len(pixels) - 1))
    expected = np.sqrt(np.mean(values / (values + 0.1)))  # of all whitened values
    assert ((values > 0.1).sum(), round(expected, 3)) == (127, 0.255)
    ours = np.linalg.eigvalsh(data.space.zca_matrix.double().numpy()) ** -2 - 0.1
    np.testing.assert_allclose(np.sort(ours), values, rtol=1e-3, atol=1e-5)
    total = sum(
        float(data.train.take(p).double().square().sum()) for p in torch.arange(50000).split(5000)
    )
    assert (total / pixels.size) ** 0.5 == pytest.approx(expected, rel=1e-3)  # of mean 0

    samples = []
    for seed in range(20):
        part = pixels[np.random.default_rng(seed).permutation(50000)[:1000]] / 255
        part = part - part.mean(0)
        values = np.linalg.eigvalsh(part @ part.T / 999)  # the others, to 3072, are 0
        samples.append(((values > 0.1).sum(), np.sqrt((values / (values + 0.1)).sum() / 3072)))
    counts, stds = np.array(samples).T
    assert (round(counts.mean(), 1), round(counts.std(ddof=1), 1)) == (129.7, 1.8)
    assert (round(stds.mean(), 4), round(stds.std(ddof=1), 4)) == (0.2395, 0.0009)


# Synthetic sets


def test_a_set_in_other_units_gives_every_reader_the_same(digits, digits_file, tmp_path):
    """Its pixels count, not its numbers: evaluation sees what it sees of the set in our units."""
    pixels = digits.train.pixels(torch.arange(30))
    labels = digits.train.labels[:30]
    found = []
    for name, mean, std in (("ours", None, None), ("theirs", 0.5, 0.25)):
        space = digits.space if mean is None else Space(torch.tensor([mean]), torch.tensor([std]))
        made = SyntheticSet(space.from_pixels(pixels), labels, space.mean, space.std)
        path, out = tmp_path / f"{name}.safetensors", tmp_path / f"{name}.csv"
        synthetic.save(path, made)
        torch.testing.assert_close(
            synthetic.load(path).images_for(digits), digits.train.take(slice(30)), atol=1e-5, rtol=0
        )
        command = [
            "evaluate",
            "--synthetic",
            str(path),
            "--data",
            str(digits_file),
            "--arch",
            "mlp",
        ]
        command += ["--networks", "1", "--epochs", "20", "--lr", "0.1", "--out", str(out)]
        assert main(command) == 0
        found.append(float(load_rows(out)[0]["accuracy"]))
    assert found[0] == pytest.approx(found[1], abs=0.6) and found[0] > 30


def test_a_distilled_set_of_the_whitening_states_no_normalisation(tmp_path):
    data = tmp_path / "digits.safetensors"
    assert main(["prepare", "--source", "digits", "--zca", "--out", str(data)]) == 0
    for whitening in ("none", "zca"):
        out = tmp_path / whitening
        command = ["distill", "--data", str(data), "--objective", "random", "--ipc", "1"]
        command = [*command, "--whitening", whitening, "--out", str(out)]
        assert main(command) == 0
        made = synthetic.load(out / "it0.safetensors")
        assert (made.mean is None) == (made.std is None) == (whitening == "zca")
        dataset = load_dataset(data, whitening=whitening)
        assert made.header["fingerprint"] == dataset.fingerprint
        assert made.images_for(dataset).shape == (10, 1, 8, 8)


def test_a_set_of_another_whitening_is_refused(tmp_path):
    one, other = (
        load_dataset(saved(tmp_path / f"{eps}.safetensors", eps), whitening="zca")
        for eps in (0.1, 0.2)
    )
    images, labels = one.train.take(slice(3)), one.train.labels[:3]
    made = SyntheticSet(images, labels, header={"whitening": "zca", "fingerprint": one.fingerprint})
    assert torch.equal(made.images_for(one), images)
    with pytest.raises(DDError, match=f"fingerprint {one.fingerprint}, .* another whitening"):
        made.images_for(other)
    silent = SyntheticSet(images, labels, header={"whitening": "zca"})  # somebody's, who says so
    assert torch.equal(silent.images_for(other), images)


# Files in the older space, of images that were normalised first


OLD = r"old\.\w+: its ZCA whitens normalised images, as this suite did before version 0\.2"


def older(path):
    """The file with an older fingerprint, ``...-zca<8 digits>``."""
    kind = read_header(path)["kind"]
    tensors, found = load_tensors(path, kind)
    found = {key: value for key, value in found.items() if key != "kind"}
    text = re.sub(r"-zca-pixels-([0-9a-f]{8})", r"-zca\1", json.dumps(found))
    path = path.with_name("old.safetensors")
    save_tensors(path, kind, tensors, json.loads(text))
    return path


def test_an_older_dataset_file_is_refused_where_it_is_read_whitened(tmp_path):
    path = saved(tmp_path / "old.safetensors", 0.1, zca={"eps": 0.1})
    with pytest.raises(DDError, match=OLD):
        load_dataset(path, whitening="zca")
    assert load_dataset(path).whitening == "none"
    assert load_dataset(
        saved(tmp_path / "foreign.safetensors", 0.1), whitening="zca"
    )  # says nothing


@pytest.fixture(scope="module")
def whitened(tmp_path_factory):
    """Digits with a whitening, and one file of each kind in its space."""
    folder = tmp_path_factory.mktemp("whitened")
    data = folder / "digits.safetensors"
    assert main(["prepare", "--source", "digits", "--zca", "--out", str(data)]) == 0
    read = ["--data", str(data), "--whitening", "zca", "--epochs", "1"]
    scale = ["--width-factor", str(WIDTH)]
    for command in (
        ["buffer", *read, *scale, "--experts", "1"],
        ["pretrain", *read, *scale, "--network", "convnet"],
        ["generator", *read, "--width", "8"],
    ):
        assert main([*command, "--out", str(folder / f"{command[0]}.safetensors")]) == 0
    made = ["distill", "--data", str(data), "--objective", "random", "--ipc", "1"]
    assert main([*made, "--whitening", "zca", "--out", str(folder / "set")]) == 0
    return folder


@pytest.mark.parametrize("kind", ["buffer", "pretrain", "generator", "set", "stated"])
def test_older_files_are_refused_by_name(kind, whitened, tmp_path, capsys):
    data = str(whitened / "digits.safetensors")
    start = ["distill", "--data", data, "--ipc", "1", "--snapshots", "1", "--whitening", "zca"]
    start += ["--width-factor", str(WIDTH), "--out", str(tmp_path / "out"), "--objective"]
    source = whitened / f"{kind}.safetensors"
    if kind in ("set", "stated"):
        source = whitened / "set" / "it0.safetensors"
    old = older(Path(shutil.copy(source, tmp_path / "made.safetensors")))
    if kind == "stated":  # a set that says nothing of the dataset: its mean and std give it away
        made = synthetic.load(source)
        images = made.images_for(load_dataset(data, whitening="zca"))
        made = SyntheticSet(images, made.labels, torch.zeros(1), torch.ones(1))
        made.header = {"whitening": "zca"}
        synthetic.save(old, made)
    one = str(old)
    steps = ["--experts", "1", "--expert-epochs", "1", "--max-start-epoch", "1"]
    evaluate = ["evaluate", "--data", data, "--arch", "mlp", "--out", str(tmp_path / "x.csv")]
    command = {
        "buffer": [*start, "mtt", *steps, "--student-steps", "1", "--buffers", one],
        "pretrain": [*start, "sre2l", "--network", "convnet", "--pretrained", one],
        "generator": [*start, "dm", "--parametrisation", "glad", "--generator", one],
    }.get(kind, [*evaluate, "--synthetic", one])
    capsys.readouterr()
    assert main(command) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    expected = (
        "it has 'mean' and 'std', but its images should be white" if kind == "stated" else OLD
    )
    assert re.search(expected, said)
