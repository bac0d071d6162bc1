"""Sets beside datasets that they do or do not belong to."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
import torch

from dd.artifacts.tensors import load_tensors, save_tensors
from dd.command import main
from dd.data import synthetic
from dd.data.dataset import load_dataset
from dd.data.fit import OTHER, SAME, UNKNOWN, fit, in_split
from dd.data.synthetic import SyntheticSet
from dd.errors import DDError


@pytest.fixture
def made(digits):
    """Two images of each class, ours by its header."""
    indices = torch.stack([of[:2] for of in digits.train.by_class], 1).flatten()
    header = {"classes": digits.classes, "fingerprint": digits.fingerprint, "whitening": "none"}
    images, labels = digits.train.take(indices), digits.train.labels[indices]
    return SyntheticSet(images + 0.3, labels, *digits.mean_and_std(), header=header)


def permuted(made, order, soft=False):
    """The same set as somebody has it whose class n is our class ``order[n]``."""
    theirs = {ours: n for n, ours in enumerate(order)}
    labels = torch.tensor([theirs[int(label)] for label in made.labels])
    if soft:
        labels = torch.nn.functional.one_hot(labels, len(order)).float() * 0.9 + 0.01
    classes = [made.header["classes"][ours] for ours in order]
    return replace(made, labels=labels, header=made.header | {"classes": classes})


ORDER = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]


def test_ours(made, digits):
    assert fit(made, digits) == (made, [], SAME)


def test_classes_in_another_order_are_matched_by_name(made, digits):
    found, notes, data = fit(permuted(made, ORDER), digits)
    assert found.labels.tolist() == made.labels.tolist()
    assert data == SAME and len(notes) == 1 and "matched by name" in notes[0]
    soft, _, _ = fit(permuted(made, ORDER, soft=True), digits)
    assert soft.hard_labels.tolist() == made.labels.tolist()
    assert soft.labels.gather(1, made.labels[:, None]).sub(0.91).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: [*c[:9], "truck"], "unknown class of digits 'truck'"),
        (lambda c: c[:9], "names 9 classes (9 different ones), dataset digits has 10"),
        (lambda c: [*c[:9], c[0]], "names 10 classes (9 different ones)"),
        (lambda c: "0123456789", "'classes' in its header must be a list of names"),
        (lambda c: list(range(10)), "'classes' in its header must be a list of names"),
        (lambda c: {"0": 1}, "'classes' in its header must be a list of names"),
    ],
)
def test_other_classes_are_refused(made, digits, change, message):
    other = replace(made, header=made.header | {"classes": change(digits.classes)})
    with pytest.raises(DDError) as caught:
        fit(other, digits)
    assert message in str(caught.value)


def test_other_data_is_told(made, digits):
    other = replace(made, header=made.header | {"fingerprint": "0123"})
    found, (note,), data = fit(other, digits)
    assert found is other and data == OTHER
    assert "fingerprint 0123" in note and digits.fingerprint in note


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (lambda x: x - 1, "normalised like digits"),
        (lambda x: x.clamp(0, 1), "in 0 to 1: are they pixels?"),
        (lambda x: x.clamp(0, 1) * 255, "values go from 0 to 255: are they pixels?"),
    ],
)
def test_what_is_assumed_of_a_set_that_says_nothing(made, digits, values, words):
    images = values(made.images)
    found, notes, data = fit(SyntheticSet(images, made.labels, None, None), digits)
    assert found.labels is made.labels and data == UNKNOWN
    assert "names no classes" in notes[0] and words in notes[1] and len(notes) == 2


def test_test_images_are_found(digits):
    places = torch.tensor([7, 0, 300])
    images = torch.cat([digits.test.take(places), digits.train.take(torch.arange(5))])
    images[1] += 0.002  # one that was moved, if by less than a pixel's step
    images[2] += 1.0
    assert in_split(images, digits, digits.test) == [0, 1]


def run(digits_file, path, out, *more):
    command = ["evaluate", "--synthetic", str(path), "--data", str(digits_file), "--arch", "mlp"]
    words = ["--networks", "1", "--epochs", "1", "--width-factor", "0.1", "--device", "cpu"]
    return main([*command, *words, "--out", str(out), *more])


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_evaluation_says_and_keeps_it(made, digits, digits_file, tmp_path, capsys):
    path = tmp_path / "theirs.safetensors"
    theirs = permuted(made, ORDER)
    synthetic.save(path, replace(theirs, header=theirs.header | {"fingerprint": "0123"}))
    assert run(digits_file, path, tmp_path / "a.csv") == 0
    said = capsys.readouterr().out
    assert "matched by name" in said and "made from other data" in said
    synthetic.save(tmp_path / "ours.safetensors", made)
    assert run(digits_file, tmp_path / "ours.safetensors", tmp_path / "b.csv") == 0
    ((theirs,), (ours,)) = rows(tmp_path / "a.csv"), rows(tmp_path / "b.csv")
    assert (theirs["set_data"], ours["set_data"]) == (OTHER, SAME)
    assert theirs["accuracy"] == ours["accuracy"]  # the same images and labels


@pytest.mark.parametrize("stage", ["evaluate", "relabel", "cams"])
def test_test_images_in_a_set_are_refused(stage, made, digits, digits_file, tmp_path, capsys):
    path, out = tmp_path / "leaky.safetensors", tmp_path / "out.safetensors"
    images = made.images.clone()
    images[3] = digits.test.take(torch.tensor([5]))[0]
    synthetic.save(path, replace(made, images=images))
    network = tmp_path / "mlp.safetensors"
    spec = "convnet" if stage == "cams" else "mlp"
    words = ["--network", spec, "--epochs", "1", "--width-factor", "0.1", "--device", "cpu"]
    assert main(["pretrain", "--data", str(digits_file), "--out", str(network), *words]) == 0
    if stage == "evaluate":

        def call(*more):
            return run(digits_file, path, tmp_path / "out.csv", *more)
    else:
        option = "--teacher" if stage == "relabel" else "--pretrained"
        command = [stage, "--synthetic", str(path), "--data", str(digits_file), option]
        command += [str(network), "--width-factor", "0.1", "--device", "cpu", "--out", str(out)]
        command += ["--views", "1"] if stage == "relabel" else []

        def call(*more):
            return main([*command, *more])

    capsys.readouterr()
    assert call() == 2
    said = capsys.readouterr().err
    assert "1 of its 20 images is in the test split of digits (the first is image 3)" in said
    assert "--allow-test-images" in said
    assert call("--allow-test-images") == 0


def test_images_that_both_splits_hold_are_only_noted(made, digits_file, tmp_path, capsys):
    """As those of a dataset whose training images occur again among its test images."""
    tensors, header = load_tensors(digits_file, "dataset")
    for place in (3, 4):
        tensors["test_images"][place] = tensors["train_images"][place]
    data = tmp_path / "twice.safetensors"
    save_tensors(data, "dataset", tensors, header)
    twice = load_dataset(data)
    images = made.images.clone()
    images[7] = twice.train.take(torch.tensor([3]))[0]
    path = tmp_path / "real.safetensors"
    synthetic.save(path, replace(made, images=images))
    assert run(data, path, tmp_path / "a.csv") == 0
    said = capsys.readouterr().out
    assert "1 of its 20 images is in the training and in the test split of digits" in said
    images[8] = twice.test.take(torch.tensor([5]))[0]  # no training image
    synthetic.save(path, replace(made, images=images))
    assert run(data, path, tmp_path / "b.csv") == 2
    said = capsys.readouterr().err
    assert "1 of its 20 images is in the test split of digits (the first is image 8)" in said
