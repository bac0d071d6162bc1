"""What the full run takes, before anybody starts it: jobs, arithmetic, disk, and time to plan it.

Arithmetic is counted, not timed: the floating-point operations of each network's forward pass,
times the passes that a job makes. The rows of :mod:`benchmarks.speed` say how many of them a
machine does a second in the suite, and so how long the jobs would take there. Writes one JSON file;
``python -m benchmarks.report`` puts it into docs/scaling.md.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed import machine
from dd.artifacts import load_json, provenance, save_json
from dd.generators.autoencoder import create as create_generator
from dd.jobs import (
    GENERATOR,
    Distillation,
    Erasing,
    Evaluation,
    Pretraining,
    Relabelling,
    Shard,
    Snapshot,
    auxiliaries,
    auxiliary_networks,
    pool_files,
)
from dd.networks import create, load_pool
from dd.plan import Plan, load_run
from dd.run import Run

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results"
MORE = 10  # times as many datasets

# Passes through a network, in forward passes: backward to parameters and images takes two more
TRAIN = 3
FROZEN = 2  # with gradients to the images alone
MATCH = 9  # gradients of gradients (dc)
ADJOINT = 12  # a student's step and its way back (dd/unroll.py)


@dataclass(frozen=True)
class Data:
    """A dataset's size."""

    train: int
    test: int
    classes: int
    side: int
    channels: int = 3

    @property
    def values(self) -> int:
        """Of one image."""
        return self.channels * self.side**2


DATA = {
    "cifar10": Data(50_000, 10_000, 10, 32),
    "cifar100": Data(50_000, 10_000, 100, 32),
    "tiny_imagenet": Data(100_000, 10_000, 200, 64),
    "imagenette": Data(9_469, 3_925, 10, 128),
    "imagewoof": Data(9_025, 3_929, 10, 128),
}


@cache
def _network(spec: str, data: Data) -> torch.nn.Module:
    size = (data.side, data.side)
    return create(spec, data.channels, size, data.classes, generator=None, device="meta").eval()


@cache
def forward(spec: str, data: Data) -> float:
    """Floating-point operations of one image's way through a network."""
    image = torch.zeros(1, data.channels, data.side, data.side, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        _network(spec, data)(image)
    return float(counter.get_total_flops())


def parameters(spec: str, data: Data) -> int:
    """How many values a network has."""
    return sum(p.numel() for p in _network(spec, data).parameters())


@cache
def decode(width: int, code: int, data: Data) -> float:
    """Operations of the decoding of one image, half of what the autoencoder takes in all."""
    network = create_generator(data.channels, code or 16 * data.channels // 3, width, None, "meta")
    image = torch.zeros(1, data.channels, data.side, data.side, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        codes = network.encode(image)
        before = counter.get_total_flops()
        network.decode(codes, (data.side, data.side))
        return float(counter.get_total_flops() - before)


class Estimate:
    """Operations and bytes of the jobs of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.run = plan, plan.run

    def operations(self, job: Any) -> float:
        """Floating-point operations of a compute job; 0 for one that trains and shows nothing."""
        rules: Mapping[type, Callable[[Any], float]] = {
            Shard: self._buffer,
            Pretraining: self._pretraining,
            Distillation: self._distillation,
            Relabelling: self._relabelling,
            Evaluation: self._evaluation,
            Snapshot: self._maps,
            Erasing: self._erasing,
        }
        return rules[type(job)](job)

    def _buffer(self, job: Shard) -> float:
        settings, data = self.run.buffer(job.dataset), DATA[job.dataset]
        images = settings["experts"] * settings["epochs"] * data.train
        return images * TRAIN * forward(job.network, data)

    def _pretraining(self, job: Pretraining) -> float:
        data = DATA[job.dataset]
        if job.network == GENERATOR:
            settings = self.run.generator(job.dataset)
            both = 2 * decode(settings["width"], settings["code"], data)
            return settings["epochs"] * data.train * TRAIN * both
        epochs = self.run.pretrain(job.network, job.dataset)["epochs"]
        return (epochs * TRAIN * data.train + data.test) * forward(job.network, data)

    def _drawn(self, job: Distillation) -> float:
        """The mean forward pass of the networks that a distillation draws."""
        data, settings = DATA[job.dataset], self.plan.settings(job)
        if files := pool_files(self.run, job.spec):
            networks = load_pool(files[0]).networks()
            return sum(share * forward(name, data) for name, share in networks)
        return forward(settings["network"], data) if "network" in settings else 0.0

    def _distillation(self, job: Distillation) -> float:
        data, settings, f = DATA[job.dataset], self.plan.settings(job), self._drawn(job)
        spec, count = self.run.parse(job.spec), DATA[job.dataset].classes * job.ipc
        iterations, updates = self.plan.distillations[job][-1], 1
        real = data.classes * settings.get("batch_real", 0)
        if spec.objective in ("dc", "dsa"):
            updates = settings["outer"]
            step = updates * (real * TRAIN + count * MATCH) * f
            step += (updates - 1) * settings["inner"] * count * TRAIN * f
        elif spec.objective == "dm":
            step = (real + count * TRAIN) * f
        elif spec.objective in ("mtt", "iadd"):
            batch = settings["batch_syn"] or count
            step = settings["student_steps"] * min(batch, count) * ADJOINT * f
        elif spec.objective == "sre2l":
            step = count * FROZEN * f
        else:  # a selection: features of all images once
            return settings.get("feature_epochs", 0) * data.train * TRAIN * f + data.train * f
        if spec.regulariser:
            own = self.run.part(spec.regulariser, spec.objective, job.dataset, job.ipc)
            seen = min(own["images"] or count, count)
            names = auxiliary_networks(self.run, job.spec, job.dataset, job.ipc)
            step += updates * seen * (1 + FROZEN) * sum(forward(name, data) for name in names)
        if spec.parametrisation:
            own = self.run.generator(job.dataset)
            step += updates * count * (1 + FROZEN) * decode(own["width"], own["code"], data)
        return iterations * step

    def _relabelling(self, job: Relabelling) -> float:
        made = job.snapshot.distillation
        data, views = DATA[made.dataset], self.run.relabel(made.dataset)["views"]
        teachers = sum(forward(name, data) for name in auxiliaries(job.teacher))
        return views * data.classes * made.ipc * teachers

    def _evaluation(self, job: Evaluation) -> float:
        made, options = job.distillation, self.plan.protocol(job)
        data = DATA[made.dataset]
        count = data.train if made.spec == "full" else data.classes * made.ipc
        trained = options["epochs"] * count * TRAIN + data.test
        sum_of = sum(forward(name, data) for name in self.plan.evaluations[job])
        total = trained * sum_of
        if options["protocol"] == "kd":  # a teacher for each number, and its answers to students
            students = len(self.plan.evaluations[job])
            teacher = forward(options["teacher"], data)
            total += (trained + students * options["epochs"] * count) * teacher
        return self.run.networks * total

    def _maps(self, job: Snapshot) -> float:
        made = job.distillation
        data = DATA[made.dataset]
        networks = sum(forward(one.network, data) for one in self.plan.seers_of(made))
        return data.classes * made.ipc * TRAIN * networks

    def _erasing(self, job: Erasing) -> float:
        data = DATA[job.dataset]
        networks = sum(forward(one.network, data) for one in self.plan.erased_for(job))
        return data.test * (TRAIN + 4) * networks  # maps, then all images whole and erased thrice

    def bytes(self, job: Any) -> int:
        """What a job leaves on the disk, its headers and tables apart."""
        if isinstance(job, Shard):
            settings = self.run.buffer(job.dataset)
            width = {"float32": 4, "bfloat16": 2}[settings["precision"]]
            size = parameters(job.network, DATA[job.dataset])
            return settings["experts"] * (settings["epochs"] + 1) * size * width
        if isinstance(job, Pretraining) and job.network != GENERATOR:
            return 4 * parameters(job.network, DATA[job.dataset])
        if isinstance(job, Distillation):
            data = DATA[job.dataset]
            one = 4 * data.classes * job.ipc * data.values
            return one * len(self.plan.distillations[job])
        if isinstance(job, Relabelling):
            made = job.snapshot.distillation
            data, settings = DATA[made.dataset], self.run.relabel(made.dataset)
            kept = settings["keep"] or data.classes
            width = 2 if not settings["keep"] else 4  # a probability, and which class it is of
            return settings["views"] * data.classes * made.ipc * kept * width
        return 0

    @cached_property
    def stages(self) -> dict[str, dict[str, float]]:
        """Jobs, operations and bytes by stage, in the order of the workflow."""
        plan = self.plan
        jobs = {
            "buffer": plan.shards,
            "pretrain": plan.pretrainings,
            "distill": list(plan.distillations),
            "relabel": plan.relabellings,
            "evaluate": list(plan.evaluations),
            "cams": plan.snapshots_with_cams,
            "erase": plan.erasings,
        }
        raw = sum(
            (DATA[name].train + DATA[name].test) * DATA[name].values for name in plan.run.datasets
        )
        found = {"prepare": {"jobs": len(plan.run.datasets), "operations": 0.0, "bytes": raw}}
        return found | {
            stage: {
                "jobs": len(those),
                "operations": sum(map(self.operations, those)),
                "bytes": sum(map(self.bytes, those)),
            }
            for stage, those in jobs.items()
        }

    @cached_property
    def objectives(self) -> dict[str, dict[str, float]]:
        """Distillations, their operations and those of their sets' evaluations, by objective."""
        return self._shared(lambda job: self.run.parse(job.spec).objective)

    @cached_property
    def sizes(self) -> dict[str, dict[str, float]]:
        """The same by dataset and IPC."""
        return self._shared(
            lambda job: f"{job.dataset}, {'full' if job.spec == 'full' else f'IPC {job.ipc}'}"
        )

    def _shared(self, key: Callable[[Distillation], str]) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        for job in sorted(self.plan.distillations, key=lambda j: list(DATA).index(j.dataset)):
            one = found.setdefault(key(job), {"jobs": 0, "distill": 0.0, "evaluate": 0.0})
            one["jobs"] += 1
            one["distill"] += self.operations(job)
        for job in self.plan.evaluations:
            found[key(job.distillation)]["evaluate"] += self.operations(job)
        return found


def measured_work(name: str, ipc: int | None) -> float:
    """Operations of one unit of a row of :mod:`benchmarks.speed`, which is on CIFAR-10."""
    data, f = DATA["cifar10"], forward("convnet", DATA["cifar10"])
    count = data.classes * (ipc or 0)
    match name, ipc:
        case (("dc" | "dsa"), 1):
            return data.classes * (256 * TRAIN + MATCH) * f
        case (("dc" | "dsa"), 10):
            return (10 * (data.classes * 256 * TRAIN + count * MATCH) + 450 * count * TRAIN) * f
        case "dm", _:
            return (data.classes * 256 + count * TRAIN) * f
        case "mtt", _:
            return {1: 50, 10: 30}[ipc] * count * ADJOINT * f
        case "buffer", _:
            return data.train * TRAIN * f
        case "evaluation", _:
            return 10 * (300 * count * TRAIN + data.test) * f
    raise ValueError(f"no formula for {name}, IPC {ipc}")


def rates(folder: Path) -> dict[str, list[tuple[str, float]]]:
    """By machine, the work of each measured row and the operations a second that it ran at."""
    found: dict[str, list[tuple[str, float]]] = {}
    for path in sorted(folder.glob("*.json")):
        facts = load_json(path)
        if facts["kind"] != "speed":
            continue
        where = facts["provenance"]["machine"]
        name = where["gpu"] or f"{where['cores']} cores of {where['cpu']}"
        for row in facts["rows"]:
            work_done = measured_work(row["work"], row["ipc"])
            label = row["work"] if row["ipc"] is None else f"{row['work']}, IPC {row['ipc']}"
            found.setdefault(name, []).append((label, work_done / row["sides"]["suite"]["seconds"]))
    return found


def enlarged(run: Run, times: int) -> dict[str, Any]:
    """The run as YAML with each dataset ``times`` times, under other names."""
    document = run.document()
    names = {old: [old, *(f"{old}_{n}" for n in range(1, times))] for old in run.datasets}
    document["datasets"] = {new: run.datasets[old] for old in names for new in names[old]}
    for axes in document["axes_for"].values():
        if "dataset" in axes:
            axes["dataset"] = [new for old in axes["dataset"] for new in names[old]]
    return {k: v for k, v in document.items() if k not in ("name", "results", "workflow")}


def planning(run: str, times: int) -> tuple[float, int]:
    """Seconds of a dry run of ``run`` with ``times`` the datasets, and its number of jobs."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "workflow", Path(folder, "workflow"))
        for name in ("Snakefile", "environment.yml"):
            shutil.copy(ROOT / name, folder)
        document = enlarged(load_run(run), times)
        Path(folder, "large.yaml").write_text(yaml.safe_dump(document))
        command = [sys.executable, "-m", "snakemake", "-n", "--quiet", "rules", "--cores", "2"]
        command += ["--workflow-profile", "none", "--config", "run=large.yaml"]
        started = time.monotonic()
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        seconds = time.monotonic() - started
    said = re.search(r"^total +(\d+)", done.stdout + done.stderr, flags=re.MULTILINE)
    if done.returncode or not said:
        raise RuntimeError(done.stdout + done.stderr)
    return seconds, int(said[1])


def measure(run: str, repeats: int) -> dict[str, Any]:
    """Everything that the page shows."""
    estimate = Estimate(Plan(load_run(run)).main)
    dag = {
        str(times): [planning(run, times) for _ in range(repeats if times == 1 else 1)]
        for times in (1, MORE)
    }
    return {
        "kind": "scaling",
        "provenance": provenance(machine=machine(torch.device("cpu"))),
        "run": run,
        "stages": estimate.stages,
        "objectives": estimate.objectives,
        "sizes": estimate.sizes,
        "rates": rates(RESULTS),
        "planning": {
            times: {"seconds": statistics.median(s for s, _ in found), "jobs": found[0][1]}
            for times, found in dag.items()
        },
    }


def main() -> None:
    """Count, measure and write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--run", default="paper", help="which run")
    parser.add_argument("--repeats", type=int, default=3, help="dry runs; the median counts")
    parser.add_argument("--note", default="", help="what else ran on the machine")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON to write")
    options = parser.parse_args()
    facts = measure(options.run, options.repeats) | {
        "note": options.note,
        "threads": torch.get_num_threads(),
        "repeats": options.repeats,
        "load_after": [round(load, 2) for load in os.getloadavg()],
    }
    save_json(options.out, facts)
    for times, found in facts["planning"].items():
        print(f"{times} x the datasets: {found['jobs']} jobs, planned in {found['seconds']:.1f} s")


if __name__ == "__main__":
    main()
