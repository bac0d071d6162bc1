"""The plain side of the benchmarks computes what the suite computes; the report tells the JSON."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import subprocess
import sys

import pytest
import torch

from benchmarks import (
    difference,
    gpu,
    kernels,
    metadd,
    optimisers,
    precision,
    report,
    rounding,
    scaling,
    speed,
    starts,
    unrolling,
    work,
)
from benchmarks.plain import Plain
from benchmarks.whole import WholeMatching
from benchmarks.work import ROWS, SIDES, Row
from dd.artifacts.text import load_json, save_json, save_rows
from dd.data.dataset import load_dataset
from dd.distill.gradients import match_apart, match_together
from dd.distill.objectives.dm import mean_distance
from dd.errors import DDError
from dd.networks.build import create
from dd.rng import generator
from dd.runtime import fork_server
from dd.runtime import precision as dd_precision
from dd.training.ensemble import ensemble
from dd.training.train import accuracy, augmented, train, train_epoch
from tests.support.pretended_gpu import pretended_gpu
from tests.support.runs import ROOT
from tests.support.training import recipe


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def random_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "random.safetensors"
    speed.synthetic_data(path, per_class=(6, 3))
    return path


@pytest.fixture(scope="module")
def dataset(random_file):
    return load_dataset(random_file)


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
    known = recipe(epochs=3, batch=256, schedule="constant")
    sgd = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    start = [p.detach().clone() for p in theirs.parameters()]
    plain.train(theirs, plain.loader(images), sgd, known.epochs)
    train([ours], images.detach(), labels, known, [generator(0)])
    moved = 0.0
    for one, other, first in zip(ours.parameters(), theirs.parameters(), start, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
        moved = max(moved, (other - first).abs().max().item())
    assert moved > 1e-3
    assert plain.accuracy(theirs) == pytest.approx(accuracy(ours, dataset.test))


@pytest.mark.parametrize("objective", [None, WholeMatching])
def test_trajectory_matching_agrees(plain, networks, dataset, objective):
    """Loss, image gradient and rate gradient of three steps, all images in each."""
    changes = {"augment": "none", "student_steps": 3, "lr_lr": 1e-4}
    row = Row("mtt", 1, "iteration", {}, changes)
    matching, canvas = work.bound(row, dataset, objective)
    before, settings = canvas.images().clone(), matching.settings
    loss = matching.iteration(1, canvas)["loss"]
    gradient = (before - canvas.images()) / settings.lr_img
    by_rate = (settings.lr_student - float(matching.rate)) / settings.lr_lr
    segment = matching.trajectories.segment("convnet", 0, 0, settings.expert_epochs)
    images = before.clone().requires_grad_(True)
    rate = torch.tensor(settings.lr_student, requires_grad=True)
    optimizers = torch.optim.SGD([images], lr=1.0), torch.optim.SGD([rate], lr=1.0)
    start, target = segment.start, segment.target
    expected = plain.mtt(images, rate, optimizers, networks[1], start, target, steps=3)
    assert loss == pytest.approx(expected, rel=1e-4)
    assert by_rate == pytest.approx(rate.grad.item(), rel=1e-3)
    scale = images.grad.abs().max()
    assert scale > 0 and rate.grad.item() != 0
    torch.testing.assert_close(gradient / scale, images.grad / scale, rtol=0, atol=1e-3)


def test_experts_are_trained_alike(plain, networks, dataset):
    """A batch of all real images: their order changes nothing but rounding."""
    ours, theirs = networks
    recipe = dataclasses.replace(work.BUFFER, augment="none", lr=0.05)
    sgd = torch.optim.SGD(theirs.parameters(), lr=0.05)
    start = [p.detach().clone() for p in theirs.parameters()]
    plain.train(theirs, plain.real_loader(), sgd, 2)
    experts = ensemble([ours])
    optimizer, order = recipe.new_optimizer(experts.parameters), [generator(0)]
    feed = augmented(dataset.train, recipe.augment)
    for _ in range(2):
        train_epoch(experts, optimizer, feed, dataset.train.labels, recipe, order)
    assert work.BUFFER.momentum == work.BUFFER.weight_decay == 0
    for one, other, first in zip(ours.parameters(), theirs.parameters(), start, strict=True):
        torch.testing.assert_close(one - first, other - first, rtol=1e-2, atol=1e-5)
    assert (ours.classifier.weight - start[-2]).abs().max() > 1e-3


def test_plain_convnet_is_the_papers(plain):
    assert sum(p.numel() for p in plain.network().parameters()) == 320_010


SHORT = {"mtt-ipc1": {"student_steps": 2}}


@pytest.mark.parametrize("key", ["dsa-ipc1", "dm-ipc1", "evaluation-ipc10", "buffer", *SHORT])
@pytest.mark.parametrize("side", ["plain", "suite", "bf16"])
def test_every_piece_of_a_row_runs(dataset, key, side):
    row = dataclasses.replace(ROWS[key], changes=SHORT.get(key, {}))
    pieces = SIDES[side](row, dataset, 1)
    assert all(pieces[piece]() >= 1 for piece in row.pieces)


@pytest.mark.parametrize(
    "key", ["dc-ipc1", "dsa-ipc10", "dm-ipc1", "evaluation-ipc10", "buffer", *SHORT]
)
def test_the_plain_side_runs_on_a_gpu(random_file, key):
    row = dataclasses.replace(ROWS[key], changes=SHORT.get(key, {}))
    with pretended_gpu():
        pieces = SIDES["plain"](row, load_dataset(random_file, torch.device("cuda")), 1)
        assert all(pieces[piece]() >= 1 for piece in row.pieces)


def test_rows_are_those_of_the_settings(dataset):
    assert ROWS["dc-ipc10"].pieces == {"matching step": 10, "inner epoch": 450}
    assert ROWS["evaluation-ipc10"].pieces == {"epoch of a network": 3000, "test of a network": 10}
    assert work.EVALUATION.epochs == 300
    assert work.UNROLLED[2].changes == {"student_steps": 50}
    assert ROWS["buffer"].pieces == {"batch of 256 images": 50_000 / 256}
    assert work.BUFFER.batch == 256 and "rotate" in work.BUFFER.augment
    for key, steps in {"mtt-ipc1": 50, "mtt-ipc10": 30}.items():
        matching, canvas = work.bound(ROWS[key], dataset)
        assert matching.settings.student_steps == steps
        assert len(canvas.images()) == 10 * ROWS[key].ipc


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


@pytest.mark.slow
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


class InProcess:
    """A worker without a process of its own: small steps on a small network's worth of data."""

    def __init__(self, row, side, data, epochs, **_):
        (known,) = [known for known in work.UNROLLED if known.key == row]
        ((setting, steps),) = known.changes.items()
        quick = dataclasses.replace(known, changes={setting: steps // 10})
        self.side = side
        self.pieces = SIDES[side](quick, load_dataset(data), epochs)
        whole = 100.0 * steps
        self.peak = {"whole": whole, "every": whole, "suite": 0.9 * whole, "flat": 700.0}[side]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def do(self, piece):
        assert self.pieces[piece]() == 1
        seconds = {"whole": 2.0, "every": 2.0, "suite": 2.1, "flat": 2.5}[self.side]
        return {"seconds": seconds, "units": 1, "peak_mb": {"host": self.peak}}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mtt", "dd"])
def test_unrolling_is_measured_and_told(method, tmp_path, monkeypatch):
    """A row for each number of steps, a table of all sides, a figure."""
    out = tmp_path / "results" / "unrolling.json"
    monkeypatch.setattr(speed, "Worker", InProcess)
    words = ["--out", str(out), "--device", "cpu", "--threads", "1", "--repeats", "1"]
    words += ["--method", method, "--steps", "10", "20"]
    monkeypatch.setattr(sys, "argv", ["unrolling", *words])
    unrolling.main()
    facts = json.loads(out.read_text())
    assert [row["steps"] for row in facts["rows"]] == [10, 20]
    assert facts["rows"][1]["sides"]["whole"]["peak_mb"] == {"host": 2000.0}
    text = report.render(out.parent)
    assert f" {method.upper()}, IPC 1, an iteration." in text
    assert "| 20 | 2 | 2.1 | 2.5 | **1.05 ×** | **1.25 ×** | 2000 | 1800 | 700 |" in text
    assert text.endswith("![unrolling](results/unrolling.png)")
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_precisions_are_measured_and_told(tmp_path, monkeypatch):
    """A row for each kind of work, the suite in both columns; the ratio is that within rounds."""
    out, asked = tmp_path / "results" / "precision.json", []

    class Worker(InProcess):
        def __init__(self, row, side, data, **_):
            asked.append((row, side))
            self.side = side

        def do(self, piece):
            seconds = {"suite": 3.0, "bf16": 2.0}[self.side]
            return {"seconds": seconds, "units": 1, "peak_mb": {"host": 100 * seconds}}

    monkeypatch.setattr(speed, "Worker", Worker)
    monkeypatch.setattr(precision, "synthetic_data", lambda path: None)
    words = ["--out", str(out), "--device", "cpu", "--threads", "1", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["precision", *words, "--rows", "dm-ipc1", "buffer"])
    precision.main()
    assert asked == [(row, side) for row in ("dm-ipc1", "buffer") for side in ("suite", "bf16")]
    text = report.render(out.parent)
    assert "| dm, IPC 1: iteration | 3 | 2 | **1.50 ×** | 300 | 200 |" in text
    assert "| buffer: expert-epoch | 586 | 391 | **1.50 ×** | 300 | 200 |" in text
    assert "mtt-ipc1" not in precision.MEASURED and "dc-ipc10" in precision.MEASURED


def test_a_side_computes_in_its_precision(dataset):
    row, chosen = ROWS["dm-ipc1"], dd_precision.chosen
    SIDES["bf16"](row, dataset, 1)
    assert chosen() == "bf16"
    SIDES["suite"](row, dataset, 1)
    assert chosen() == "float32"


def test_the_difference_of_two_evaluations(tmp_path, capsys, monkeypatch):
    """By hand: changes 1, 2, 3 have mean 2, deviation 1, error 1/√3; t(0.975, 2) = 4.30265."""
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]

    def write(path, by_arch):
        rows = [
            {"arch": arch, "seed": seed, "accuracy": accuracy}
            for arch, of in by_arch.items()
            for seed, accuracy in of.items()
        ]
        save_rows(path, rows)

    write(paths[0], {"mlp": {0: 20.0, 1: 21.0, 2: 22.0}})
    write(paths[1], {"mlp": {2: 25.0, 0: 21.0, 1: 23.0}})
    (mlp,) = difference.differences(*paths).values()
    assert (mlp.count, mlp.first, mlp.second, mlp.mean) == (3, 21.0, 23.0, 2.0)
    assert mlp.half == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    monkeypatch.setattr(sys, "argv", ["difference", *map(str, paths)])
    difference.main()
    assert capsys.readouterr().out == (
        "mlp: 21.00 and 23.00 %, difference +2.00 ± 2.48 points (n=3)\n"
    )
    write(paths[1], {"mlp": {0: 21.0, 1: 23.0, 3: 25.0}})
    with pytest.raises(DDError, match="its networks and seeds are not those of"):
        difference.differences(*paths)
    write(paths[1], {"mlp": {0: 21.0}})
    with pytest.raises(DDError, match="has 1 network of mlp, 2 are needed"):
        difference.differences(paths[1], paths[1])
    paths[1].write_text("a,b\n1,2\n")
    with pytest.raises(DDError, match="is no file of"):
        difference.differences(*paths)


@pytest.mark.slow
def test_metadd_is_measured_and_told(tmp_path, monkeypatch):
    """A row for each number of networks, in a table of both sides."""
    out = tmp_path / "results" / "metadd.json"

    def in_process(side, count, options):
        known = {**vars(options), "side": side, "networks": count}
        told = metadd.work(argparse.Namespace(**known))
        assert told["seconds"] > 0 and told["peak_mb"]["host"] > 50
        peak = 400.0 * count if side == "whole" else 700.0
        return {"seconds": {"whole": 2.0, "suite": 2.5}[side], "peak_mb": {"host": peak}}

    monkeypatch.setattr(metadd, "measure", in_process)
    words = ["--out", str(out), "--device", "cpu", "--threads", "1", "--repeats", "1"]
    words += ["--images", "2", "--networks", "1", "3"]
    monkeypatch.setattr(sys, "argv", ["metadd", *words])
    metadd.main()
    text = report.render(out.parent)
    assert "2 images of 32 × 32; auxiliary networks resnet18_bn" in text
    assert "| 1 | 2 | 2.5 | **1.25 ×** | 400 | 700 |" in text
    assert "| 3 | 2 | 2.5 | **1.25 ×** | 1200 | 700 |" in text


def test_a_row_without_synthetic_images_is_told(tmp_path):
    """``buffer`` has no IPC; its pieces occur a number of times that is not whole."""
    row = ROWS["buffer"]
    (piece,) = row.pieces
    answer = {"seconds": 0.5, "units": 20, "peak_mb": {"host": 7.0}}
    sides = {"plain": ("plain", "default"), "suite": ("suite", "tuned")}
    result = speed.summarise(row, sides, [{piece: dict.fromkeys(sides, answer)}])
    origin = {"torch": "2", "code": "x", "created": "2026-01-01", "machine": MACHINE}
    facts = {"rows": [result], "provenance": origin, "threads": 1, "repeats": 1, "note": ""}
    text = report.speed(facts | {"load_after": [0.0]})
    assert "| buffer: expert-epoch | 97.7 | 97.7 |" in text
    assert "- buffer: 195.3125 × batch of 256 images (measured 20/20 at a time" in text


MACHINE = {"gpu": None, "cores": 1, "cpu": "a CPU", "load": [0.0], "libc": "glibc"}


def test_an_unknown_row_is_told(tmp_path):
    arguments = type("Options", (), {"rows": ["dc-ipc2"]})
    with pytest.raises(DDError, match="dc-ipc2"):
        speed.run(arguments)


def test_the_pages_tell_the_committed_results():
    for page in (report.README, *report.PAGES.values()):
        text = page.read_text(encoding="utf-8")
        assert report.updated(text, report.render(report.HERE / "results", page)) == text


def test_optimisers_are_measured_and_told(tmp_path, monkeypatch):
    """The same network takes the same steps in both ways, to rounding."""
    out, made = tmp_path / "optimisers.json", []

    def noted(*arguments, **options):
        made.append(create(*arguments, **options))
        return made[-1]

    words = ["--networks", "convnet", "--repeats", "1", "--threads", "1", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["optimisers", *words])
    monkeypatch.setattr(optimisers, "WIDTHS", (0.1,))
    monkeypatch.setattr(optimisers, "create", noted)
    optimisers.main()
    facts = load_json(out)
    assert [row["optimizer"] for row in facts["rows"]] == ["sgd", "adamw"]
    told = report.render(tmp_path)
    assert told.startswith("### optimisers") and told.count("| convnet | 0.1 |") == 2
    for torchs, ours in (made[:2], made[2:]):
        for one, other in zip(torchs.parameters(), ours.parameters(), strict=True):
            # a bias before a norm has no gradient but rounding, and Adam makes steps of that
            if one.ndim > 1:
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_rounding_is_measured_and_told(tmp_path, monkeypatch):
    """The real side alone in bf16, then both, which errs more. MTT stays float32 bit by bit."""
    small = "convnet:depth=2,width=8"
    found = rounding.measure(rounding.cases()["DC, IPC 1", "convnet"], small, 0)
    assert found["float32"][0] < found["bf16"][0] < found["all"][0] < 0.1
    unrolled = rounding.measure(rounding.of_unrolling, small, 0)
    assert unrolled["float32"] == unrolled["bf16"] != unrolled["all"]

    out = tmp_path / "results" / "rounding.json"
    answers = iter([1e-3, 5e-3, 2e-3])  # the median over seeds counts

    def measured(case, spec, seed):
        return dict.fromkeys(("float32", "bf16", "all"), (next(answers), 1.0))

    monkeypatch.setattr(rounding, "cases", lambda: {("DC", "convnet"): None})
    monkeypatch.setattr(rounding, "measure", measured)
    monkeypatch.setattr(sys, "argv", ["rounding", "--out", str(out), "--threads", "1"])
    rounding.main()
    assert "| DC | convnet | 2.0e-03 | 2.0e-03 | 2.0e-03 |" in report.render(out.parent)


def test_the_benchmark_of_a_gpu_runs_on_the_cpu(tmp_path, monkeypatch, capsys):
    """``--quick`` takes a step of each part; the report renders it, and rates come from it."""
    out = tmp_path / "gpu.json"
    words = ["gpu", "--device", "cpu", "--quick", "--threads", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    gpu.main()
    facts = load_json(out)
    assert facts["failed"] == {} and facts["skipped"] == []
    assert facts["checks"].keys() == set(gpu.QUICK_CHECKS)
    same = {"error": 0.0, "points": 0.0, "same": True, "ok": True}
    assert all(found == same for found in facts["checks"].values())  # the CPU against itself
    assert facts["matching"]["IPC 1"]["seconds"].keys() == {"apart", "together"}
    assert [one["seconds"].keys() for one in facts["graphs"].values()] == [{"as it is"}] * 2
    assert facts["stacking"]["10 images"].keys() == {"in turn", "together"}
    assert "as it is" in facts["training"] and "compiled" not in facts["training"]
    assert facts["rows"]["dm-ipc1"]["ratios"].keys() == {"plain", "bf16"}
    (told,) = facts["profile"].values()
    assert told["launches"] > len(told["kernels"]) > 3 and 0 < told["busy"] <= 2
    shares = [share for _, share in told["kernels"]]
    assert shares == sorted(shares, reverse=True) and 0.5 < sum(shares) <= 1
    text = report.render(tmp_path)
    assert "Within tolerance of the CPU: 3 of 3 checks" in text
    assert "| dm, IPC 1: iteration |" in text
    assert "| dm-ipc1, iteration |" in text and "| epoch of 10 networks |" in text
    ((_, rows),) = scaling.rates(tmp_path).items()
    assert [work for work, _ in rows] == ["dm, IPC 1"]


def test_parts_and_rows_of_the_benchmark_of_a_gpu_can_be_chosen(tmp_path, monkeypatch, capsys):
    out = tmp_path / "gpu.json"
    words = ["gpu", "--device", "cpu", "--threads", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [*words, "--parts", "rows", "training", "--rows", "buffer"])
    monkeypatch.setattr(gpu, "measure", lambda row, *rest, **more: row.key)
    monkeypatch.setattr(gpu, "training", lambda device, way, repeats: 1.0)
    monkeypatch.setattr(gpu, "synthetic_data", lambda *words: None)
    gpu.main()
    facts = load_json(out)
    assert facts["parts"] == ["rows", "training"] and facts["rows"] == {"buffer": "buffer"}
    assert facts["asked_rows"] == ["buffer"]
    assert facts["training"].keys() == {name for name, way in gpu.WAYS.items() if not way.compiled}
    assert facts["skipped"] == [] and not any(facts[part] for part in ("checks", "graphs"))
    save_json(out, facts | {"rows": {}})
    text = report.render(tmp_path)
    assert "checks" not in text and "asked for: rows, training; only these rows: buffer." in text


def test_a_step_that_fails_or_has_no_time_is_said(capsys):
    facts = {"failed": {}, "skipped": [], "rows": {}}

    def broken():
        raise RuntimeError("no kernel\nmore")

    gpu.take(gpu.Step("rows", "a", broken), facts, math.inf)
    gpu.take(gpu.Step("rows", "b", broken), facts, -math.inf)
    gpu.take(gpu.Step("rows", "c", lambda: 3), facts, math.inf)
    assert facts["failed"] == {"rows: a": "RuntimeError: no kernel"}
    assert (facts["skipped"], facts["rows"]) == (["rows: b"], {"c": 3})


def test_a_check_of_a_gpu_sees_what_differs():
    one = {
        "images": torch.ones(4),
        "labels": torch.arange(3),
        "rows": [{"accuracy": "50.0", "loss": "2.0", "arch": "mlp"}],
        "experts": [{"number": 0, "test_accuracy": 80.0}],
        "reconstruction": {"mse": 0.1},
    }

    def found(**changes):
        return gpu.errors(one, one | changes)

    assert found() == {"error": 0.0, "points": 0.0, "same": True, "ok": True}
    near = found(images=torch.tensor([1.0, 1.0, 1.0, 1.001]))
    assert near["error"] == pytest.approx(0.001 / 2, rel=1e-3) and near["ok"]
    row = one["rows"][0]
    assert found(rows=[row | {"accuracy": "45.0"}])["points"] == 5
    assert found(experts=[{"number": 0, "test_accuracy": 77.0}])["points"] == 3
    assert found(rows=[row | {"loss": "2.01"}])["error"] == pytest.approx(0.005)
    for changes in (
        {"images": torch.zeros(4)},
        {"images": torch.full((4,), math.nan)},
        {"labels": torch.tensor([0, 2, 1])},
        {"rows": [row | {"accuracy": "5.0"}]},
        {"rows": [row | {"accuracy": "nan"}]},
        {"rows": [row | {"loss": math.nan}]},
        {"rows": [row | {"arch": "lenet"}]},
        {"experts": [{"number": 0, "test_accuracy": 10.0}]},
        {"experts": [{"number": 1, "test_accuracy": 80.0}]},
        {"reconstruction": {"mse": 0.2}},
    ):
        assert not found(**changes)["ok"], changes


def test_what_is_captured_is_what_the_suite_computes():
    """The student's gradient against one graph of all steps; a training step against its own."""
    cpu = torch.device("cpu")
    found = kernels.unrolled(cpu, 1, steps=2)()
    images = [kernels.images_of(step, 10, cpu).requires_grad_() for step in range(2)]
    network = kernels.network_of(0, cpu)
    names = [name for name, _ in network.named_parameters()]
    now = list(network.parameters())
    for batch in images:
        logits = torch.func.functional_call(network, dict(zip(names, now, strict=True)), batch)
        loss = torch.nn.functional.cross_entropy(logits, torch.arange(10))
        steps = torch.autograd.grad(loss, now, create_graph=True)
        now = [one - 0.01 * step for one, step in zip(now, steps, strict=True)]
    expected = torch.cat(torch.autograd.grad(sum(one.sum() for one in now), images))
    torch.testing.assert_close(found / expected.norm(), expected / expected.norm())

    stepped = kernels.trained(cpu, 4)()
    loss = torch.nn.functional.cross_entropy(network(kernels.images_of(0, 4, cpu)), torch.arange(4))
    own = torch.autograd.grad(loss, list(network.parameters()))
    first = own[0].numel()
    torch.testing.assert_close(stepped[:first].view_as(own[0]), own[0])


@pytest.mark.parametrize(
    ("error", "wrong"), [(1e-6, []), (0.5, ["matching, IPC 1"]), (math.nan, ["matching, IPC 1"])]
)
def test_a_graph_that_computes_something_else_is_said(error, wrong):
    facts = {"matching": {"IPC 1": {"graph_error": error}, "IPC 10": {"graph_error": None}}}
    assert gpu.wrong_graphs(facts) == wrong


def test_rounding_is_no_other_result_where_many_steps_multiply_it():
    """As the names of what is measured say."""
    names = list(gpu.once(torch.device("cuda"), quick=False))
    facts = {"graphs": {name: {"graph_error": 0.1} for name in names}}
    (long,) = gpu.BY_ROUNDING
    assert gpu.wrong_graphs(facts) == [f"graphs, {name}" for name in names if name != long]
    facts["graphs"][long]["graph_error"] = 0.5
    assert f"graphs, {long}" in gpu.wrong_graphs(facts)


def test_the_search_of_cudnn_lasts_for_its_step(monkeypatch):
    seen = []

    def compare(ways, repeats, device):
        seen.append(torch.backends.cudnn.benchmark)
        return {"step": 1.0}

    monkeypatch.setattr(gpu, "compare", compare)
    for way in (gpu.WAYS["as it is"], gpu.WAYS["searched"]):
        gpu.training(torch.device("cpu"), way, 1)
        assert not torch.backends.cudnn.benchmark
    assert seen == [False, True]


def test_starts_are_measured_and_told(tmp_path, monkeypatch):
    """Each command works; those in a process of their own are left out here, as they take long."""
    out, made = tmp_path / "starts.json", []
    taken = starts.run

    def noted(words, environment):
        made.append((words[0], served := fork_server.VARIABLE in environment))
        if served:
            taken(words, environment)

    words = ["--repeats", "1", "--threads", "1", "--device", "cpu", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["starts", *words])
    monkeypatch.setattr(starts, "run", noted)
    starts.main()
    stages = [line.split()[0] for line in starts.COMMANDS.values()]
    both = [(stage, served) for stage in stages for served in 2 * (False, True)]
    assert made == both
    told = report.render(tmp_path)
    assert told.startswith("### starts") and told.count("| **") == len(stages)
