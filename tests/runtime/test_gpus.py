"""GPUs of one machine shared by several jobs; the devices are made up, the locks are real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from dd.command import main
from dd.runtime import gpus, process

TAKE = """
import os, sys, time
from pathlib import Path
from dd.runtime.gpus import VISIBLE, take_gpu
print(take_gpu(folder=Path(sys.argv[1]), poll=0.05), os.environ.get(VISIBLE), flush=True)
time.sleep(60)
"""


GPUS = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa-00)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbb-11)
"""
OTHERS = GPUS.replace("aaaa-00", "cccc-22").replace("bbbb-11", "dddd-33")
FOUR = GPUS + OTHERS.replace("GPU 0", "GPU 2").replace("GPU 1", "GPU 3")
SPLIT = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa-00)
  MIG 3g.20gb     Device  0: (UUID: MIG-p)
  MIG 3g.20gb     Device  1: (UUID: MIG-q)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbb-11)
"""


@pytest.fixture(autouse=True)
def nothing_held():
    """Each test starts and ends with no lock, whatever it took."""
    gpus.give_back()
    before = dict(os.environ)
    yield
    gpus.give_back()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """``smi(text)``: from now on ``nvidia-smi`` lists this; no text: it fails."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def tell(text):
        (folder / "list").write_text(text)
        told = folder / "nvidia-smi"
        told.write_text(f'#!/bin/sh\n[ "$*" = -L ] && cat {folder}/list && [ -s {folder}/list ]\n')
        told.chmod(0o755)

    return tell


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
def test_several_gpus_of_an_allocation_are_shared_out(scheduler, tmp_path):
    for expected in ("2", "3"):  # this process holds what it took
        environment = {scheduler: "17", "CUDA_VISIBLE_DEVICES": "2,3"}
        assert gpus.take_gpu(environment, tmp_path) == expected
        assert environment["CUDA_VISIBLE_DEVICES"] == expected


@pytest.mark.parametrize("scheduler", gpus.SCHEDULERS)
def test_one_gpu_of_an_allocation_stays(scheduler, tmp_path, smi):
    smi(GPUS)
    environment = {scheduler: "17", "CUDA_VISIBLE_DEVICES": "1"}
    assert gpus.take_gpu(environment, tmp_path / "locks") is None
    assert environment == {scheduler: "17", "CUDA_VISIBLE_DEVICES": "1"}
    assert not (tmp_path / "locks").exists()


@pytest.mark.parametrize("scheduler", gpus.SCHEDULERS)
def test_a_scheduler_that_gives_none_is_obeyed(scheduler, tmp_path, smi):
    smi(GPUS)
    environment = {scheduler: "17"}
    assert gpus.take_gpu(environment, tmp_path / "locks") is None
    assert environment == {scheduler: "17"}


@pytest.mark.parametrize("visible", ["", "3", "GPU-8f1a", "-1", "NoDevFiles", "3,-1,4"])
def test_nothing_is_taken_where_there_is_no_choice(visible, tmp_path):
    environment = {"CUDA_VISIBLE_DEVICES": visible}
    assert gpus.take_gpu(environment, tmp_path / "locks") is None
    assert environment == {"CUDA_VISIBLE_DEVICES": visible}
    assert not (tmp_path / "locks").exists()


def test_the_driver_is_asked_where_nobody_said_which(tmp_path, smi):
    smi(GPUS)
    environment = {}
    assert gpus.take_gpu(environment, tmp_path / "locks") == "GPU-aaaa-00"
    assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-aaaa-00"
    assert gpus.take_gpu({}, tmp_path / "locks") == "GPU-bbbb-11"  # this process holds the other
    gpus.give_back()
    assert gpus.take_gpu({}, tmp_path / "locks") == "GPU-aaaa-00"


def taken(folder, **environment):
    """What a job with this environment takes; None if it would have to wait."""
    with pytest.MonkeyPatch.context() as patch:

        def wait(seconds):
            raise TimeoutError

        patch.setattr(gpus, "time", SimpleNamespace(sleep=wait))  # subprocesses sleep as well
        try:
            return gpus.take_gpu(environment, folder)
        except TimeoutError:
            return None


def test_an_index_is_another_gpu_in_another_allocation(tmp_path, smi):
    """Two allocations of one user on one node: each counts its GPUs from 0."""
    ours = {"SLURM_JOB_ID": "1", "CUDA_VISIBLE_DEVICES": "0,1"}
    for listed in (GPUS, OTHERS):
        smi(listed)
        assert [taken(tmp_path, **ours) for _ in range(3)] == ["0", "1", None]
    assert len(list(tmp_path.glob("*.lock"))) == 4


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("0,1", "GPU-aaaa-00,GPU-bbbb-11", "GPU-bbbb-11"),
        ("GPU-aaaa-00,1", "0,1", "1"),
        ("GPU-aaaa,1", "GPU-aaaa-00,GPU-bbbb", "GPU-bbbb"),  # the beginning is enough for CUDA
        ("1,0", "0,1", "0"),
    ],
)
def test_names_of_one_gpu_are_one_lock(first, second, expected, tmp_path, smi):
    smi(GPUS)
    assert taken(tmp_path, CUDA_VISIBLE_DEVICES=first) == first.split(",")[0]
    assert taken(tmp_path, CUDA_VISIBLE_DEVICES=second) == expected
    assert taken(tmp_path, CUDA_VISIBLE_DEVICES=second) is None
    assert taken(tmp_path, CUDA_VISIBLE_DEVICES=first) is None


def test_a_gpu_named_twice_is_one(tmp_path, smi):
    smi(GPUS)
    environment = {"CUDA_VISIBLE_DEVICES": "0,GPU-aaaa-00"}
    assert gpus.take_gpu(environment, tmp_path / "locks") is None
    assert len(gpus.choices(environment)) == 1


def test_parts_of_a_gpu_are_gpus(tmp_path, smi):
    smi(SPLIT)
    assert [taken(tmp_path) for _ in range(4)] == ["MIG-p", "MIG-q", "GPU-bbbb-11", None]
    # CUDA takes the first part where the whole is named
    assert [c.uuid for c in gpus.choices({"CUDA_VISIBLE_DEVICES": "0,MIG-p,MIG-q,1"})] == [
        "MIG-p",
        "MIG-q",
        "GPU-bbbb-11",
    ]
    assert taken(tmp_path, CUDA_VISIBLE_DEVICES="0,1") is None


@pytest.mark.parametrize(
    ("environment", "listed", "expected"),
    [
        ({"SLURM_JOB_GPUS": "0,1"}, "GPUS", ["GPU-aaaa-00", "GPU-bbbb-11"]),
        # Slurm shows a job its own GPUs only, and these count from 0
        ({"SLURM_JOB_GPUS": "2,3"}, "OTHERS", ["GPU-cccc-22", "GPU-dddd-33"]),
        ({"SLURM_JOB_GPUS": "2-3"}, "FOUR", ["GPU-cccc-22", "GPU-dddd-33"]),
        ({"SLURM_JOB_GPUS": "0,1,2", "SLURM_STEP_GPUS": "1,2"}, "FOUR",
         ["GPU-bbbb-11", "GPU-cccc-22"]),
        ({"SLURM_JOB_GPUS": "0,1", "CUDA_VISIBLE_DEVICES": "0"}, "GPUS", ["0"]),
        ({"SLURM_STEP_GPUS": "3"}, "FOUR", ["GPU-dddd-33"]),
        ({"SLURM_JOB_GPUS": ""}, "FOUR", []),
    ],
)  # fmt: skip
def test_what_slurm_says(environment, listed, expected, tmp_path, smi):
    smi(globals()[listed])
    environment = {"SLURM_JOB_ID": "7", **environment}
    assert [choice.name for choice in gpus.choices(environment)] == expected
    before = dict(environment)
    if len(expected) > 1:
        assert gpus.take_gpu(environment, tmp_path) == expected[0]
        assert environment == before | {"CUDA_VISIBLE_DEVICES": expected[0]}
    else:
        assert gpus.take_gpu(environment, tmp_path / "locks") is None
        # one of four that only Slurm's variable names: CUDA must be told
        told = {"CUDA_VISIBLE_DEVICES": expected[0]} if expected else {}
        assert environment == before | told


# --- a GPU that torch cannot use


UNUSABLE = "distill --data {data} --objective random --ipc 1 --out {out} --device "


@pytest.fixture
def broken(smi, monkeypatch):
    """A machine with a GPU, and a torch that says this of it: ``broken(why, listed)``."""
    for name in (*gpus.SCHEDULERS, *gpus.GIVEN, gpus.VISIBLE):
        monkeypatch.delenv(name, raising=False)

    def machine(why, listed):
        def init():
            raise RuntimeError(why)

        smi(listed)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)  # NVML counts them all the same
        monkeypatch.setattr(torch.cuda, "init", init)
        monkeypatch.setattr(torch.version, "cuda", "13.0")

    return machine


OLD = "The NVIDIA driver on your system is too old (found version 11040). Please update it. More."


def test_auto_says_that_a_gpu_cannot_be_used(broken, capsys):
    broken(OLD, GPUS.splitlines()[0])
    assert process.setup("auto") == torch.device("cpu")
    assert capsys.readouterr().out == (
        "device auto: there is a GPU (NVIDIA A100-SXM4-40GB) but torch cannot use it (The NVIDIA "
        "driver on your system is too old (found version 11040)); computing on the CPU\n"
    )


def test_a_torch_without_cuda(broken, monkeypatch, capsys):
    broken(OLD, GPUS)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert process.setup("auto") == torch.device("cpu")
    assert capsys.readouterr().out == (
        "device auto: there is a GPU (NVIDIA A100-SXM4-40GB) but torch cannot use it "
        f"(torch {torch.__version__} is built without CUDA); computing on the CPU\n"
    )


def test_a_gpu_that_cannot_be_used_is_left_to_others(broken, tmp_path, monkeypatch):
    """As many jobs as there are, with two GPUs: none waits for a lock."""
    broken(OLD, GPUS)
    monkeypatch.setattr(gpus.tempfile, "gettempdir", lambda: str(tmp_path))
    for _ in range(3):
        monkeypatch.delenv(gpus.VISIBLE, raising=False)
        assert process.setup("auto") == torch.device("cpu")
    assert not gpus._held


@pytest.mark.parametrize(
    ("device", "what"),
    [("cuda", "is a GPU"), ("cuda:0", "are 2 GPUs")],  # cuda: the one it took
)
def test_cuda_is_refused_where_it_cannot_be_used(
    device, what, broken, digits_file, tmp_path, capsys
):
    broken("CUDA unknown error - this may be due to a wrong setup. Details follow.", SPLIT)
    words = UNUSABLE.format(data=digits_file, out=tmp_path / "o").split()
    assert main([*words, device]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"there {what} (NVIDIA A100-SXM4-40GB)" in said and "wrong setup)" in said
    assert f"'{device}'" in said and "use cpu" in said


def test_a_gpu_that_refuses(monkeypatch, capsys, digits_file, tmp_path):
    def busy(device):
        raise RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable\nMore")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", busy)
    words = UNUSABLE.format(data=digits_file, out=tmp_path / "o").split()
    assert main([*words, "cuda:0"]) == 2
    assert "'cuda:0' refuses: CUDA error: CUDA-capable" in capsys.readouterr().err


@pytest.mark.parametrize("hidden", ["", "-1", "NoDevFiles"])
def test_auto_says_nothing_of_hidden_gpus(hidden, broken, monkeypatch, capsys):
    broken(OLD, GPUS)
    monkeypatch.setenv(gpus.VISIBLE, hidden)
    assert process.setup("auto") == torch.device("cpu")
    assert capsys.readouterr().out == ""


def test_auto_says_nothing_where_there_is_no_gpu(broken, monkeypatch, capsys):
    broken(OLD, "")
    monkeypatch.setattr(gpus, "_installed", list)
    assert process.setup("auto") == torch.device("cpu")
    assert capsys.readouterr().out == ""


def test_the_kernel_knows_of_gpus_that_may_not_be_used(broken, monkeypatch, tmp_path, capsys):
    """nvidia-smi does not answer without permission."""
    broken("CUDA unknown error", "")
    card = tmp_path / "gpus" / "0000:17:00.0" / "information"
    card.parent.mkdir(parents=True)
    card.write_text("Model: \t\t NVIDIA L4\nIRQ:   \t\t 92\n")
    installed = gpus._installed
    monkeypatch.setattr(gpus, "_installed", lambda: installed(tmp_path / "gpus"))
    assert process.setup("auto") == torch.device("cpu")
    assert "there is a GPU (NVIDIA L4) but torch cannot use it" in capsys.readouterr().out
