"""SIGTERM and Ctrl-C: a checkpoint, an exit status, and the same result after another start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from dd.artifacts.tensors import load_tensors
from dd.command import main
from dd.runtime import preemption
from dd.runtime.preemption import Ended, Pace, heeding_signals

NEVER = ["--checkpoint-every", "1000000", "--threads", "1", "--device", "cpu"]


BOTH = pytest.mark.parametrize(
    ("number", "status", "words"),
    [(signal.SIGTERM, 143, "terminated (SIGTERM)"), (signal.SIGINT, 130, "interrupted")],
)


def end(command, number, when):
    """Start ``command``, send signal ``number`` when ``when()`` holds; status and what it said."""
    job = subprocess.Popen(
        [sys.executable, "-m", "dd", *command], stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 60
    while not when() and job.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.3)  # into the iterations
    job.send_signal(number)
    return job.wait(timeout=60), job.stderr.read()


@pytest.mark.slow
@BOTH
def test_a_distillation_saves_and_goes_on(number, status, words, digits_file, tmp_path):
    def command(out):
        given = ["distill", "--data", str(digits_file), "--objective", "dm", "--ipc", "1"]
        given += ["--network", "convnet:depth=1,width=8", "--snapshots", "0", "400"]
        return [*given, "--batch-real", "16", "--out", str(out), *NEVER]

    out, alone = tmp_path / "out", tmp_path / "alone"
    begun = out / ".checkpoint" / "it0.safetensors"
    found, said = end(command(out), number, begun.exists)
    assert found == status and f"{words}; run the same" in said and "Traceback" not in said
    _, header = load_tensors(out / ".checkpoint" / "state.safetensors", "checkpoint")
    assert 0 < header["at"]["iteration"] < 400
    assert main(command(out)) == main(command(alone)) == 0
    ours, theirs = (load_tensors(p / "it400.safetensors", "synthetic")[0] for p in (out, alone))
    assert (ours["images"] == theirs["images"]).all()


@BOTH
def test_a_stage_without_checkpoints_ends_at_once(number, status, words):
    with heeding_signals(), pytest.raises(Ended) as caught:
        os.kill(os.getpid(), number)
        time.sleep(5)
    assert (caught.value.status, caught.value.said) == (status, words)


@BOTH
def test_a_pace_lets_the_stage_save_first_and_the_second_signal_does_not_wait(
    number, status, words, monkeypatch
):
    with heeding_signals():
        pace = Pace(1000)
        assert not pace.due()
        pace.saved()
        os.kill(os.getpid(), number)
        assert pace.due()
        with pytest.raises(Ended):
            pace.saved()
        os.kill(os.getpid(), number)  # once to all processes is once
        time.sleep(0.1)
        monkeypatch.setattr(preemption, "_AT_ONCE", 0)
        with pytest.raises(Ended):
            os.kill(os.getpid(), number)
            time.sleep(5)
    with heeding_signals():
        assert not Pace(1000).due()  # the next stage starts afresh


@BOTH
def test_the_handler_of_before_is_back(number, status, words):
    before = signal.getsignal(number)
    with heeding_signals():
        assert signal.getsignal(number) is not before
    assert signal.getsignal(number) is before
