"""SIGTERM: a checkpoint, an exit status of its own, and the same result after another start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from dd.__main__ import main
from dd.artifacts.tensors import load_tensors
from dd.runtime.preemption import Pace, Terminated, heeding_sigterm

NEVER = ["--checkpoint-every", "1000000", "--threads", "1", "--device", "cpu"]


def terminate(command, when):
    """Start ``command``, send SIGTERM when ``when()`` holds; status and what it said."""
    job = subprocess.Popen(
        [sys.executable, "-m", "dd", *command], stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 60
    while not when() and job.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.3)  # into the iterations
    job.send_signal(signal.SIGTERM)
    return job.wait(timeout=60), job.stderr.read()


@pytest.mark.slow
def test_a_distillation_saves_and_goes_on(digits_file, tmp_path):
    def command(out):
        words = ["distill", "--data", str(digits_file), "--objective", "dm", "--ipc", "1"]
        words += ["--network", "convnet:depth=1,width=8", "--snapshots", "0", "400"]
        return [*words, "--batch-real", "16", "--out", str(out), *NEVER]

    out, alone = tmp_path / "out", tmp_path / "alone"
    begun = out / ".checkpoint" / "it0.safetensors"
    status, said = terminate(command(out), begun.exists)
    assert status == 143 and "terminated (SIGTERM)" in said and "Traceback" not in said
    _, header = load_tensors(out / ".checkpoint" / "state.safetensors", "checkpoint")
    assert 0 < header["at"]["iteration"] < 400
    assert main(command(out)) == main(command(alone)) == 0
    ours, theirs = (load_tensors(p / "it400.safetensors", "synthetic")[0] for p in (out, alone))
    assert (ours["images"] == theirs["images"]).all()


def test_a_stage_without_checkpoints_ends_at_once():
    with heeding_sigterm(), pytest.raises(Terminated):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)


def test_a_pace_lets_the_stage_save_first_and_the_second_signal_does_not_wait():
    with heeding_sigterm():
        pace = Pace(1000)
        assert not pace.due()
        pace.saved()
        os.kill(os.getpid(), signal.SIGTERM)
        assert pace.due()
        with pytest.raises(Terminated):
            pace.saved()
        with pytest.raises(Terminated):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
    with heeding_sigterm():
        assert not Pace(1000).due()  # the next stage starts afresh


def test_the_handler_of_before_is_back():
    before = signal.getsignal(signal.SIGTERM)
    with heeding_sigterm():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
