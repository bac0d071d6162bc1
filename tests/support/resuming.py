"""Commands that are killed, and what must be the same after another start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

from dd.artifacts.tensors import load_tensors
from tests.support.timeless import without_times

SNAPSHOTS = [0, 3, 25]
POOL = """\
title: small pool
main: convnet:depth=1,width=8
probability: 0.5
others: {variants_of: "convnet:depth=1,width=8", norm: [batch, group], activation: [swish]}
warmup: 2
"""
NETWORK = ["--network", "convnet:depth=1,width=8"]
TRAINED = "convnet:depth=1,norm=batch,width=8"
TRANSFORMER = "vit:depth=1,heads=1,width=8"
LATENTS = ["--parametrisation", "glad@piece=7", "--generator", "GENERATOR"]
INVARIANT = [  # the images seen in a step are drawn, so the regulariser's stream moves
    "--regulariser", f"metadd@auxiliary={TRAINED}.{TRANSFORMER},images=7",
    "--pretrained", "TRAINED", "TRANSFORMER",
]  # fmt: skip
GRADIENTS = ["--ipc", "2", "--batch-real", "16", "--outer", "2", "--inner", "1"]
SEGMENTS = [
    "--experts", "2", "--student-steps", "4", "--expert-epochs", "1", "--max-start-epoch", "2",
    "--batch-syn", "6", "--lr-img", "0.5", "--lr-lr", "0.0001", "--lr-weights", "0.1",
]  # fmt: skip
FILES = {
    "POOL": "pool.yaml",
    "SHARD": "shard.safetensors",
    "TRAINED": "trained.safetensors",
    "TRANSFORMER": "transformer.safetensors",
    "GENERATOR": "generator.safetensors",
}
METHODS = {
    "dc": ["--objective", "dc", *GRADIENTS, *NETWORK],
    "dsa": ["--objective", "dsa", *GRADIENTS, *NETWORK],
    "dm": ["--objective", "dm", "--ipc", "2", "--batch-real", "16", *NETWORK],
    "pool": ["--objective", "dc", *GRADIENTS, "--pool", "POOL"],
    "iadd": ["--objective", "iadd", "--ipc", "2", *SEGMENTS, *NETWORK, "--buffers", "SHARD"],
    "sre2l": [
        "--objective", "sre2l", "--ipc", "2", "--network", TRAINED, "--pretrained", "TRAINED",
    ],
    "dd": [
        "--objective", "dd", "--ipc", "2", "--steps", "2", "--student-epochs", "2",
        "--batch-real", "50", "--lr-student", "0.1", "--lr-label", "0.1", *NETWORK,
    ],
    "frepo": [
        "--objective", "frepo", "--ipc", "2", "--batch-real", "50", "--online", "2",
        "--online-steps", "2", "--batch-train", "12", "--pool", "POOL",
    ],
    "glad+metadd": [
        "--objective", "dm", "--ipc", "2", "--batch-real", "16", *NETWORK, *LATENTS, *INVARIANT,
    ],
}  # fmt: skip


class Killed(BaseException):
    """Stands for SIGKILL where a real one could not be timed: nothing in dd/ may catch it."""


def distill(data, method, out, snapshots=SNAPSHOTS, seed=0):
    """The command of a small distillation that checkpoints at every iteration."""
    method = [
        str(data.with_name(FILES[word])) if word in FILES else word for word in METHODS[method]
    ]
    where = ["--data", str(data), "--out", str(out), "--seed", str(seed), "--threads", "1"]
    numbers = ["--snapshots", *map(str, snapshots), "--checkpoint-every", "0"]
    return ["distill", *method, *where, *numbers, "--device", "cpu"]


def buffer(data, out, together="no", epochs=2, **changes):
    """The command of a small buffer that checkpoints after every epoch."""
    settings = {"lr": 0.05, "momentum": 0.9, "batch": 256} | changes
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    where = ["--data", str(data), "--out", str(out), "--threads", "1", "--device", "cpu", *NETWORK]
    how = ["--experts", "2", "--epochs", str(epochs), "--together", together]
    return ["buffer", *where, *how, *words, "--checkpoint-every", "0"]


def images(out, snapshots=SNAPSHOTS):
    """The bytes of the images of every snapshot."""
    found = {}
    for n in snapshots:
        tensors, header = load_tensors(out / f"it{n}.safetensors", "synthetic")
        assert header["iteration"] == n
        found[n] = tensors["images"].numpy().tobytes()
    return found


def everything(out, snapshots):
    """The bytes of all tensors of every snapshot, what an objective keeps beside the images too."""
    found = {}
    for n in snapshots:
        tensors, _ = load_tensors(out / f"it{n}.safetensors", "synthetic")
        found |= {(n, name): values.numpy().tobytes() for name, values in tensors.items()}
    return found


def metrics(out):
    """The lines of metrics.jsonl without the wall time."""
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return without_times(json.loads(line) for line in lines)


def assert_same(out, reference, snapshots=SNAPSHOTS):
    """The two folders hold the same files with the same results, and nothing else."""
    assert images(out, snapshots) == images(reference, snapshots)
    assert everything(out, snapshots) == everything(reference, snapshots)
    assert metrics(out) == metrics(reference)
    assert [row["iteration"] for row in metrics(out)] == list(range(1, snapshots[-1] + 1))
    names = {f"it{n}.safetensors" for n in snapshots} | {"metrics.jsonl"}
    assert {path.name for path in out.iterdir()} == names


def kill_when(condition, argv):
    """Start ``python -m dd argv``, SIGKILL it as soon as ``condition()`` holds."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dd", *argv], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def stop_at(monkeypatch, call, *names):
    """Die at the ``call``-th (from 1) file that would be put in place, or, with ``names``, at the
    ``call``-th call of these functions of ``os``."""
    calls = 0

    def counted(function):
        def dying(*arguments):
            nonlocal calls
            calls += 1
            if calls == call:
                raise Killed
            return function(*arguments)

        return dying

    for name in names or ("replace",):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))


def evaluate(data, alone, out, *more):
    """The command of a small evaluation, its networks trained in turn."""
    made = alone("dm") / "it25.safetensors"
    what = ["--synthetic", str(made), "--data", str(data), "--out", str(out), "--threads", "1"]
    how = ["--together", "no", "--networks", "4", "--epochs", "40", "--width-factor", "0.1"]
    return ["evaluate", *what, *how, "--arch", "convnet", "mlp", "--device", "cpu", *more]
