"""The whole workflow killed at random moments, started twice at once, and with damaged files."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dd.command import main
from tests.support.runs import flip, snakemake, tiny_run

pytestmark = pytest.mark.slow

KILLS = 3
DEADLINE = 300  # seconds
RUN = ("--config", "run=tiny.yaml")


@pytest.fixture
def finished(finished_run, tmp_path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(finished_run, tmp_path / "finished", symlinks=True))


def begin(folder: Path, log: Path) -> subprocess.Popen:
    """Start the workflow in a process group of its own."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *RUN]
    with open(log, "w") as file:
        return subprocess.Popen(
            command, cwd=folder, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )


def signal_all(process: subprocess.Popen, number: int) -> None:
    """Signal the workflow and its jobs."""
    os.killpg(process.pid, number)


def until_said(text: str, process: subprocess.Popen, log: Path) -> None:
    """Return when the workflow has said ``text``, or has ended."""
    until = time.monotonic() + DEADLINE
    while text not in log.read_text() and process.poll() is None:
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.01)


def tables(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "results/tiny/tables").iterdir()}


def assert_as(folder: Path, reference: Path, monkeypatch) -> None:
    """The run in ``folder`` is finished and sound, its tables are those of ``reference``."""
    assert tables(folder) == tables(reference)
    monkeypatch.chdir(folder)
    assert main(["verify", "results/tiny"]) == 0
    assert not list(Path("results").rglob("*.part"))


def test_killed_at_random_moments(finished_run, tmp_path, monkeypatch):
    """As by a power cut, jobs included; then what the README says."""
    folder, log = tiny_run(tmp_path / "run"), tmp_path / "log"
    chance, kills = random.Random(5), 0
    while kills < KILLS:
        workflow = begin(folder, log)
        until_said("Job ", workflow, log)
        try:
            workflow.wait(chance.uniform(0, 8))
        except subprocess.TimeoutExpired:
            signal_all(workflow, signal.SIGKILL)
            workflow.wait()
            kills += 1
            assert snakemake(folder, "--unlock", *RUN).returncode == 0
        else:
            assert workflow.returncode == 0, log.read_text()
            shutil.rmtree(folder / "results")  # it was faster than its end: once more
    done = snakemake(folder, *RUN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_as(folder, finished_run, monkeypatch)


def test_two_at_once(finished, finished_run, tmp_path, monkeypatch):
    """The second one stops and says why; the first one is not disturbed."""
    shutil.rmtree(finished / "results/tiny/evaluations")
    log = tmp_path / "log"
    first = begin(finished, log)
    until_said("evaluate digits", first, log)  # the message of a job: the folder is locked
    assert first.poll() is None, log.read_text()
    signal_all(first, signal.SIGSTOP)
    second = snakemake(finished, *RUN)
    signal_all(first, signal.SIGCONT)
    assert second.returncode != 0
    assert "cannot be locked" in second.stderr, second.stderr
    assert first.wait(timeout=DEADLINE) == 0, log.read_text()
    assert_as(finished, finished_run, monkeypatch)


def test_the_last_line_says_why_a_run_ended(finished, tmp_path):
    """Nothing failed where its user stopped it."""
    shutil.rmtree(finished / "results/tiny/evaluations")
    log = tmp_path / "log"
    stopped = begin(finished, log)
    until_said("evaluate digits", stopped, log)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(timeout=DEADLINE) != 0
    assert "run tiny: stopped before its end; the same command goes on from here" in log.read_text()
    (made,) = (finished / "results/tiny").rglob("it1.safetensors")
    made.write_bytes(made.read_bytes()[:-9])
    shutil.rmtree(finished / "results/tiny/evaluations")
    failed = snakemake(finished, *RUN)
    assert "run tiny: a job failed (its message is above); the same command" in failed.stdout


def test_damaged_files_are_found_and_made_again(finished, finished_run, monkeypatch, capsys):
    """A set cut short and data with a flipped bit: named, removed on request, and made again."""
    monkeypatch.chdir(finished)
    root = Path("results/tiny")
    flip(root / "data/digits.safetensors", -9)
    (made,) = root.rglob("it1.safetensors")
    made.write_bytes(made.read_bytes()[:-9])
    assert main(["verify", str(root)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "(and 1 more files)" in said
    assert "digits.safetensors is not what was recorded" in said
    assert main(["verify", str(root), "--remove"]) == 2
    assert not made.exists() and not (root / "data/digits.safetensors").exists()
    done = snakemake(finished, *RUN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_as(finished, finished_run, monkeypatch)
