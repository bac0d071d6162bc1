"""A run whose sets others made, through Snakemake: from the file to tables, page and checks."""

import subprocess
import sys
from collections import Counter

import pytest
import torch

from dd.artifacts.headers import read_header
from dd.artifacts.text import load_rows
from dd.data import synthetic
from tests.support.others import a_set, dc_form
from tests.support.runs import TINY, copy_workflow, jobs, snakemake

RUN = TINY.replace("iterations: [1]", "iterations: [1, 2, 3]").replace("[mlp]", "[mlp, lenet]")
RUN = RUN.replace("figures: []", "figures: [modelpool_images]")
RUN = RUN.replace("modelpool_ablation]", "modelpool_ablation, cost]") + """
networks_for: [{arch: [lenet], networks: 2}]
exclude: [{iterations: [3]}]
sets_root: there
imported:
  - &one {method: dc, dataset: digits, ipc: 1, iterations: 1, seed: 0, file: a.pt, entry: "0",
     by: x}
  - {<<: *one, method: dc+pool}
  - {<<: *one, method: dc+pool, iterations: 2, entry: last}
"""  # fmt: skip
WORDS = ("--config", "run=tiny.yaml")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The finished run; to be changed in the order of these tests."""
    folder = copy_workflow(tmp_path_factory.mktemp("imported"))
    (folder / "tiny.yaml").write_text(RUN)
    return folder


def said(done: subprocess.CompletedProcess) -> str:
    return done.stdout + done.stderr


def dd(folder, *words):
    command = [sys.executable, "-m", "dd", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_a_plan_needs_no_file_of_others_and_the_first_job_does(folder):
    # dc+pool at 1 and 2; dc at 1 alone, which leaves a hole; nothing at 3
    assert jobs(folder, *WORDS) == {
        "configure": 1, "prepare": 1, "import_set": 3, "evaluate": 3, "table": 4, "figure": 1,
        "record": 1, "index": 1, "all": 1,
    }  # fmt: skip
    done = snakemake(folder, *WORDS)
    assert done.returncode != 0
    fault = "error: run tiny, digits/dc/ipc1/seed0/it1: there/a.pt: no such file; give the folder"
    assert fault in said(done)
    assert not (folder / "results/tiny/data").exists()


def test_everything_downstream_is_as_for_a_distillation(folder):
    (folder / "there").mkdir()
    pairs = [a_set(seed) for seed in range(2)]
    dc_form(folder / "there/a.pt", *pairs)
    done = snakemake(folder, *WORDS)
    assert done.returncode == 0, said(done)
    root = folder / "results/tiny"
    for name, (images, _) in zip(("dc", "dc+pool"), (pairs[0], pairs[0]), strict=True):
        made = synthetic.load(root / f"distilled/digits/{name}/ipc1/seed0/it1.safetensors")
        assert torch.equal(made.images, images)
    last = root / "distilled/digits/dc+pool/ipc1/seed0/it2.safetensors"
    assert torch.equal(synthetic.load(last).images, pairs[1][0])
    header = read_header(last)
    assert header["imported"]["by"] == "x" and header["iteration"] == 2
    assert not (root / "distilled/digits/dc/ipc1/seed0/it2.safetensors").exists()
    rows = load_rows(root / "tables/modelpool_ablation.csv")
    numbers = {(r["iterations"], r["setting"], r["arch"]): r["n"] for r in rows}
    assert numbers == {
        (n, setting, arch): "0" if (n, setting) == ("2", "baseline") else number
        for n in ("1", "2")
        for setting in ("baseline", "pool")
        for arch, number in (("mlp", "1"), ("lenet", "2"))
    }
    page = (root / "README.md").read_text()
    assert "Synthetic sets by x, imported." in page and "–†" in page
    assert "3 imported sets" in page
    crate = (root / "ro-crate-metadata.json").read_text()
    assert "3 imported sets and 3 evaluations." in crate
    assert "imported synthetic sets under those of their makers." in crate
    costs = Counter()
    for row in load_rows(root / "tables/cost.csv"):
        costs[row["stage"]] += int(row["jobs"])
    assert costs == {"prepare": 1, "import": 3, "evaluate": 3}
    assert jobs(folder, *WORDS) == {}


def test_it_can_be_checked_and_estimated(folder):
    done = dd(folder, "verify", "results/tiny")
    assert done.returncode == 0, done.stderr
    assert "of 3 imported sets" in done.stdout
    done = dd(folder, "estimate", "--run", "tiny.yaml")
    assert done.returncode == 0, done.stderr
    assert [line.split()[:3] for line in done.stdout.splitlines() if line.startswith("import")] == [
        ["import", "3", "3"]
    ]


def test_where_the_file_lies_does_not_matter_but_what_it_holds_does(folder):
    (folder / "there").rename(folder / "elsewhere")
    assert jobs(folder, *WORDS) == {}  # away
    moved = {"configure": 1, "table": 4, "figure": 1, "record": 1, "index": 1, "all": 1}
    assert jobs(folder, *WORDS, "sets_root=elsewhere") == moved  # only config.json says it
    (folder / "elsewhere").rename(folder / "there")
    dc_form(folder / "there/a.pt", a_set(7), a_set(8))
    found = jobs(folder, *WORDS)
    assert (found["import_set"], found["evaluate"]) == (3, 3) and "prepare" not in found


def test_a_set_that_does_not_fit_is_one_line(folder):
    dc_form(folder / "there/a.pt", a_set(shape=(3, 8, 8)), a_set(shape=(3, 8, 8)))
    done = snakemake(folder, *WORDS)
    assert done.returncode != 0
    fault = "there/a.pt, entry 0: its images are [10, 3, 8, 8], those of digits are [M, 1, 8, 8]"
    assert f"error: {fault}" in said(done)
