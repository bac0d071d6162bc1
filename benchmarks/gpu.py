"""The first thing to run on a new GPU: does it compute the same, how fast, and with which choices?

After ``--minutes`` no step begins any more; what is left out is said. The parts:

- checks: every stage and variant, on small images, against the CPU, several at a time;
- matching: a matching step with its outer and inner gradients, apart, together, and captured as one
  CUDA graph;
- graphs: a student's steps and a training step as they are, and captured;
- stacking: ten networks stacked, or one after the other;
- training: a training step as it is, compiled, in channels_last, in bf16, with cuDNN's search;
- rows: the rows of :mod:`benchmarks.speed`, plain loops beside the suite in float32, bf16 and TF32;
- profile: how much of a row's time the GPU is at work, and on what (:mod:`benchmarks.kernels`).

``--parts`` and ``--rows`` choose among them, for instance what an earlier measurement has left out.
A step that fails is recorded and the others go on; then the exit code is 1. It writes one JSON
file, and ``python -m benchmarks.report`` puts it into README.md and its rates into docs/scaling.md.
``--device cpu --quick`` tries everything that a CPU can do.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.choices import CLASSES, compare
from benchmarks.choices import training as stacking
from benchmarks.every_stage import COMMANDS, make_files, results, target, words
from benchmarks.kernels import NETWORKS, network_of, profile, trained, unrolled, with_graph
from benchmarks.speed import measure, opening, parser, synthetic_data
from benchmarks.work import ROWS, Row, suite_pieces
from dd.artifacts.text import save_json
from dd.command import main as command_line
from dd.data.dataset import load_dataset
from dd.distill import assemble
from dd.distill.gradients import match_apart, match_together
from dd.errors import DDError
from dd.rng import generator
from dd.runtime import precision
from dd.runtime.process import setup

PARTS = ("checks", "matching", "graphs", "stacking", "training", "rows", "profile")
PROFILED = ("dc-ipc10", "dm-ipc1", "mtt-ipc10", "buffer", "evaluation-ipc10")
MINUTES = 8.0
TOLERANCE = 1e-2  # of a tensor, in its norm, after two iterations or epochs
POINTS = 35.0  # of an accuracy: the small dataset has 12 test images
QUICK_CHECKS = ("dm", "pretrain", "evaluate, apart")
REAL, BATCH = 256, 256
MOST_CHECKS = 12  # at a time


class Way(NamedTuple):
    """How a training step is computed."""

    compiled: bool = False
    channels_last: bool = False
    bf16: bool = False
    searched: bool = False  # cuDNN tries its algorithms, and takes the fastest


WAYS = {
    "as it is": Way(),
    "channels_last": Way(channels_last=True),
    "bf16": Way(bf16=True),
    "bf16, channels_last": Way(channels_last=True, bf16=True),
    "searched": Way(searched=True),
    "compiled": Way(compiled=True),
    "compiled, bf16, channels_last": Way(True, True, True),
}


def _student(steps: int) -> str:
    """The name of the steps of a student that are captured."""
    return f"{steps} steps of a student, IPC 1, and back"


STEPS, LONG = 10, 50
BY_ROUNDING = {_student(LONG): 0.3}
"""Larger tolerances. So many steps multiply the rounding of float32: on a CPU, too, the gradient
through them is several per cent from that in float64. Through 10 it is exact to about 1e-6."""


class Step(NamedTuple):
    """A step of the measurement: the part of the file that its result belongs to, and its name."""

    part: str
    name: str
    work: Callable[[], Any]


def check(name: str, files: Mapping[str, Path], device: torch.device) -> dict[str, Any]:
    """How far the results of a command on ``device`` are from those on the CPU.

    Args:
        name: of the command in :mod:`benchmarks.every_stage`.
        files: what commands read (:func:`benchmarks.every_stage.make_files`).
        device: the device.

    Returns:
        ``error``: the largest of its tensors, relative to the norm; ``points``: the largest of its
        accuracies; ``same``: whether everything else (labels, indices) is equal; ``ok``.
    """
    command, found = COMMANDS[name], []
    for place in ("cpu", str(device)):
        with tempfile.TemporaryDirectory() as own:
            out, said = target(command, Path(own, "made")), io.StringIO()
            quiet = contextlib.redirect_stdout(said), contextlib.redirect_stderr(said)
            with networks_of_the_cpu(), quiet[0], quiet[1]:
                status = command_line(words(command, files, out, place))
            if status:
                raise DDError(f"on {place}: {said.getvalue().strip().splitlines()[-1]}")
            found.append(results(out))
    return errors(*found)


def errors(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The largest errors between two results of a command.

    A number that is finite in one of them alone counts as infinitely wrong.
    """
    error, points, same = 0.0, 0.0, True
    for (name, expected), (_, found) in zip(_leaves("", one), _leaves("", other), strict=True):
        if isinstance(expected, Tensor) and expected.is_floating_point():
            error = max(error, _error(expected.double(), found.double()))
        elif isinstance(expected, Tensor):
            checksum = "crc32" in name  # of what differs by rounding
            same &= checksum or torch.equal(expected, found)
        elif expected != found:
            wrong = _apart(expected, found)
            if wrong is None:
                same = False
            elif name.endswith("accuracy"):
                points = max(points, wrong)
            else:
                error = max(error, wrong / max(abs(float(expected)), 1e-12))
    ok = same and error <= TOLERANCE and points <= POINTS
    return {"error": error, "points": points, "same": same, "ok": ok}


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Everything in a result that is no block or list, with the name of what holds it."""
    if isinstance(value, Mapping):
        for key in sorted(value):
            yield from _leaves(key, value[key])
    elif isinstance(value, list):
        for entry in value:
            yield from _leaves(name, entry)
    else:
        yield name, value


def _error(expected: Tensor, found: Tensor) -> float:
    """The error of a tensor relative to its norm."""
    known = expected.isfinite()
    if not torch.equal(known, found.isfinite()):
        return math.inf
    change, size = (x[known].norm() for x in (found - expected, expected))
    return float(change / size.clamp_min(1e-12))


def _apart(expected: Any, found: Any) -> float | None:
    """How far two numbers are apart, infinitely if one alone is finite; None for other things."""
    try:
        apart = abs(float(expected) - float(found))
    except (TypeError, ValueError):
        return None
    return apart if math.isfinite(apart) else math.inf


@contextlib.contextmanager
def networks_of_the_cpu() -> Iterator[None]:
    """Distillations draw their networks on the CPU, as they do there, and not on their device."""

    def on_the_cpu(seed: int, *names: object, device: object = "cpu") -> torch.Generator:
        return generator(seed, *names)

    with mock.patch.object(assemble, "generator", on_the_cpu):
        yield


def matching(device: torch.device, ipc: int, repeats: int, real: int = REAL) -> dict[str, Any]:
    """Seconds of a matching step of all classes: apart, together, and (on a GPU) as one graph."""
    network = network_of(0, device)
    draw = generator(0, "matching", device=device)
    batches, images = (
        torch.randn((CLASSES, count, 3, 32, 32), generator=draw, device=device)
        for count in (real, ipc)
    )
    apart = {"apart": lambda: match_apart(network, batches.unbind(), images.unbind())}
    together = "together", lambda: match_together(network, batches, images)[1]
    return with_graph(apart, together, repeats, device)


def training(device: torch.device, way: Way, repeats: int) -> float:
    """Seconds of a forward and backward pass of a ConvNet on a batch."""
    draw = generator(0, "training", device=device)
    images = torch.randn((BATCH, 3, 32, 32), generator=draw, device=device)
    labels = torch.arange(BATCH, device=device) % CLASSES

    network = network_of(0, device)
    layout = torch.channels_last if way.channels_last else torch.contiguous_format
    images, network = images.to(memory_format=layout), network.to(memory_format=layout)
    call = torch.compile(network) if way.compiled else network

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=way.bf16):
            logits = call(images)
        loss = F.cross_entropy(logits.float(), labels)
        torch.autograd.grad(loss, list(network.parameters()))

    torch.backends.cudnn.benchmark = way.searched
    try:
        return compare({"step": step}, repeats, device)["step"]
    finally:
        torch.backends.cudnn.benchmark = False


def once(device: torch.device, quick: bool) -> dict[str, Callable[[], Callable[[], Tensor]]]:
    """What makes the work that is captured as one CUDA graph, by its name."""
    counts = (3,) if quick else (STEPS, LONG)
    found = {_student(steps): partial(unrolled, device, 1, steps) for steps in counts}
    for images in (10,) if quick else (10, 100):
        name = f"a training step of {NETWORKS} networks on {images} images"
        found[name] = partial(trained, device, images)
    return found


def captured(
    make: Callable[[], Callable[[], Tensor]], repeats: int, device: torch.device
) -> dict[str, Any]:
    """Seconds of what ``make`` makes, as it is and as a graph."""
    return with_graph({}, ("as it is", make()), repeats, device)


def profiled(key: str, piece: str, data: Path, device: torch.device) -> dict[str, Any]:
    """Where the time of a piece of a row goes."""
    pieces = suite_pieces(ROWS[key], load_dataset(data, device), epochs=1)
    return profile(pieces[piece], device)


def sides(row: Row, device: torch.device) -> dict[str, tuple[str, str]]:
    """Side and allocator of the columns of a row; ratios are those of ``suite``.

    The plain loops take TF32 in convolutions on a GPU, as torch does by itself, and once none. The
    steps of MTT are float32: beside them those that keep the graphs of all steps.
    """
    on_gpu = device.type == "cuda"
    plain = ["plain"] + ["plain_float32"] * on_gpu
    lower = ["every"] if row.name == "mtt" else [precision.BF16] + [precision.TF32] * on_gpu
    return {name: (name, "default") for name in plain} | {
        name: (name, "tuned") for name in ("suite", *lower)
    }


def steps(options: argparse.Namespace, device: torch.device, folder: Path) -> Iterator[Step]:
    """All parts of the measurement, in the order of their worth."""
    quick, repeats = options.quick, options.repeats
    if "checks" in options.parts:
        yield from _checks(QUICK_CHECKS if quick else COMMANDS, folder, device)
    for ipc in (1,) if quick else (1, 10):
        real = 4 if quick else REAL
        yield Step("matching", f"IPC {ipc}", partial(matching, device, ipc, repeats, real))
    for name, make in once(device, quick).items():
        yield Step("graphs", name, partial(captured, make, repeats, device))
    for images in (10,) if quick else (10, 100):
        yield Step(
            "stacking", f"{images} images", partial(stacking, 32, 128, images, repeats, device)
        )
    # compiling needs a compiler of C++ on the CPU, so it is tried on GPUs alone
    ways = {name: way for name, way in WAYS.items() if device.type == "cuda" or not way.compiled}
    for name, way in ways.items():
        yield Step("training", name, partial(training, device, way, repeats))
    data = folder / "random.safetensors"
    synthetic_data(data, (40, 10) if quick else (5000, 1000))
    more = {"data": data, "device": device, "epochs": 1 if quick else 10}
    more["threads"] = torch.get_num_threads()
    for key in ("dm-ipc1",) if quick else options.rows:
        row = ROWS[key]
        yield Step("rows", key, partial(measure, row, sides(row, device), repeats, **more))
    for key in ("dm-ipc1",) if quick else PROFILED:
        for piece in ROWS[key].pieces:
            yield Step("profile", f"{key}, {piece}", partial(profiled, key, piece, data, device))


def _checks(names: Iterable[str], folder: Path, device: torch.device) -> Iterator[Step]:
    """The checks of these commands, several at a time."""
    files = make_files(folder)
    with ProcessPoolExecutor(_workers(), get_context("spawn")) as pool:
        checks = {name: pool.submit(check, name, files, device) for name in names}
        for name, found in checks.items():
            yield Step("checks", name, found.result)
        pool.shutdown(cancel_futures=True)  # those that were left out, the time being over


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Take the steps of ``--parts`` and write the file; return what it says."""
    device = setup(options.device, options.threads)
    if options.quick:
        options.repeats = 1
    asked = {"parts": list(options.parts), "skipped": [], "failed": {}}
    if len(options.rows) < len(ROWS):
        asked["asked_rows"] = list(options.rows)
    facts = opening("gpu", options, device) | asked
    facts |= {part: {} for part in PARTS}
    end = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for step in steps(options, device, folder):
            if step.part not in options.parts:
                continue
            take(step, facts, end)
            facts["load_after"] = [round(load, 2) for load in os.getloadavg()]
            save_json(options.out, facts)
    return facts


def _workers() -> int:
    """The number of checks at a time: small ones, each with a context on the GPU."""
    return min(MOST_CHECKS, len(os.sched_getaffinity(0)))


def take(step: Step, facts: dict[str, Any], end: float) -> None:
    """Take a step before the time ``end``, and note its result, that it failed or was left out."""
    name, started = f"{step.part}: {step.name}", time.monotonic()
    if started > end:
        facts["skipped"].append(name)
        print(f"{name}: left out, the time is over", flush=True)
        return
    try:
        facts[step.part][step.name] = step.work()
        print(f"{name}: {time.monotonic() - started:.1f} s", flush=True)
    except Exception as error:  # whatever fails on a new machine, the rest is worth knowing
        facts["failed"][name] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        print(f"{name}: FAILED: {facts['failed'][name]}", flush=True)


def wrong_graphs(facts: Mapping[str, Any]) -> list[str]:
    """The steps whose CUDA graph computes something else, if float32 is exact enough to say so."""
    return [
        f"{part}, {name}"
        for part in ("matching", "graphs")
        for name, one in facts.get(part, {}).items()  # older files have fewer parts
        if (error := one["graph_error"]) is not None
        and not error <= BY_ROUNDING.get(name, TOLERANCE)
    ]


def main() -> None:
    """Measure, write, and say what is wrong."""
    own = parser("gpu", __doc__)
    own.set_defaults(repeats=2)
    own.add_argument("--minutes", type=float, default=MINUTES, help="begin no part after these (8)")
    own.add_argument("--quick", action="store_true", help="few and small parts, as a trial")
    own.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="parts to take (all)")
    own.add_argument(
        "--rows",
        nargs="+",
        choices=ROWS,
        default=ROWS,
        help="rows to measure (all; --quick: dm-ipc1)",
    )
    facts = run(own.parse_args())
    wrong = [name for name, found in facts["checks"].items() if not found["ok"]]
    wrong += [f"graph of {name}" for name in wrong_graphs(facts)]
    if wrong or facts["failed"]:
        sys.exit(
            f"error: {len(facts['failed'])} parts failed; {len(wrong)} checks are not within "
            f"tolerance{': ' if wrong else ''}{', '.join(wrong)}"
        )


if __name__ == "__main__":
    main()
