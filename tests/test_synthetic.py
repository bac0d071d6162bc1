"""The synthetic set: round trip, change of normalisation, what is refused."""

import dataclasses

import pytest
import torch
from safetensors.torch import save_file

from dd import synthetic
from dd.errors import DDError
from dd.rng import generator
from dd.synthetic import SyntheticSet


def example(digits, count=10):
    images = torch.randn(count, 1, 8, 8, generator=generator(0))
    return SyntheticSet(images, torch.arange(count) % 10, digits.mean, digits.std, 0.02, {"ipc": 1})


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
    pixels = ours.images * digits.std + digits.mean
    mean, std = torch.tensor([0.5]), torch.tensor([0.25])
    theirs = dataclasses.replace(ours, images=(pixels - mean) / std, mean=mean, std=std)
    torch.testing.assert_close(theirs.images_for(digits), ours.images, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.zeros(10, 3, 8, 8)}, "images are 3x8x8, dataset digits has 1x8x8"),
        ({"labels": torch.arange(10) + 1}, "labels span 1 to 10"),
        ({"labels": torch.arange(10) - 1}, "labels span -1 to 8"),
        ({"labels": torch.ones(10, 7)}, "soft labels have 7 classes"),
        ({"header": {"zca": True}}, "prepare the dataset with --zca"),
    ],
)
def test_sets_that_do_not_fit_the_dataset(digits, changes, message):
    with pytest.raises(DDError, match=message):
        dataclasses.replace(example(digits), **changes).images_for(digits)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"labels": torch.zeros(2).long()}, "'images' is missing"),
        ({"images": torch.zeros(2, 8, 8)}, r"must be float32 \[M, C, H, W\]"),
        ({"images": torch.zeros(2, 1, 8, 8).double()}, r"must be float32 \[M, C, H, W\]"),
        ({"images": torch.full((2, 1, 8, 8), float("nan"))}, "'images' holds NaN"),
        ({"labels": torch.zeros(3).long()}, r"must be int64 \[2\]"),
        ({"labels": torch.zeros(2)}, r"must be int64 \[2\]"),
        ({"mean": torch.zeros(1)}, "'mean' and 'std' come together"),
        ({"mean": torch.zeros(3), "std": torch.ones(3)}, r"must be \[1\]"),
    ],
)
def test_files_that_are_no_synthetic_set(tmp_path, tensors, message):
    path = tmp_path / "set.safetensors"
    whole = {"images": torch.zeros(2, 1, 8, 8), "labels": torch.zeros(2).long()}
    if message.startswith("'images' is missing"):
        del whole["images"]
    save_file(whole | tensors, path)
    with pytest.raises(DDError, match=message):
        synthetic.load(path)
