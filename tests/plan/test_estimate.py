"""What a run takes: sums by hand, rates of finished jobs, sizes of datasets, one page."""

import re

import pytest
import yaml

from dd.command import main
from dd.config.run import load_run
from dd.data.extent import KNOWN, Extent, of_file, of_options
from dd.errors import DDError
from dd.plan.counting import Counted
from dd.plan.estimate import Machine, estimate, extents, text
from dd.plan.jobs import STAGES, Distillation, Evaluation, Preparation
from dd.plan.plan import Plan
from tests.support.broken import image_folder
from tests.support.runs import TINY

MACHINE = Machine("two cores", cores=2, rate=1e9, start=3.0)


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    return Plan(load_run(str(tmp_path / "tiny.yaml"), {"results": str(tmp_path / "results")}))


def counted(plan):
    return Counted(plan, extents(plan))


def test_a_rate_and_the_starts_of_jobs(plan):
    work = counted(plan)
    by_name = {stage.name: stage for stage in estimate(plan, work, MACHINE)}
    assert list(by_name) == ["prepare", "distill", "evaluate"]
    jobs = plan.of(Distillation)
    total = sum(work.work(job) for job in jobs)
    assert total > 0 and by_name["distill"].operations == total
    # each start takes 3 s of one of two cores
    assert by_name["distill"].seconds == pytest.approx(total / 1e9 + len(jobs) * 3.0 / 2)
    assert by_name["distill"].seconds_left == by_name["distill"].seconds
    assert by_name["prepare"].seconds is None  # nothing counted, nothing measured
    assert by_name["distill"].memory_mb == 2000


def finish(plan, job, seconds=None):
    """Make the files of ``job`` as if it had run, and its measurement."""
    from pathlib import Path

    for file in job.files(plan.run):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).touch()
    if seconds is not None:
        benchmark = Path(job.measured(plan.run).benchmark)
        benchmark.parent.mkdir(parents=True, exist_ok=True)
        benchmark.write_text(f"s\tcpu_time\tmax_rss\n{seconds}\t-\t-\n")


def test_finished_jobs_give_the_rate_of_their_stage(plan):
    work = counted(plan)
    first, second = plan.of(Distillation)
    finish(plan, first, seconds=40.0)
    stage = next(s for s in estimate(plan, work, MACHINE) if s.name == "distill")
    assert (stage.jobs, stage.done, stage.measured) == (2, 1, True)
    # one thread of two cores for 40 s: 20 s of the machine
    each = 20.0 / work.work(first)
    assert stage.seconds_left == pytest.approx(each * work.work(second))
    assert stage.seconds == pytest.approx(20.0 + stage.seconds_left)
    finish(plan, second)  # not measured, but done
    stage = next(s for s in estimate(plan, work, MACHINE) if s.name == "distill")
    assert (stage.done, stage.left, stage.seconds_left) == (2, 0, 0)


def test_little_that_is_measured_is_no_rate(plan):
    first, _ = plan.of(Distillation)
    finish(plan, first, seconds=19.0)  # 9.5 s of the machine
    stage = next(s for s in estimate(plan, counted(plan), MACHINE) if s.name == "distill")
    assert not stage.measured and stage.done == 1
    assert 0 < stage.seconds_left < stage.seconds


def test_every_stage_is_counted():
    """Those that run networks have a rule: 0 for one would be an estimate that nobody made."""
    for name in ("smoke", "paper"):
        plan = Plan(load_run(name))
        work = counted(plan)
        for stage in STAGES:
            jobs = plan.of(stage)
            assert stage is Preparation or not jobs or any(work.work(job) > 0 for job in jobs)


def test_widths_count(plan, tmp_path):
    work = counted(plan)
    wide = yaml.safe_load(TINY) | {"width_factor": 1.0}
    (tmp_path / "wide.yaml").write_text(yaml.safe_dump(wide))
    other = Plan(load_run(str(tmp_path / "wide.yaml"), {"results": str(tmp_path)}))
    for ours, theirs in zip(plan.of(Evaluation), other.of(Evaluation), strict=True):
        assert counted(other).work(theirs) > 10 * work.work(ours)


def test_extents(tmp_path, digits_file):
    assert of_file(digits_file) == KNOWN["digits"]
    options = {"source": "image-folder", "comparable_to": "cifar10"}
    assert of_options("mine", options) == Extent(50_000, 10_000, 10, (32, 32), 3)
    grey = options | {"resize": 16, "channels": 1}
    assert of_options("mine", grey) == Extent(50_000, 10_000, 10, (16, 16), 1)
    assert of_options("mine", {"source": "image-folder"}) is None


@pytest.mark.parametrize(
    ("options", "extent"),
    [
        ({"source": "image-folder"}, Extent(8, 8, 2, (6, 7), 3)),
        ({"source": "image-folder", "resize": 5, "channels": 1}, Extent(8, 8, 2, (5, 5), 1)),
        ({"source": "class-folders", "test_share": 0.25}, Extent(6, 2, 2, (6, 7), 3)),
    ],
)
def test_the_extent_of_a_folder_is_that_of_its_images(tmp_path, options, extent):
    """As prepare finds it."""
    root = image_folder(tmp_path / "pets", size=(7, 6))  # width, height
    if options["source"] == "class-folders":
        root = root / "train"
    document = yaml.safe_load(TINY)
    document["datasets"] = {"pets": {"label": "pets", "root": str(root), **options}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(document))
    plan = Plan(load_run(str(tmp_path / "tiny.yaml"), {"results": str(tmp_path)}))
    assert extents(plan) == {"pets": extent}
    words = [f"--{k.replace('_', '-')}={v}" for k, v in options.items()]
    out = tmp_path / "pets.safetensors"
    assert main(["prepare", *words, "--root", str(root), "--out", str(out)]) == 0
    assert of_file(out) == extent


def test_a_size_that_nobody_knows(tmp_path):
    document = yaml.safe_load(TINY)
    document["datasets"] = {"pets": {"source": "image-folder", "label": "p", "root": "no"}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(DDError, match="dataset pets: root no is no folder; give the folder"):
        extents(Plan(load_run(str(tmp_path / "tiny.yaml"))))


def test_the_page(plan, capsys):
    said = text(plan, estimate(plan, counted(plan), MACHINE), MACHINE)
    lines = said.splitlines()
    assert len(lines) < 20 and max(map(len, lines)) < 120
    (total,) = [line for line in lines if line.startswith("all")]
    assert total.split()[1] == str(len(plan.jobs))
    path = plan.run.results  # the command makes the same page, with this machine's rate
    assert main(["estimate", "--run", str(plan.run.root), "--set", f"results={path}"]) == 2
    assert "unknown run" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command(capsys):
    assert main(["estimate", "--run", "smoke", "--set", "networks=2"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^evaluate +\d+ +\d+ +[\d.]+ +[\d.]+ (s|min) ", said, re.MULTILINE)
    assert "GFLOP/s and" in said
