"""Input that is unusual and welcome."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from dd.artifacts.tensors import load_tensors
from dd.artifacts.text import load_rows
from dd.command import main
from tests.support.broken import image_folder
from tests.support.commands import EVALUATE, HARD, command


@pytest.fixture
def exotic(tmp_path):
    """An image folder whose own name and class names hold spaces and non-ASCII letters."""
    return image_folder(tmp_path / "Bilder für alle", ("grüner Apfel", "猫", "l'œuf à 50 %"), 5)


def test_any_class_name_works(exotic, tmp_path):
    """From images to accuracies with class names that are not ASCII words."""
    data, out, csv = tmp_path / "ä b.safetensors", tmp_path / "o ü", tmp_path / "é.csv"
    argv = ["--source", "image-folder", "--root", str(exotic), "--out", str(data)]
    assert main(["prepare", *argv]) == 0
    argv = ["--data", str(data), "--objective", "dm", "--ipc", "2", "--snapshots", "1"]
    assert main(["distill", *argv, "--out", str(out), "--network", "mlp"]) == 0
    made = ["--synthetic", str(out / "it1.safetensors"), "--data", str(data), "--out", str(csv)]
    assert main(["evaluate", *made, "--arch", "mlp", "--networks", "1", "--epochs", "1"]) == 0
    assert main(["inspect", str(out / "it1.safetensors")]) == 0
    _, header = load_tensors(out / "it1.safetensors", "synthetic")
    # the order of code points, as sorted() gives it
    assert header["classes"] == ["grüner Apfel", "l'œuf à 50 %", "猫"]
    (row,) = load_rows(csv)
    assert row["dataset"] == "Bilder für alle"
    assert 0 <= float(row["accuracy"]) <= 100


@pytest.mark.slow
def test_a_terminal_that_lacks_letters(exotic, tmp_path):
    """A log or terminal in another encoding must not stop a job."""
    data = tmp_path / "x.safetensors"
    argv = ["prepare", "--source", "image-folder", "--root", str(exotic), "--out", str(data)]
    done = subprocess.run(
        [sys.executable, "-m", "dd", *argv],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Bilder f\\xfcr alle" in done.stdout
    assert load_tensors(data, "dataset")[1]["label"] == "Bilder für alle"


def test_foreign_set_is_welcome(files, tmp_path):
    """Only ``images`` and ``labels``, whatever the header says: the dataset's own normalisation,
    and the training of dc where the method is not known here."""
    images, labels = (load_file(files / "set.safetensors")[name] for name in ("images", "labels"))
    soft = torch.full((10, 10), 0.1)
    for name, tensors, header in (
        ("hard", {"images": images, "labels": labels}, {}),
        ("soft", {"images": images, "labels": soft}, {}),
        ("other", {"images": images, "labels": labels}, {"objective": "theirs", "ipc": "ten"}),
    ):
        path, csv = tmp_path / f"{name}.safetensors", tmp_path / f"{name}.csv"
        save_file(tensors, path, metadata={"dd": json.dumps(header)})
        argv = [*command(EVALUATE, files, tmp_path), "--synthetic", str(path), "--out", str(csv)]
        assert main(argv) == 0
        (row,) = load_rows(csv)
        assert (row["lr"], row["augment"]) == ("0.01", "none")


def test_an_architecture_is_evaluated_once(files, tmp_path):
    """Two spellings of one network are one."""
    argv = command(
        HARD.replace("--arch mlp", "--arch convnet convnet:norm=instance"), files, tmp_path
    )
    assert main([*argv, "--width-factor", "0.05"]) == 0
    assert [row["arch"] for row in load_rows(tmp_path / "e.csv")] == ["convnet"]


def test_a_diverging_evaluation_can_be_recorded(digits_file, tmp_path):
    """The workflow's choice: a setting that fails is a row, its networks answering constantly."""
    made, out = tmp_path / "set", tmp_path / "rows.csv"
    common = ["--data", str(digits_file), "--seed", "0"]
    assert (
        main(["distill", "--objective", "random", "--ipc", "1", "--out", str(made), *common]) == 0
    )
    command = ["evaluate", "--synthetic", str(made / "it0.safetensors"), "--arch", "mlp", *common]
    command += ["--networks", "1", "--epochs", "4", "--lr", "1e30", "--width-factor", "0.1"]
    assert main([*command, "--out", str(out), "--diverged", "record"]) == 0
    (row,) = load_rows(out)
    assert row["diverged"] == "1" and 5 < float(row["accuracy"]) < 15
