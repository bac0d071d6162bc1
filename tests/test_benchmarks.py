"""The plain side of the benchmarks computes what the suite computes; the report tells the JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import report, speed, work
from benchmarks.plain import Plain
from benchmarks.work import ROWS, SIDES
from dd.data.dataset import load_dataset
from dd.errors import DDError
from dd.networks import create
from dd.objectives.dm import mean_distance
from dd.objectives.gradients import match_apart, match_together
from dd.rng import generator
from dd.training import Recipe, accuracy, train

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "random.safetensors"
    speed.synthetic_data(path, per_class=(6, 3))
    return load_dataset(path)


@pytest.fixture
def plain(dataset):
    return Plain(dataset.train, dataset.test, 10, batch_real=6)


@pytest.fixture
def networks(plain, dataset):
    """The suite's ConvNet and the plain one with the same weights."""
    ours = create("convnet", 3, (32, 32), 10, generator=generator(1))
    theirs = plain.network()
    with torch.no_grad():
        for target, source in zip(theirs.parameters(), ours.parameters(), strict=True):
            target.copy_(source)
    return ours, theirs


def normalised(dataset):
    """The real batches [10, 6, 3, 32, 32] that a plain step of 6 images a class sees."""
    return torch.stack([dataset.train.take(members) for members in dataset.train.by_class])


@pytest.mark.parametrize("match", [match_apart, match_together])
def test_matching_distance_and_image_gradient_agree(plain, networks, dataset, match):
    ours, theirs = networks
    images, optimizer = plain.synthetic(ipc=2)
    before = images.detach().clone()
    loss = plain.dc(images, optimizer, theirs)
    real, synthetic = normalised(dataset), before.unflatten(0, (10, 2))
    if match is match_apart:
        real, synthetic = real.unbind(), synthetic.unbind()
    expected, gradient = match(ours, real, synthetic)
    assert loss == pytest.approx(expected.item(), rel=1e-4)
    gradient = torch.cat(list(gradient))
    scale = gradient.abs().max()
    torch.testing.assert_close(images.grad / scale, gradient / scale, rtol=0, atol=1e-4)
    torch.testing.assert_close(images.detach(), before - 0.1 * images.grad, rtol=0, atol=1e-6)


def test_distribution_matching_agrees(plain, networks, dataset):
    ours, theirs = networks
    images, optimizer = plain.synthetic(ipc=2)
    leaf = images.detach().clone().requires_grad_(True)
    loss = plain.dm(images, optimizer, theirs)
    real = torch.stack([ours.embed(batch) for batch in normalised(dataset)])
    expected = mean_distance(real, ours.embed(leaf).unflatten(0, (10, 2)))
    (gradient,) = torch.autograd.grad(expected, leaf)
    assert loss == pytest.approx(expected.item(), rel=1e-4)
    scale = gradient.abs().max()
    torch.testing.assert_close(images.grad / scale, gradient / scale, rtol=0, atol=1e-4)


def test_training_and_accuracy_agree(plain, networks, dataset):
    ours, theirs = networks
    images, _ = plain.synthetic(ipc=1)  # one batch: its order changes nothing but rounding
    labels = torch.arange(10)
    recipe = Recipe(3, 0.05, 0.9, 5e-4, 256, "none", "constant")
    sgd = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    start = [p.detach().clone() for p in theirs.parameters()]
    plain.train(theirs, plain.loader(images), sgd, recipe.epochs)
    train([ours], images.detach(), labels, recipe, [generator(0)])
    moved = 0.0
    for one, other, first in zip(ours.parameters(), theirs.parameters(), start, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
        moved = max(moved, (other - first).abs().max().item())
    assert moved > 1e-3
    assert plain.accuracy(theirs) == pytest.approx(accuracy(ours, dataset.test))


def test_plain_convnet_is_the_papers(plain):
    assert sum(p.numel() for p in plain.network().parameters()) == 320_010


@pytest.mark.parametrize("key", ["dsa-ipc1", "dm-ipc1", "evaluation-ipc10"])
@pytest.mark.parametrize("side", SIDES)
def test_every_piece_of_a_row_runs(dataset, key, side):
    row = ROWS[key]
    pieces = SIDES[side](row, dataset, 1)
    assert all(pieces[piece]() >= 1 for piece in row.pieces)


def test_rows_are_those_of_the_settings():
    assert ROWS["dc-ipc10"].pieces == {"matching step": 10, "inner epoch": 450}
    assert ROWS["evaluation-ipc10"].pieces == {"epoch of a network": 3000, "test of a network": 10}
    assert work.EVALUATION.epochs == 300


def test_a_row_is_composed_within_rounds():
    row = work.Row("dc", 10, "iteration", {"matching step": 10, "inner epoch": 450})

    def answer(seconds):
        return {"seconds": seconds, "units": 1, "peak_mb": {"host": 7.0}}

    # one round plain 10·2 + 450·0.1 = 65 against 10 + 22.5 = 32.5; two rounds 3 × slower on a
    # side each
    rounds = [
        {
            "matching step": {"plain": answer(2.0 * a), "suite": answer(1.0 * b)},
            "inner epoch": {"plain": answer(0.1 * a), "suite": answer(0.05 * b)},
        }
        for a, b in ((1, 1), (3, 1), (1, 3))
    ]
    sides = {"plain": ("plain", "default"), "suite": ("suite", "tuned")}
    result = speed.summarise(row, sides, rounds)
    assert result["sides"]["plain"]["seconds"] == 65.0
    assert result["sides"]["suite"]["seconds"] == 32.5
    assert result["ratios"] == {"plain": 2.0}
    assert result["sides"]["plain"]["pieces"]["matching step"] == [2.0, 6.0, 2.0]


def test_measuring_through_workers(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    data, out = tmp_path / "random.safetensors", tmp_path / "speed.json"
    speed.synthetic_data(data, per_class=(6, 3))
    words = ["--quick", "--threads", "1", "--device", "cpu", "--rows", "dm-ipc1"]
    command = [sys.executable, "-m", "benchmarks.speed", *words, "--data", data, "--out", out]
    subprocess.run(command, check=True, timeout=120)
    facts = json.loads(out.read_text())
    (row,) = facts["rows"]
    assert set(row["sides"]) == {"plain", "plain_tuned", "suite"}
    for side in row["sides"].values():
        assert side["seconds"] > 0
        assert side["peak_mb"]["host"] > 50
    seconds = {label: side["seconds"] for label, side in row["sides"].items()}
    assert row["ratios"]["plain"] == pytest.approx(seconds["plain"] / seconds["suite"], rel=0.01)
    text = report.speed(facts)
    assert f"**{row['ratios']['plain_tuned']:.2f}**" in text


def test_an_unknown_row_is_told(tmp_path):
    arguments = type("Options", (), {"rows": ["dc-ipc2"]})
    with pytest.raises(DDError, match="dc-ipc2"):
        speed.run(arguments)


def test_the_readme_tells_the_committed_results():
    readme = (report.HERE / "README.md").read_text(encoding="utf-8")
    assert report.updated(readme, report.render(report.HERE / "results")) == readme
