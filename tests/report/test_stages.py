"""What the stages took: measured by jobs, sums worked out by hand, files that are no benchmarks."""

import csv
import time
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from dd.artifacts.tensors import save_tensors
from dd.artifacts.text import save_json, save_rows, save_text
from dd.command import main
from dd.config.run import load_run
from dd.errors import DDError
from dd.plan.exhibits import load_exhibit
from dd.plan.kinds import inputs
from dd.plan.measurements import Measured, read, write
from dd.plan.plan import Plan
from dd.report.figures.stages import draw
from dd.report.labels import value_label
from tests.support.runs import FORMULA, assert_no_formulas, with_formulas

HEADER = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
RUN = {
    "title": "two methods, one of them on a GPU",
    "datasets": {"digits": {"source": "digits", "label": "digits (8x8)"}},
    "seeds": [0, 1, 2],
    "networks": 1,
    "axes": {"ipc": [1], "iterations": [5], "setting": ["baseline", "pool", "kd"], "arch": ["mlp"]},
    "tables": ["modelpool_ablation", "cost"],
    "figures": ["cost"],
    "resources": {
        stage: {"threads": 1, "mem_mb": 1000, "runtime": 5}
        for stage in ("prepare", "distill", "evaluate")
    },
}


def jobs_of(plan):
    return [job.measured(plan.run) for job in plan.jobs]


def benchmark(seconds, memory, cpu) -> str:
    return f"{HEADER}{seconds}\t0:00:01\t{memory}\t2\t3\t4\t5\t6\t7\t{cpu}\n"


@pytest.fixture
def plan(tmp_path):
    """The run with made-up measurements: seed s of a distillation took 10 * 2^s seconds."""
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(RUN))
    plan = Plan(load_run(str(tmp_path / "two.yaml"), {"results": str(tmp_path)}))
    save_json(f"{plan.run.root}/config.json", plan.document())
    for job in jobs_of(plan):
        device, measured = "cpu", benchmark(4, 600, 3.5)
        if job.stage == "distill":
            seed = int(Path(job.made).parent.name.removeprefix("seed"))
            measured = benchmark(10 * 2**seed, 1000 + seed, 7)
            device = "cuda:0" if "pool" in job.method else "cpu"
        elif job.stage == "prepare":
            measured = benchmark(0.3, "NA", "NA")
        save_text(job.benchmark, measured)
        if job.made.endswith(".csv"):
            save_rows(job.made, [{"arch": "mlp", "accuracy": 50.0, "device": device}])
        else:
            header = {"provenance": {"device": device}}
            save_tensors(job.made, "made", {"x": torch.zeros(1)}, header)
    return plan


def render(plan: Plan, kind: str, out: Path) -> int:
    definition = f"workflow/config/{kind}s/cost.yaml"
    config = f"{plan.run.root}/config.json"
    return main([kind, "--config", config, f"--{kind}", definition, "--out", str(out)])


def test_sums(plan, tmp_path):
    assert render(plan, "table", tmp_path / "cost.csv") == 0
    with open(tmp_path / "cost.csv", newline="") as file:
        rows = {(row["stage"], row["method"]): row for row in csv.DictReader(file)}
    assert set(rows) == {
        ("prepare", ""), ("distill", "dc"), ("distill", "dc+pool"),
        ("evaluate", "dc"), ("evaluate", "dc+pool"), ("evaluate, kd", "dc"),
    }  # fmt: skip
    found = rows["distill", "dc+pool"]
    assert (found["jobs"], found["ipc"]) == ("3", "1")
    assert float(found["median_seconds"]) == 20 and float(found["seconds"]) == 70
    assert float(found["gpu_seconds"]) == 70 and float(found["cpu_seconds"]) == 21
    assert float(found["memory_mb"]) == 1002
    assert rows["distill", "dc"]["gpu_seconds"] == ""  # that one was on the CPU
    short = rows["prepare", ""]
    assert (short["ipc"], short["memory_mb"]) == ("", "") and float(short["seconds"]) == 0.3
    # 1 prepare, 2 x 3 distillations, 3 x 3 evaluations: 0.3 + 140 + 36 s, half of the 140 on a GPU
    said = (tmp_path / "cost.md").read_text()
    assert "Total: 16 jobs, 2.9 min, 1.2 min on a GPU, 1.2 min of CPU time." in said
    assert "| digits (8x8) | distill | DC + pool | 1 | 3 | 20.0 | 70 | 21 | 70 | 1002 |" in said


def test_no_gpu_no_column(plan, tmp_path):
    for job in jobs_of(plan):
        if not job.made.endswith(".csv"):
            save_tensors(job.made, "made", {"x": torch.zeros(1)}, {})
    assert render(plan, "table", tmp_path / "cost.csv") == 0
    assert "GPU (s)" not in (tmp_path / "cost.md").read_text()


def test_it_is_drawn(plan, tmp_path):
    assert render(plan, "figure", tmp_path / "cost.png") == 0
    drawn = Image.open(tmp_path / "cost.png").convert("RGB")
    assert drawn.width > 1000 and len(drawn.getcolors(1 << 24)) > 50


def test_it_is_made_after_the_jobs_but_their_measurements_are_not_made_again(plan):
    for kind in ("table", "figure"):
        files = inputs(plan.exhibits[kind, "cost"], plan.main.jobs)
        assert {job.made for job in jobs_of(plan)} <= set(files)
        assert not {job.benchmark for job in jobs_of(plan)} & {*files, *plan.files()}


def test_settings_of_a_method_are_told():
    assert (
        value_label("method", "dm+metadd@lambda_kl=0,draw=1") == "DM + MetaDD (lambda_kl=0, draw=1)"
    )
    assert value_label("method", "iadd@weights=raw") == "IADD (weights=raw)"


def test_a_job_too_short_to_be_sampled(tmp_path):
    save_text(tmp_path / "a.tsv", benchmark(0.1, "NA", "-"))
    assert read(str(tmp_path / "a.tsv")) == Measured(0.1, None, None)


def test_a_job_measures_itself(tmp_path):
    before = time.process_time()
    sum(range(3_000_000))  # some CPU time, and memory
    held = bytearray(50 << 20)
    write(tmp_path / "a.tsv", 12.5)
    found = read(str(tmp_path / "a.tsv"))
    assert found.seconds == 12.5
    assert time.process_time() - before <= found.cpu_seconds + 0.02
    now = next(
        int(line.split()[1]) / 1024
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    assert len(held) / 2**20 < found.memory_mb == pytest.approx(now, abs=1)


def test_the_option_of_a_stage(digits_file, tmp_path):
    asked = ["--benchmark", str(tmp_path / "deep" / "b.tsv"), "--out", str(tmp_path / "set")]
    words = ["--objective", "random", "--ipc", "1", "--snapshots", "0", "--data", str(digits_file)]
    started = time.monotonic()
    assert main(["distill", *words, *asked]) == 0
    assert 0 < read(asked[1]).seconds <= time.monotonic() - started
    assert main(["distill", *words, "--ipc", "0", *asked[:1], str(tmp_path / "no.tsv")]) == 2
    assert not (tmp_path / "no.tsv").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [("set.safetensors", "must end in .tsv"), ("", "is a folder"), ("file/b.tsv", "in the way")],
)
def test_a_measurement_that_cannot_be_written_is_told_first(
    digits_file, tmp_path, capsys, name, said
):
    (tmp_path / "file").touch()
    words = ["--objective", "random", "--ipc", "1", "--snapshots", "0", "--data", str(digits_file)]
    words += ["--out", str(tmp_path / "set"), "--benchmark", str(tmp_path / name)]
    assert main(["distill", *words]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    "text", ["", HEADER, "a\tb\n1\t2\n", benchmark("fast", 1, 2), HEADER + "3\n"]
)
def test_no_benchmark(text, tmp_path):
    save_text(tmp_path / "a.tsv", text)
    with pytest.raises(DDError, match=r"a\.tsv: is no measurement of a job"):
        read(str(tmp_path / "a.tsv"))


def test_a_lost_measurement_is_told(plan, tmp_path):
    lost = [job for job in jobs_of(plan) if job.stage == "distill" and job.method == "dc"]
    for job in lost[1:]:
        Path(job.benchmark).unlink()  # those of seeds 1 and 2
    assert render(plan, "table", tmp_path / "cost.csv") == 0
    with open(tmp_path / "cost.csv", newline="") as file:
        (row,) = (r for r in csv.DictReader(file) if (r["stage"], r["method"]) == ("distill", "dc"))
    assert (row["jobs"], row["not_measured"], float(row["seconds"])) == ("3", "2", 10)
    assert "(2 of the jobs have no measurement)" in (tmp_path / "cost.md").read_text()
    Path(lost[0].benchmark).unlink()
    assert render(plan, "table", tmp_path / "cost.csv") == 0
    shown = "| digits (8x8) | distill | DC | 1 | 3 | – | – | – | – | – |"
    assert shown in (tmp_path / "cost.md").read_text()
    assert render(plan, "figure", tmp_path / "cost.png") == 0


def test_dollars_are_drawn_as_they_are(plan, tmp_path):
    definition = "workflow/config/figures/cost.yaml"
    exhibit = with_formulas(load_exhibit("figure", definition, plan.run))
    shown = [f"title {FORMULA}", f"caption {FORMULA}", f"_digits (8x8) {FORMULA}"]
    assert_no_formulas(draw(exhibit), shown, tmp_path / "figure.png")
