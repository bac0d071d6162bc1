"""A real Slurm (.ci/slurm starts one): the bytes of a local run, whatever happens to the jobs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.support.runs import ROOT, TINY, copy_workflow
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow

pytest.importorskip("snakemake_executor_plugin_slurm", reason='pip install -e ".[slurm]"')


def told(*command: str) -> str | None:
    """What a command of Slurm says; None where there is no Slurm."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


on_slurm = pytest.mark.skipif(
    told("bash", str(ROOT / ".ci/slurm"), "status") is None,  # no jobs to anybody's real cluster
    reason="the cluster to test on is not up; as root, bash .ci/slurm starts it",
)


def entries(folder: Path, *states: str) -> list[dict[str, str]]:
    """What was submitted from ``folder`` and is in one of the states (waits or runs, if none)."""
    keys = {"id": "%i", "state": "%T", "memory": "%m", "rule": "%k", "from": "%Z"}
    asked = [f"--states={','.join(states)}"] if states else []
    lines = told("squeue", "--noheader", f"--format={'|'.join(keys.values())}", *asked)
    found = [dict(zip(keys, line.split("|"), strict=True)) for line in (lines or "").splitlines()]
    return [
        {**job, "rule": job["rule"].removeprefix("rule_").partition("_wildcards_")[0]}
        for job in found
        if job["from"] == str(folder)
    ]


@pytest.fixture
def start():
    """``start(folder, words...)``: Snakemake there; nothing of it outlives the test."""
    started = []

    def snakemake(folder: Path, *words: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "snakemake", *words]
        with (folder / "said.log").open("w") as said:
            process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said)
        started.append((folder, process))
        return process

    yield snakemake
    for folder, process in started:
        process.kill()
        process.wait()
        for job in entries(folder):
            told("scancel", job["id"])


SLURM = ["--profile", "workflow/profiles/slurm"]
SLURM += ["--slurm-init-seconds-before-status-checks", "3"]  # for jobs that take seconds
SLURM += ["--slurm-status-command", "squeue", "--cores", "2"]  # a small cluster, without accounting

# `prepare` asks for less memory at first than Snakemake (0.26 GB) and any PyTorch need together,
# and for enough at its last attempt, the fourth; a distillation takes some seconds
TOO_LITTLE = 500  # MB
RUN = (
    TINY.replace("iterations: [1]", "iterations: [1, 300]")
    .replace("tables: [modelpool_taxonomy, modelpool_settings, ", "tables: [")
    .replace("mem_mb: 1000", f"mem_mb: {TOO_LITTLE}")
)


@pytest.mark.slurm
@on_slurm
def test_a_run_disturbed_gives_the_bytes_of_a_local_one(tmp_path, start):
    here, there = (copy_workflow(tmp_path / name) for name in ("here", "there"))
    for folder in (here, there):
        (folder / "tiny.yaml").write_text(RUN)
    words = ["tables", "--config", "run=tiny.yaml", "device=cpu"]
    alone, process = start(here, "--cores", "1", *words), start(there, *SLURM, *words)
    sets = [there / f"results/tiny/distilled/digits/{r}/ipc1/seed0" for r in ("dc", "dc+pool")]

    def underway():
        """The running distillations, once each is past its first iteration."""
        running = [j for j in entries(there, "RUNNING") if j["rule"].startswith("distill")]
        begun = [(folder / ".checkpoint/it1.safetensors").exists() for folder in sets]
        return running if sum(begun) == len(running) else []

    cancelled = wait_for(underway, process, 180)[0]["id"]
    assert told("scancel", cancelled) is not None
    for folder, one in ((there, process), (here, alone)):
        assert one.wait(timeout=300) == 0, (folder / "said.log").read_text()
    assert not entries(there)  # nothing is left in the queue

    jobs = defaultdict(list)
    for job in sorted(entries(there, "all"), key=lambda job: int(job["id"])):
        jobs[job["rule"]].append(job)
    # no local rule; all four evaluations are one entry, each distillation is one, one was repeated
    counts = {rule: len(found) for rule, found in jobs.items() if rule != "prepare"}
    assert counts == {"distill_1_300": 3, "evaluations_evaluate": 1, "table": 1}
    assert [j["id"] for j in jobs["distill_1_300"] if j["state"] == "CANCELLED"] == [cancelled]
    # more memory at each attempt until it is enough
    *failed, enough = jobs["prepare"]
    assert failed and all(job["state"] != "COMPLETED" for job in failed)
    for job in failed:
        (log,) = there.glob(f".snakemake/slurm_logs/rule_prepare/**/{job['id']}.log")
        assert "exceeded memory limit" in log.read_text()
    assert enough["state"] == "COMPLETED"
    attempts = range(1, len(jobs["prepare"]) + 1)
    assert [job["memory"] for job in jobs["prepare"]] == [f"{TOO_LITTLE * k}M" for k in attempts]

    # what was cancelled had time to save
    logs = [file.read_text() for file in there.glob("results/tiny/logs/distill/**/*.log")]
    assert len(logs) == 2 and sum("going on from iteration" in log for log in logs) == 1
    tables = sorted(file.name for file in here.glob("results/tiny/tables/*"))
    assert [Path(name).suffix for name in tables] == [".csv", ".html", ".md", ".tex"]
    for name in tables:
        file = Path("results/tiny/tables", name)
        assert (here / file).read_bytes() == (there / file).read_bytes(), name


SNAKEFILE = """
rule all:
    localrule: True
    input: [f"{n}.gpu" for n in range(NUMBER)], "without.gpu"
rule RULE:
    output: "{n}.gpu"
    wildcard_constraints: n="[0-9]+"
    resources: gpu=1, mem_mb=500, runtime=5
    shell: "PYTHON gpu.py {output} 2"
rule prepare:
    output: "without.gpu"
    resources: mem_mb=500, runtime=5
    shell: "PYTHON gpu.py {output} 0"
"""


def gpu_jobs(number: int, rule: str) -> str:
    """A workflow of so many jobs with a GPU, and one without."""
    text = SNAKEFILE.replace("NUMBER", str(number)).replace("RULE", rule)
    return text.replace("PYTHON", sys.executable)


GPU = """
import os, sys, time
from pathlib import Path
from dd.runtime.gpus import VISIBLE, take_gpu

output, together = Path(sys.argv[1]), int(sys.argv[2])
output.with_suffix(".begun").touch()
until = time.monotonic() + 60
while len(list(Path().glob("?.begun"))) < together and time.monotonic() < until:
    time.sleep(0.1)
output.write_text(f"{take_gpu()} {os.environ.get(VISIBLE)}")
"""


@pytest.mark.slurm
@on_slurm
def test_each_job_has_a_gpu_of_its_own(checkout, start):
    """Two jobs at a time on two GPUs of a type; a stage that needs none gets none."""
    (checkout / "Snakefile").write_text(gpu_jobs(2, "distill"))
    (checkout / "gpu.py").write_text(GPU)
    process = start(checkout, *SLURM, "--default-resources", "gpu_model='madeup'", "mpi=0")
    assert process.wait(timeout=180) == 0, (checkout / "said.log").read_text()
    seen = sorted((checkout / f"{number}.gpu").read_text() for number in range(2))
    assert seen == ["None 0", "None 1"]  # assigned by Slurm, left as it is
    assert (checkout / "without.gpu").read_text() == "None None"


def test_what_sbatch_is_asked_for(checkout, start, monkeypatch):
    """Without a Slurm: short evaluations share an entry of the queue, one GPU does for them, and
    the default profile's gpu=1 holds none back."""
    (checkout / "Snakefile").write_text(gpu_jobs(25, "evaluate"))
    commands, calls = checkout / "commands", checkout / "calls"
    commands.mkdir()
    for name, does in {
        "sbatch": f'echo "$*" >>{calls} && wc -l <{calls}',  # the number of the call as job id
        "sacctmgr": "echo lab",
        "squeue": "true",
        "scancel": "true",
    }.items():
        (commands / name).write_text(f"#!/bin/sh\n{does}\n")
        (commands / name).chmod(0o755)
    calls.touch()
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    mine = ["slurm_partition='long'", "slurm_account='lab'", "gpu_model='h200'", "mpi=0"]
    process = start(checkout, *SLURM, "--default-resources", *mine)

    def submitted():
        said = calls.read_text()
        return said.splitlines() if said.count("\n") == 4 else None

    asked = [line.partition(" --wrap")[0] for line in wait_for(submitted, process, 180)]
    mine = "-A lab -p long -t {minutes} --mem 500 --requeue"
    (alone,) = [line for line in asked if "--comment rule_prepare" in line]
    assert mine.format(minutes=5) in alone and "--gpus" not in alone
    shared = [line for line in asked if line != alone]
    assert all("--comment rule_evaluations" in line for line in shared)
    assert all(line.endswith("--gpus=h200:1") for line in shared)
    for minutes in (50, 50, 25):  # 10 + 10 + 5 evaluations of five minutes each
        shared.remove(next(line for line in shared if mine.format(minutes=minutes) in line))
    assert not shared
