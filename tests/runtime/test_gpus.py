"""GPUs of one machine shared by several jobs; the devices are made up, the locks are real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from dd.runtime import gpus

TAKE = """
import os, sys, time
from pathlib import Path
from dd.runtime.gpus import VISIBLE, take_gpu
print(take_gpu(folder=Path(sys.argv[1]), poll=0.05), os.environ.get(VISIBLE), flush=True)
time.sleep(60)
"""


@pytest.fixture
def start(tmp_path):
    """``start()``: a job that takes a GPU of three and keeps it; all are stopped at the end."""
    jobs = []

    def job(visible="4,5,7"):
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": visible}
        environment = {k: v for k, v in environment.items() if k not in gpus.SCHEDULERS}
        command = [sys.executable, "-c", TAKE, str(tmp_path / "locks")]
        jobs.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
        return jobs[-1]

    yield job
    for one in jobs:
        one.kill()
        one.wait()


def test_every_job_has_a_gpu_of_its_own_and_waits_if_there_is_none(start):
    first = [start() for _ in range(3)]
    taken = [job.stdout.readline().split() for job in first]
    assert sorted(gpu for gpu, _ in taken) == ["4", "5", "7"]
    assert all(gpu == visible for gpu, visible in taken)

    fourth = start()
    assert "waiting" in fourth.stdout.readline()
    time.sleep(0.3)
    assert fourth.poll() is None
    first[1].send_signal(signal.SIGKILL)  # leaves no lock behind
    assert fourth.stdout.readline().split() == taken[1]


@pytest.mark.parametrize("scheduler", gpus.SCHEDULERS)
def test_a_scheduler_is_obeyed(scheduler, tmp_path):
    environment = {scheduler: "17", "CUDA_VISIBLE_DEVICES": "2,3"}
    assert gpus.take_gpu(environment, tmp_path) is None
    assert environment["CUDA_VISIBLE_DEVICES"] == "2,3"


@pytest.mark.parametrize("visible", ["", "3", "GPU-8f1a"])
def test_nothing_is_taken_where_there_is_no_choice(visible, tmp_path):
    environment = {"CUDA_VISIBLE_DEVICES": visible}
    assert gpus.take_gpu(environment, tmp_path / "locks") is None
    assert environment == {"CUDA_VISIBLE_DEVICES": visible}
    assert not (tmp_path / "locks").exists()


def test_the_driver_is_asked_where_nobody_said_which(tmp_path, monkeypatch):
    told = tmp_path / "nvidia-smi"
    told.write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    told.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    environment = {}
    assert gpus.take_gpu(environment, tmp_path / "locks") == "0"
    assert environment["CUDA_VISIBLE_DEVICES"] == "0"
    assert gpus.take_gpu({}, tmp_path / "locks") == "1"  # this process holds 0
