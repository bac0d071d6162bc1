"""Arithmetic and bytes of jobs: counts by hand, files as large as they are."""

import os
from types import SimpleNamespace

import pytest
import yaml

from dd.command import main
from dd.config.run import load_run
from dd.data.extent import KNOWN
from dd.networks.operations import operations
from dd.plan.counting import Counted
from dd.plan.estimate import extents
from dd.plan.jobs import Distillation, Evaluation, Shard
from dd.plan.plan import Plan

CIFAR = KNOWN["cifar10"]
# the ConvNet on 32 x 32: 3 x 3 convolutions at 32, 16 and 8 pixels, then 2048 values to 10 classes
FIRST = 2 * 9 * 3 * 128 * 1024
LAST = 2 * 2048 * 10
CONVNET = FIRST + 2 * (9 * 128 * 128 * 256 + 9 * 128 * 128 * 64) + LAST
TRAIN = (
    3 * CONVNET - FIRST
)  # every layer once more by its weights and by its input, the image apart
MATCH = 8 * CONVNET - 3 * FIRST - LAST
UNROLL = 12 * CONVNET - 4 * FIRST


@pytest.fixture(scope="module")
def counted() -> Counted:
    plan = Plan(load_run("paper")).main
    return Counted(plan, extents(plan))


def test_ways_by_hand():
    assert operations("forward", "convnet", CIFAR) == CONVNET
    assert operations("forward", "mlp", CIFAR) == 2 * (3072 * 128 + 128 * 128 + 128 * 10)
    assert operations("train", "convnet", CIFAR) == TRAIN
    assert operations("images", "convnet", CIFAR) == 2 * CONVNET
    # A layer goes forward, back by its weights, back by its input: three products. The gradient by
    # the image of a function of the first gradient has two for each of the latter, and one for the
    # way forward. The last has one less (nothing is asked by its weights; convolutions compute
    # that anyway), the first three: none by the image at first, nor what hangs on it.
    assert operations("match", "convnet", CIFAR) == MATCH
    # a step without a graph; then the same as match, and by all weights
    assert operations("unroll", "convnet", CIFAR) == UNROLL


def test_jobs_by_hand(counted):
    # 10 experts, 50 epochs, 50,000 images
    shard = Shard("cifar10", "none", "convnet", 0)
    assert counted.work(shard) == 10 * 50 * 50_000 * TRAIN
    assert counted.bytes(shard) == 10 * 51 * 320_010 * 4
    # MTT at IPC 1: 50 steps on 10 images, as far as the run's last snapshot goes
    job = Distillation("cifar10", "mtt", 1, 0)
    assert counted.work(job) == counted.plan.planned(job).snapshots[-1] * 50 * 10 * UNROLL
    # DC at IPC 10: 10 matching steps, 9 times 50 epochs of the network on 100 images between them
    job = Distillation("cifar10", "dc", 10, 0)
    step = 10 * (10 * 256 * TRAIN + 100 * MATCH) + 9 * 50 * 100 * TRAIN
    assert counted.work(job) == counted.plan.planned(job).snapshots[-1] * step


def test_dd_by_hand(counted):
    """At IPC 10: three times all 100 images, in thirty steps; then 1024 real images."""
    job = Distillation("cifar10", "dd", 10, 0, (7,))
    plan = SimpleNamespace(run=counted.run, planned=lambda job: job)
    assert Counted(plan, counted.extents).work(job) == 7 * (3 * 100 * UNROLL + 1024 * TRAIN)


def test_frepo_by_hand(counted):
    """At IPC 10: 1024 real images forward, the set and its mirror images forth and back, and a
    step of a network on the set."""
    job = Distillation("cifar10", "frepo@network=convnet", 10, 0, (7,))
    plan = SimpleNamespace(run=counted.run, planned=lambda job: job)
    step = 1024 * CONVNET + 200 * 2 * CONVNET + 100 * TRAIN
    assert Counted(plan, counted.extents).work(job) == 7 * step


def test_metadd_by_hand(counted):
    """Added to DM at IPC 10 on Tiny ImageNet: 1000 of 2000 images, three networks; one pass less
    without the part that compares maps."""
    data, names = KNOWN["tiny_imagenet"], ("resnet18_bn", "alexnet", "vit")
    once = sum(operations("forward", name, data) for name in names)
    back = sum(operations("images", name, data) for name in names)
    works = {}
    for spec in ("dm", "dm+metadd", "dm+metadd@lambda_kl=0"):
        job = Distillation("tiny_imagenet", spec, 10, 0)
        works[spec] = counted.work(job) / counted.plan.planned(job).snapshots[-1]
    assert works["dm+metadd"] - works["dm"] == pytest.approx(1000 * (once + back))
    assert works["dm+metadd@lambda_kl=0"] - works["dm"] == pytest.approx(1000 * back)


def test_a_teacher_counts_for_itself_and_looks_once_at_images_that_stay(counted):
    job = Evaluation(Distillation("cifar10", "dc", 1, 0), 1000, "kd")
    nets = counted.plan.planned(job).archs
    total = sum(
        300 * 10 * operations("train", net, CIFAR) + 10_000 * operations("forward", net, CIFAR)
        for net in [*nets, "convnet"]
    )
    assert counted.work(job) == pytest.approx(5 * (total + len(nets) * 10 * CONVNET))


def test_no_teacher_counts_where_it_has_no_weight(counted):
    job = Evaluation(Distillation("cifar10", "dc", 1, 0), 1000, "kd-released@temperature=0")
    total = sum(
        300 * 10 * operations("train", net, CIFAR) + 10_000 * operations("forward", net, CIFAR)
        for net in counted.plan.planned(job).archs
    )
    assert counted.work(job) == pytest.approx(5 * total)


def test_sets_are_as_large_as_their_files(digits_file, tmp_path):
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
    plan = Plan(load_run(str(tmp_path / "one.yaml")))
    small = Counted(plan, extents(plan))
    command = ["distill", "--data", str(digits_file), "--objective", "random", "--ipc", "2"]
    assert main([*command, "--out", str(tmp_path / "set"), "--device", "cpu"]) == 0
    size = os.path.getsize(tmp_path / "set/it0.safetensors")
    expected = small.bytes(next(iter(small.plan.of(Distillation))))
    assert expected == 2 * 10 * 64 * 4 and expected < size < expected + 5000


def test_differences_are_in_the_size_of_a_set(counted):
    mtt, iadd, dm = (
        counted.bytes(Distillation("cifar10", spec, 1, 0))
        / len(counted.plan.planned(Distillation("cifar10", spec, 1, 0)).snapshots)
        for spec in ("mtt", "iadd", "dm")
    )
    assert mtt - dm == 4 * 320_010 and iadd - mtt == 4 * 320_010


def test_a_stage_without_a_rule_counts_as_nothing(counted):
    """A stage that somebody adds; the estimate still works."""

    class Brightness(Shard):
        pass

    assert counted.work(Brightness("cifar10", "none", "convnet", 0)) == 0.0
