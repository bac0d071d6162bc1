"""The stage ``estimate``: what a run will take, before it is started or while it is under way.

Arithmetic is counted (:mod:`dd.plan.counting`). Time is this arithmetic divided by a rate: that of
the run's own finished jobs of a stage, or else that of a short measurement on this machine.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dd.config.recipes import plugin
from dd.config.run import Run, load_run
from dd.data.extent import Extent, of_file, of_options
from dd.data.raw import IMAGE_FILES
from dd.errors import DDError
from dd.plan.configure import parse_overrides
from dd.plan.counting import Counted
from dd.plan.gpu_memory import GpuMemory
from dd.plan.jobs import STAGES, Distillation, Job, Preparation
from dd.plan.measurements import read
from dd.plan.plan import Plan
from dd.plan.validate import check_plan
from dd.registry import resolve
from dd.runtime import fork_server
from dd.runtime.demand import Demand, most

ENOUGH = 10.0  # seconds of the finished jobs of a stage, from which their rate counts


@dataclass(frozen=True)
class Machine:
    """What the hours of a run depend on.

    Attributes:
        name: the device, for people.
        cores: CPU cores that the jobs may use together; 1 on a GPU, which they use in turn.
        rate: floating-point operations a second of training steps.
        start: seconds that one core needs to start a job.
    """

    name: str
    cores: int
    rate: float
    start: float


@dataclass(frozen=True)
class Stage:
    """What the jobs of a stage take.

    Attributes:
        name: the stage. jobs, done: how many there are, and how many have all their files.
        operations: floating-point operations of all jobs. left: those of jobs that are not done.
        seconds: of all jobs, with all cores of the machine at work. seconds_left: of the others.
            Both are None if they cannot be known: nothing is counted and nothing was measured.
        measured: whether they come from finished jobs.
        memory_mb: what a job asks for.
        gpu: bytes of a GPU's memory that the largest job takes; None if the run uses the CPU.
        bytes: on the disk, of all jobs.
    """

    name: str
    jobs: int
    done: int
    operations: float
    left: float
    seconds: float | None
    seconds_left: float | None
    measured: bool
    memory_mb: int
    gpu: Demand | None
    bytes: int


def extents(plan: Plan) -> dict[str, Extent]:
    """The size of each dataset of a plan: of its prepared file, as published, or of its folder.

    Raises:
        DDError: if none of them is known.
    """
    run, found = plan.run, {}
    for job in plan.of(Preparation):
        options, path = run.datasets[job.dataset], Path(job.file(run))
        extent = of_file(path) if path.is_file() else of_options(job.dataset, options)
        if extent is None and options["source"] in IMAGE_FILES and "root" in options:
            job.check_found(run)
            extent = _of_folder(options)
        if extent is None:
            raise DDError(
                f"run {run.name}, dataset {job.dataset}: its size is not known before its images "
                "are there; give their folder (data_root)"
            )
        found[job.dataset] = extent
    return found


def _of_folder(options: Mapping[str, Any]) -> Extent:
    names = ("test_share", "split_seed", "resize", "channels")
    given = {name: options[name] for name in names if name in options}
    given |= {name: Path(options[name]) for name in ("root", "groups") if name in options}
    source_options = resolve("dd.data.sources:SourceOptions")(**given)
    return resolve("dd.data.sources:measure")(options["source"], source_options)


def estimate(plan: Plan, counted: Counted, machine: Machine) -> list[Stage]:
    """What each stage of a plan takes, in the order of the workflow."""
    gpu = None if plan.run.device == "cpu" else GpuMemory(counted)
    return [_stage(stage, plan, counted, gpu, machine) for stage in STAGES if plan.of(stage)]


def _stage(
    stage: type[Job], plan: Plan, counted: Counted, gpu: GpuMemory | None, machine: Machine
) -> Stage:
    run = plan.run
    works = {job: counted.work(job) for job in plan.of(stage)}
    done = [job for job in works if all(Path(file).is_file() for file in job.files(run))]
    resources = run.resources.get(stage.resources, run.resources["distill"])
    share = min(1.0, resources["threads"] / machine.cores)
    spent = {
        job: read(path).seconds * share
        for job in done
        if Path(path := job.measured(run).benchmark).is_file()
    }
    measured = sum(spent.values()) >= ENOUGH
    operations, left = sum(works.values()), sum(works[job] for job in works if job not in done)
    waiting = len(works) - len(done)
    seconds: float | None = None
    seconds_left: float | None = None
    if measured and (known := sum(works[job] for job in spent)):
        each = sum(spent.values()) / known  # seconds an operation, starts included
        seconds, seconds_left = operations * each, left * each
    elif measured:  # nothing to count, as in preparation
        each = sum(spent.values()) / len(spent)
        seconds, seconds_left = len(works) * each, waiting * each
    elif operations:
        start = machine.start / machine.cores
        seconds = operations / machine.rate + len(works) * start
        seconds_left = left / machine.rate + waiting * start
    return Stage(
        stage.stage,
        len(works),
        len(done),
        operations,
        left,
        seconds,
        seconds_left,
        measured,
        resources["mem_mb"],
        gpu.largest(works) if gpu else None,
        sum(map(counted.bytes, works)),
    )


def probe(run: Run) -> Machine:
    """Measure this machine: a few training steps, and the start of a job (some seconds in all)."""
    start = _start_of_a_job()
    device = resolve("dd.runtime.process:setup")(run.device)
    rate = resolve("dd.networks.operations:rate")(device)
    if device.type == "cuda":
        name = resolve("torch:cuda.get_device_name")(device)
        return Machine(f"one {name}", 1, rate, start)
    cores = len(os.sched_getaffinity(0))
    return Machine(f"{cores} CPU cores", cores, rate, start)


def _start_of_a_job() -> float:
    """Seconds, where other jobs have run before, as the rules start them on this machine."""
    environment = dict(os.environ)
    servers = fork_server.start(environment)
    seconds = math.inf
    for _ in range(2):  # the first also waits for the server's imports
        started = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "dd", "evaluate", "--help"],
            check=True,
            stdout=subprocess.DEVNULL,
            env=environment,
        )
        seconds = min(seconds, time.monotonic() - started)
    fork_server.end(servers)
    return seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", default="smoke", help="a run's name or its YAML file")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides, as snakemake --config"
    )
    parser.add_argument("--workflow", default="workflow", help="folder of the workflow")


def run(arguments: argparse.Namespace) -> None:
    """Print jobs, arithmetic, hours, memory and disk of a run, by stage and in all."""
    given = parse_overrides(arguments.set)
    whole = Plan(load_run(arguments.run, given, arguments.workflow))
    check_plan(whole, given)
    plan = whole.main
    counted = Counted(plan, extents(plan))
    machine = probe(plan.run)
    print(text(plan, estimate(plan, counted, machine), machine))


def text(plan: Plan, stages: Sequence[Stage], machine: Machine) -> str:
    """A page for a terminal."""
    whole = Stage(
        "all",
        sum(stage.jobs for stage in stages),
        sum(stage.done for stage in stages),
        sum(stage.operations for stage in stages),
        sum(stage.left for stage in stages),
        _sum(stage.seconds for stage in stages),
        _sum(stage.seconds_left for stage in stages),
        False,
        max(stage.memory_mb for stage in stages),
        most(stage.gpu for stage in stages if stage.gpu),
        sum(stage.bytes for stage in stages),
    )
    unit, size = ("PFLOP", 1e15) if whole.operations > 1e17 else ("TFLOP", 1e12)
    head = ["stage", "jobs", "done", unit, "time", "left", "memory/job, GB", "GPU/job, GB"]
    lines = [[*head, "disk, GB"]]
    lines += [
        [
            stage.name,
            f"{stage.jobs:,}",
            f"{stage.done:,}",
            _short(stage.operations / size),
            _time(stage.seconds),
            _time(stage.seconds_left),
            f"{stage.memory_mb / 1000:.1f}",
            _gpu(stage.gpu),
            _short(stage.bytes / 1e9),
        ]
        for stage in [*stages, whole]
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [
        f"{line[0]:<{widths[0]}}"
        + "".join(f"  {word:>{w}}" for word, w in zip(line[1:], widths[1:], strict=True))
        for line in lines
    ]
    now = f"{machine.rate / 1e9:,.0f} GFLOP/s and {machine.start:.1f} s to start a job"
    load = os.getloadavg()[0]
    busy = f", while others used {load:.1f} cores" if load >= 1 else ""
    own = ", ".join(stage.name for stage in stages if stage.measured)
    uncounted = _of_plugins(plan)
    rates = f"from finished jobs ({own}), the rest from " if own else "from "
    return "\n".join(
        [
            f"run {plan.run.name}: {plan.run.title}",
            *rows,
            f"time: {machine.name} at work without a break; tables and figures not counted",
            f"rates: {rates}{now}, measured now{busy}",
            *([f"not counted, of plug-ins: {', '.join(uncounted)}"] if uncounted else []),
            "memory: what a job asks for; GPU: what the largest one takes at least and, with "
            "networks side by side, at most",
        ]
    )


def _gpu(demand: Demand | None) -> str:
    """Both values, or one if they are alike."""
    if demand is None:
        return "-"
    least, whole = (_short(value / 1e9) for value in demand)
    return least if least == whole else f"{least} to {whole}"


def _of_plugins(plan: Plan) -> list[str]:
    """The objectives and regularisers of the plan for which there is no rule."""
    methods = [plan.run.parse(job.method) for job in plan.of(Distillation)]
    names = {name for m in methods for name in (m.objective, *(part.name for part in m.parts))}
    return sorted(name for name in names if plugin(name))


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) if known else None


def _short(value: float) -> str:
    """Three digits, with commas between thousands; less than 0.01 is shown as that."""
    if 0 < value < 0.01:
        return "< 0.01"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}" if value else "0"


def _time(seconds: float | None) -> str:
    """A time in seconds, minutes, hours or days, at least two of its unit."""
    if seconds is None:
        return "-"
    units = (("days", 86_400), ("h", 3_600), ("min", 60))
    unit, size = next((unit for unit in units if seconds >= 2 * unit[1]), ("s", 1))
    return f"{_short(seconds / size)} {unit}"
