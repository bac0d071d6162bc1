"""What the jobs of a run take of a GPU: which parts they have, and the largest of them."""

import pytest

from benchmarks.report import scaling
from dd.artifacts.text import load_json
from dd.config.run import load_run
from dd.distill import demand
from dd.plan import gpu_memory
from dd.plan.counting import Counted
from dd.plan.estimate import Machine, estimate, extents, text
from dd.plan.gpu_memory import GpuMemory, Part
from dd.plan.jobs import STAGES, ActivationMaps, Distillation, Erasing, Evaluation, Preparation
from dd.plan.plan import Plan
from dd.runtime.demand import Demand, most
from dd.runtime.stacking import PIXELS
from tests.support.runs import TINY


def memory(plan):
    return GpuMemory(Counted(plan, extents(plan)))


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    return Plan(load_run(str(tmp_path / "tiny.yaml"), {"results": str(tmp_path / "results")}))


@pytest.mark.parametrize("name", ["smoke", "paper"])
def test_every_stage_has_parts(name):
    """Those that run networks; a selection without a network only reads images."""
    plan = Plan(load_run(name)).main
    gpu = memory(plan)
    for stage in STAGES:
        for job in plan.of(stage):
            parts = list(gpu.of(job))
            plain = isinstance(job, Distillation) and job.method.split("@")[0] in ("random", "full")
            assert bool(parts) != (stage is Preparation or plain), job
            for part in parts:
                assert callable(getattr(demand, part.way)) and part.size > 0 and part.beside > 0


def several(tmp_path):
    """TINY with two architectures, of which LeNet has three networks, two under hard labels."""
    rules = "[{arch: [lenet], networks: 3}, {arch: [lenet], protocol: [hard], networks: 2}]"
    text = TINY.replace("arch: [mlp]", "arch: [mlp, lenet]").replace(
        "setting: [baseline, pool]", "setting: [baseline, kd, baseline (0.5 CE)]"
    )
    (tmp_path / "several.yaml").write_text(f"{text}networks_for: {rules}\n")
    return Plan(load_run(str(tmp_path / "several.yaml")))


def test_an_evaluation_by_hand(tmp_path):
    """Digits: 1,438 and 359 images of 8 x 8 in 8 bits; a set of 10 or 20 images in 32 bits."""
    plan = several(tmp_path)
    gpu, job = memory(plan), next(job for job in plan.of(Evaluation) if job.protocol == "hard")
    count = 10 * job.distillation.ipc
    beside = 1797 * 64 + 4 * 64 * count
    train, forward = list(gpu.of(job))[:2]
    (arch, data, factor, optimizer, networks) = train.given
    assert (train.way, forward.way) == ("train", "forward")
    assert (arch, data.size, networks) == ("lenet", (8, 8), 2)
    assert train.beside == forward.beside == beside
    assert forward.size == 359 and train.size == min(count, job.conditions(plan.run, arch)["batch"])
    counted = demand.train(arch, data, factor, optimizer, networks, train.size)
    largest = gpu.largest([job])
    assert largest.whole >= counted.whole + beside and largest.least >= counted.least + beside


def test_large_steps_are_counted_one_after_the_other():
    """As they are trained: ten images of 32 × 32 a step side by side, a hundred in turn."""
    plan = Plan(load_run("cifar10")).main
    gpu, seen = memory(plan), {}
    for job in plan.of(Evaluation):
        counts = {part.given[-1] for part in gpu.of(job) if part.way == "train"}
        seen.setdefault(job.distillation.ipc, set()).update(counts)
    assert seen == {1: {10}, 10: {1}}
    (settings,) = {plan.run.training("buffer", "cifar10")["batch"]}
    assert settings * 32 * 32 > PIXELS  # so experts are trained in turn, too


def test_who_is_trained_and_how_often(tmp_path):
    """A teacher is there as often as the architecture with the most networks; none at
    temperature 0, where nobody learns from it."""
    plan = several(tmp_path)
    gpu, seen = memory(plan), {}
    for job in plan.of(Evaluation):
        parts = [part for part in gpu.of(job) if part.way == "train"]
        seen[job.protocol] = [(part.given[0], part.given[-1]) for part in parts]
    assert seen == {
        "hard": [("lenet", 2), ("mlp", 1)],
        "kd": [("lenet", 3), ("mlp", 1), ("convnet", 3)],
        "kd-released@temperature=0": [("lenet", 3), ("mlp", 1)],
    }


def test_maps_are_counted_in_pieces_of_their_size(monkeypatch):
    monkeypatch.setattr("dd.networks.activation_maps.PIECE", 7)
    plan = Plan(load_run("smoke")).main
    jobs = [*plan.of(ActivationMaps), *plan.of(Erasing)]
    parts = [part for job in jobs for part in memory(plan).of(job) if part.way == "maps"]
    assert {type(job) for job in jobs} == {ActivationMaps, Erasing}
    assert {part.size for part in parts} == {7}


def test_the_largest_values():
    assert most([Demand(1, 9), Demand(2, 3)]) == Demand(2, 9)
    assert most([]) is None


def test_only_parts_that_none_exceeds_are_counted():
    def part(size, beside, way="train"):
        return Part(way, ("convnet",), size, beside)

    given = [
        part(4, 1.0),
        part(8, 2.0),
        part(8, 1.0),
        part(2, 5.0),
        part(1, 4.0),
        part(1, 1.0, "x"),
    ]
    assert set(gpu_memory._maximal(given)) == {part(8, 2.0), part(2, 5.0), part(1, 1.0, "x")}


def test_the_column(plan):
    machine = Machine("two cores", 2, 1e9, 3.0)
    stages = estimate(plan, Counted(plan, extents(plan)), machine)
    assert all(stage.gpu.whole > 0 for stage in stages if stage.name != "prepare")
    assert "GPU/job, GB" in text(plan, stages, machine)


def test_a_run_on_the_cpu_has_no_numbers(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    plan = Plan(load_run(str(tmp_path / "tiny.yaml"), {"device": "cpu"}))
    stages = estimate(plan, Counted(plan, extents(plan)), Machine("two cores", 2, 1e9, 3.0))
    assert all(stage.gpu is None for stage in stages)


def test_the_page_has_the_columns():
    facts = load_json("benchmarks/results/scaling.json")
    facts["gpu_memory"] = {name: {"least": 1e9, "whole": 2.5e9} for name in facts["stages"]}
    facts["gpu_memory"]["evaluate"] = {"least": 3e9, "whole": 5.44e11}
    row = {"network": "vit", "size": 64, "batch": 256, "least": 2e9, "one": 5e10, "all": 2.8e11}
    page = scaling(facts | {"gpu_training": [row]})
    assert "| GPU memory a job at least, GB | at most, GB | disk, GB |" in page
    (total,) = [line for line in page.splitlines() if line.startswith("| all |")]
    assert "| 3 | 544 |" in total
    assert "| vit | 64 × 64 | 256 | 2 | 50 | 280 |" in page
