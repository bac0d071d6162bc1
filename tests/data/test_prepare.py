"""Preparation: what the file holds, its statistics and fingerprint; options that do not fit."""

from __future__ import annotations

import pytest
import torch

from benchmarks.every_stage import small_raw
from dd.artifacts.headers import read_header
from dd.artifacts.tensors import load_tensors
from dd.data.dataset import fingerprint
from dd.data.prepare import channel_statistics, prepare
from tests.support.pictures import cli


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
