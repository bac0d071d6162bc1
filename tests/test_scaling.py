"""The estimate of the full run: counts by hand, files as large as they are, rates that agree."""

import os
from pathlib import Path

import pytest
import yaml

from benchmarks.scaling import DATA, Data, Estimate, enlarged, forward, rates
from dd.__main__ import main
from dd.jobs import Distillation, Evaluation, Shard
from dd.plan import Plan, load_run
from dd.run import Run

CIFAR = DATA["cifar10"]
# the ConvNet on 32 x 32: 3 x 3 convolutions at 32, 16 and 8 pixels, then 2048 values to 10 classes
CONVNET = 2 * (9 * 3 * 128 * 1024 + 9 * 128 * 128 * 256 + 9 * 128 * 128 * 64 + 2048 * 10)


@pytest.fixture(scope="module")
def estimate() -> Estimate:
    return Estimate(Plan(load_run("paper")))


def test_a_forward_pass():
    assert forward("convnet", CIFAR) == CONVNET
    assert forward("mlp", CIFAR) == 2 * (3072 * 128 + 128 * 128 + 128 * 10)


def test_jobs_by_hand(estimate):
    # 10 experts, 50 epochs, 50,000 images, forward and backward
    shard = Shard("cifar10", "none", "convnet", 0)
    assert estimate.operations(shard) == 10 * 50 * 50_000 * 3 * CONVNET
    assert estimate.bytes(shard) == 10 * 51 * 320_010 * 4
    # 1000 iterations of MTT at IPC 1: 50 steps on 10 images, as far as the run's last snapshot goes
    job = Distillation("cifar10", "mtt", 1, 0)
    assert estimate.operations(job) == estimate.plan.distillations[job][-1] * 50 * 10 * 12 * CONVNET
    # DC at IPC 10: 10 matching steps, 9 times 50 epochs of the network on 100 images between them
    job = Distillation("cifar10", "dc", 10, 0)
    step = 10 * (10 * 256 * 3 + 100 * 9) + 9 * 50 * 100 * 3
    assert estimate.operations(job) == estimate.plan.distillations[job][-1] * step * CONVNET


def test_a_teacher_counts_for_itself_and_for_its_students(estimate):
    job = Evaluation(Distillation("cifar10", "dc", 1, 0), 1000, "kd")
    nets = estimate.plan.evaluations[job]
    trained, asked = 300 * 10 * 3 + 10_000, 300 * 10
    total = trained * sum(forward(net, CIFAR) for net in nets)
    total += (trained + len(nets) * asked) * CONVNET
    assert estimate.operations(job) == pytest.approx(5 * total)


def test_sets_are_as_large_as_their_files(digits_file, tmp_path, monkeypatch):
    monkeypatch.setitem(DATA, "digits", Data(1437, 360, 10, 8, 1))
    document = {
        "title": "one",
        "datasets": {"digits": {"source": "digits", "label": "digits"}},
        "seeds": [0],
        "networks": 1,
        "axes": {"ipc": [2], "iterations": [1], "setting": ["baseline"], "arch": ["mlp"]},
        "tables": ["modelpool_ablation"],
        "figures": [],
        "resources": {
            stage: {"threads": 1, "mem_mb": 1000, "runtime": 5}
            for stage in ("prepare", "distill", "evaluate")
        },
    }
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(document))
    small = Estimate(Plan(load_run(str(tmp_path / "one.yaml"))))
    command = ["distill", "--data", str(digits_file), "--objective", "random", "--ipc", "2"]
    assert main([*command, "--out", str(tmp_path / "set"), "--device", "cpu"]) == 0
    size = os.path.getsize(tmp_path / "set/it0.safetensors")
    expected = small.bytes(next(iter(small.plan.distillations)))
    assert expected == 2 * 10 * 64 * 4 and expected < size < expected + 5000


def test_ten_times_the_datasets_are_ten_times_the_jobs(tmp_path, estimate):
    document = enlarged(load_run("paper"), 3)
    (tmp_path / "large.yaml").write_text(yaml.safe_dump(document))
    large = Plan(load_run(str(tmp_path / "large.yaml")))
    for name in ("distillations", "evaluations", "relabellings", "erasings"):
        assert len(getattr(large, name)) == 3 * len(getattr(estimate.plan, name))


def test_measured_rates_agree():
    """The check of the counting rules: rows of one machine, whatever the method."""
    found = rates(Path("benchmarks/results"))
    for where, rows in found.items():
        speeds = [rate for _, rate in rows]
        assert max(speeds) < 1.5 * min(speeds), where


def test_a_run_of_the_suite_is_unchanged_by_it():
    run = load_run("paper")
    assert isinstance(run, Run) and enlarged(run, 2) and run == load_run("paper")
