"""The synthetic set: round trip, change of normalisation, what is refused."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file, save_file

from dd.artifacts.tensors import load_tensors
from dd.artifacts.text import load_rows
from dd.command import main
from dd.data import synthetic
from dd.data.dataset import load_dataset
from dd.data.synthetic import SyntheticSet
from dd.errors import DDError
from dd.report.read.vectors import load_extras
from dd.rng import generator


def example(digits, count=10):
    images = torch.randn(count, 1, 8, 8, generator=generator(0))
    return SyntheticSet(
        images, torch.arange(count) % 10, digits.space.mean, digits.space.std, 0.02, {"ipc": 1}
    )


def chosen(*indices, **header):
    """What makes :func:`example` a set of real images."""
    return {
        "images": None,
        "indices": torch.tensor(indices),
        "labels": torch.arange(len(indices)),
        "header": header,
    }


def test_round_trip(digits, tmp_path):
    path = tmp_path / "set.safetensors"
    made = example(digits)
    synthetic.save(path, made)
    read = synthetic.load(path)
    assert torch.equal(read.images, made.images) and torch.equal(read.labels, made.labels)
    assert torch.equal(read.mean, made.mean) and torch.equal(read.std, made.std)
    assert read.learned_lr == pytest.approx(0.02) and read.header["ipc"] == 1
    assert torch.equal(read.images_for(digits), made.images)


def test_anybodys_file_of_images_and_labels_is_enough(digits, tmp_path):
    path = tmp_path / "set.safetensors"
    made = example(digits)
    save_file({"images": made.images, "labels": made.labels}, path)
    assert torch.equal(synthetic.load(path).images_for(digits), made.images)


def test_soft_labels(digits, tmp_path):
    path = tmp_path / "set.safetensors"
    soft = torch.softmax(torch.randn(10, 10, generator=generator(1)), 1)
    synthetic.save(path, dataclasses.replace(example(digits), labels=soft))
    read = synthetic.load(path)
    assert torch.equal(read.labels, soft) and torch.equal(read.hard_labels, soft.argmax(1))


def test_another_normalisation_is_converted(digits):
    """The same pixels under another mean and std become the dataset's own numbers."""
    ours = example(digits)
    pixels = ours.images * digits.space.std + digits.space.mean
    mean, std = torch.tensor([0.5]), torch.tensor([0.25])
    theirs = dataclasses.replace(ours, images=(pixels - mean) / std, mean=mean, std=std)
    torch.testing.assert_close(theirs.images_for(digits), ours.images, rtol=1e-5, atol=1e-5)


def test_real_images_by_their_indices(digits, tmp_path):
    """A set of training images is stored as numbers and gives what the dataset gives."""
    path = tmp_path / "set.safetensors"
    made = dataclasses.replace(
        example(digits), **chosen(7, 0, 1437, 7, fingerprint=digits.fingerprint)
    )
    synthetic.save(path, made)
    read = synthetic.load(path)
    assert read.images is None and read.indices.tolist() == [7, 0, 1437, 7]
    assert len(read) == 4 and "images" not in load_file(path)
    pixels = digits.train.images[[7, 0, 1437, 7]] / 255
    expected = (pixels - digits.space.mean) / digits.space.std
    torch.testing.assert_close(read.images_for(digits), expected)


def test_extras_are_kept_and_read_when_asked_for(digits, tmp_path):
    path = tmp_path / "set.safetensors"
    extras = {
        "importance.convnet": torch.rand(3),
        "importance.convnet:depth=1": torch.rand(2),
        "importances.mlp": torch.rand(1),
        "difference.mlp": torch.rand(4),
    }
    synthetic.save(path, dataclasses.replace(example(digits), extras=extras))
    assert synthetic.load(path).extras == {}
    found = load_extras(path, "importance")
    assert found.keys() == {"convnet", "convnet:depth=1"}
    assert found["convnet"].tolist() == extras["importance.convnet"].tolist()
    assert load_extras(path, "labels") == {}


def test_loading_reads_no_extras(digits, tmp_path, monkeypatch):
    """They may be larger than the set."""
    path = tmp_path / "set.safetensors"
    extras = {"importance.convnet": torch.rand(3)}
    synthetic.save(path, dataclasses.replace(example(digits), extras=extras))
    read = []

    def watched(*args, **options):
        tensors, header = load_tensors(*args, **options)
        read.extend(tensors)
        return tensors, header

    monkeypatch.setattr(synthetic, "load_tensors", watched)
    synthetic.load(path)
    assert sorted(read) == ["images", "labels", "learned_lr", "mean", "std"]


@pytest.mark.parametrize(
    "changes",
    [{"images": None}, {"indices": torch.arange(10)}, {"extras": {"importance": torch.rand(1)}}],
)
def test_sets_that_cannot_be(digits, changes):
    with pytest.raises(ValueError, match="synthetic set"):
        dataclasses.replace(example(digits), **changes)


@pytest.mark.parametrize(("header", "expected"), [({}, None), ({"whitening": "zca"}, "zca")])
def test_whitening_is_in_the_header(digits, tmp_path, header, expected):
    path = tmp_path / "set.safetensors"
    made = dataclasses.replace(example(digits), header=header, mean=None, std=None)
    synthetic.save(path, made)
    assert synthetic.load(path).whitening == synthetic.whitening(path) == expected


def test_a_set_is_whitened_or_has_mean_and_std(digits, tmp_path):
    path = tmp_path / "set.safetensors"
    synthetic.save(path, dataclasses.replace(example(digits), header={"whitening": "zca"}))
    with pytest.raises(DDError, match=r"set\.safetensors: it has 'mean' and 'std', but its images"):
        synthetic.load(path)


def test_evaluation_is_in_the_set_s_space(tmp_path):
    """Real images as a set, by indices and as images: each space gives its own accuracy, the same
    for both, and a foreign set is in the space that the command says."""
    data = tmp_path / "data.safetensors"
    assert main(["prepare", "--source", "digits", "--zca", "--out", str(data)]) == 0
    indices = torch.arange(60)
    found = {}
    for space in ("none", "zca"):
        dataset = load_dataset(data, whitening=space)
        labels, header = dataset.train.labels[indices], {"fingerprint": dataset.fingerprint}
        images, said = dataset.train.take(indices), {"whitening": space}
        for name, made, options in (
            ("indices", SyntheticSet(None, labels, header=header | said, indices=indices), []),
            ("images", SyntheticSet(images, labels, header=said), []),
            ("confirmed", SyntheticSet(images, labels, header=said), ["--whitening", space]),
            ("foreign", SyntheticSet(images, labels), ["--whitening", space]),
        ):
            path, out = tmp_path / f"{name}.safetensors", tmp_path / f"{name}-{space}.csv"
            synthetic.save(path, made)
            command = ["evaluate", "--synthetic", str(path), "--data", str(data), "--arch", "mlp"]
            command += ["--networks", "1", "--epochs", "40", "--lr", "0.1", "--out", str(out)]
            command += options
            assert main(command) == 0
            found[name, space] = load_rows(out)[0]["accuracy"]
    none, zca = ({found[key] for key in found if key[1] == space} for space in ("none", "zca"))
    assert len(none) == len(zca) == 1 and none != zca
    assert float(min(none | zca)) > 30  # networks learned in either


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.zeros(10, 3, 8, 8)}, "images are 3x8x8, dataset digits has 1x8x8"),
        ({"labels": torch.arange(10) + 1}, "labels span 1 to 10"),
        ({"labels": torch.arange(10) - 1}, "labels span -1 to 8"),
        ({"labels": torch.ones(10, 7)}, "soft labels have 7 classes"),
        ({"header": {"whitening": "zca"}}, "whitening zca, dataset digits was read with none"),
        (chosen(1437, 1438), "indices span 1437 to 1438, dataset digits has training images 0 to"),
        (chosen(-1, 0), "indices span -1 to 0"),
        (chosen(0, 1, fingerprint="0" * 16), "fingerprint 0000000000000000, dataset digits has"),
        (chosen(0, 1) | {"labels": torch.tensor([0, 10])}, "labels span 0 to 10"),
    ],
)
def test_sets_that_do_not_fit_the_dataset(digits, changes, message):
    with pytest.raises(DDError, match=message):
        dataclasses.replace(example(digits), **changes).images_for(digits)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"images": None}, "'images' is missing"),
        ({"images": torch.zeros(2, 8, 8)}, r"must be float32 \[M, C, H, W\]"),
        ({"images": torch.zeros(2, 1, 8, 8).double()}, r"must be float32 \[M, C, H, W\]"),
        ({"images": torch.full((2, 1, 8, 8), float("nan"))}, "'images' holds NaN"),
        ({"labels": torch.zeros(3).long()}, r"must be int64 \[2\]"),
        ({"labels": torch.zeros(2)}, r"must be int64 \[2\]"),
        ({"mean": torch.zeros(1)}, "'mean' and 'std' come together"),
        ({"mean": torch.zeros(3), "std": torch.ones(3)}, r"must be \[1\]"),
        ({"indices": torch.zeros(2).long()}, "'images' and 'indices'"),
        ({"images": None, "indices": torch.zeros(2)}, r"'indices' .* must be int64 \[M\]"),
        ({"images": None, "indices": torch.zeros(0).long()}, r"must be int64 \[M\]"),
        ({"images": None, "indices": torch.zeros(3).long()}, r"'labels' .* int64 \[3\]"),
    ],
)
def test_files_that_are_no_synthetic_set(tmp_path, tensors, message):
    path = tmp_path / "set.safetensors"
    whole = {"images": torch.zeros(2, 1, 8, 8), "labels": torch.zeros(2).long()}
    save_file({k: t for k, t in (whole | tensors).items() if t is not None}, path)
    with pytest.raises(DDError, match=message):
        synthetic.load(path)
