"""What the full run takes, before anybody starts it: jobs, arithmetic, disk, and time to plan it.

Arithmetic is counted, not timed: the floating-point operations of what a job does with an image
and a network (a forward pass, a training step, a gradient of a gradient), times how often it does
so. The rows of :mod:`benchmarks.speed` say how many of them a machine does a second in the suite,
and so how long the jobs would take there. Writes one JSON file; ``python -m benchmarks.report``
puts it into docs/scaling.md.
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
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

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
    auxiliary,
    auxiliary_networks,
    networks,
    pool_files,
)
from dd.networks import create, load_pool
from dd.plan import Plan, load_run
from dd.run import Run

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results"
RUN = "paper"  # at width factor 1, with the datasets of DATA
MORE = 10  # times as many datasets
MAPPED = 10  # images a class whose activation maps are kept (dd/cams.py)


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


class Counter(TorchDispatchMode):
    """Adds up the floating-point operations of all that is computed under it, by torch's own rules.

    (torch's FlopCounterMode follows modules by hooks, which gradients by an input do not pass.)
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        rule = flop_registry.get(function._overloadpacket)
        if rule:
            self.total += rule(*args, **(kwargs or {}), out_val=found)
        return found


@cache
def operations(way: str, spec: str, data: Data) -> float:
    """Floating-point operations for one image and one network, by torch's own counter.

    Args:
        way: ``forward``; ``train``: gradient by the parameters; ``images``: by the image alone;
            ``match``: gradient by the image of a function of the gradient by the parameters (dc);
            ``unroll``: a student's step, and the way back through it (mtt).
    """
    network = _network(spec, data)
    parameters = list(network.parameters())
    image = torch.zeros(1, data.channels, data.side, data.side, device="meta")
    with Counter() as counter:
        if way == "forward":
            with torch.no_grad():
                network(image)
        elif way == "images":
            _with_respect_to(network, parameters, image, [image], graph=False)
        else:
            if way in ("train", "unroll"):
                _with_respect_to(network, parameters, image, parameters, graph=False)
            if way in ("match", "unroll"):
                image.requires_grad_(True)
                found = _with_respect_to(network, parameters, image, parameters, graph=True)
                wanted = [image, *parameters] if way == "unroll" else [image]
                torch.autograd.grad(sum(g.square().sum() for g in found), wanted, allow_unused=True)
    return float(counter.total)


def _with_respect_to(
    network: torch.nn.Module,
    parameters: list[torch.Tensor],
    image: torch.Tensor,
    wanted: list[torch.Tensor],
    graph: bool,
) -> tuple[torch.Tensor, ...]:
    """Gradient of the sum of the logits of ``image`` by ``wanted``."""
    for tensor in parameters:
        tensor.requires_grad_(any(tensor is one for one in wanted))
    for tensor in wanted:
        tensor.requires_grad_(True)
    loss = torch.nn.functional.log_softmax(network(image), 1).sum()
    return torch.autograd.grad(loss, wanted, create_graph=graph)


def parameters(spec: str, data: Data) -> int:
    """How many values a network has."""
    return sum(p.numel() for p in _network(spec, data).parameters())


@cache
def autoencoder(width: int, code: int, data: Data) -> tuple[float, float]:
    """Operations of the training step of the generator on one image, and of decoding one and the
    gradient by its code."""
    network = create_generator(data.channels, code or 16 * data.channels // 3, width, None, "meta")
    image = torch.zeros(1, data.channels, data.side, data.side, device="meta")
    found = []
    for wanted in ("parameters", "code"):
        with Counter() as counter:
            codes = network.encode(image)
            if wanted == "code":
                before, codes = counter.total, codes.detach().requires_grad_()
                network.requires_grad_(False)
            network.decode(codes, (data.side, data.side)).sum().backward()
            done = counter.total - (before if wanted == "code" else 0)
        found.append(float(done))
    return found[0], found[1]


class Estimate:
    """Operations and bytes of the jobs of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.run = plan, plan.run

    def work(self, job: Any) -> float:
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
        return images * operations("train", job.network, data)

    def _pretraining(self, job: Pretraining) -> float:
        data = DATA[job.dataset]
        if job.network == GENERATOR:
            own = self.run.generator(job.dataset)
            step, _ = autoencoder(own["width"], own["code"], data)
            return own["epochs"] * data.train * step
        epochs = self.run.pretrain(job.network, job.dataset)["epochs"]
        trained = epochs * data.train * operations("train", job.network, data)
        return trained + data.test * operations("forward", job.network, data)

    def _drawn(self, way: str, job: Distillation) -> float:
        """Operations for an image with the networks that a distillation draws, on average."""
        data, settings = DATA[job.dataset], self.plan.settings(job)
        if files := pool_files(self.run, job.spec):
            networks = load_pool(files[0]).networks()
            return sum(share * operations(way, name, data) for name, share in networks)
        return operations(way, settings["network"], data)

    def _distillation(self, job: Distillation) -> float:
        data, settings = DATA[job.dataset], self.plan.settings(job)
        spec, count, updates = self.run.parse(job.spec), data.classes * job.ipc, 1
        real = data.classes * settings.get("batch_real", 0)
        match spec.objective:
            case "dc" | "dsa":
                updates = settings["outer"]
                step = updates * real * self._drawn("train", job)
                step += updates * count * self._drawn("match", job)
                trained = (updates - 1) * settings["inner"] * count
                step += trained * self._drawn("train", job)
            case "dm":
                step = real * self._drawn("forward", job) + count * self._drawn("images", job)
            case "mtt" | "iadd":
                batch = min(settings["batch_syn"] or count, count)
                step = settings["student_steps"] * batch * self._drawn("unroll", job)
            case "sre2l":
                step = count * self._drawn("images", job)
            case "herding" | "kcenter":
                trained = settings["feature_epochs"] * data.train * self._drawn("train", job)
                return trained + data.train * self._drawn("forward", job)
            case "random" | "full":
                return 0.0
            case other:
                raise ValueError(f"no rule to count {other}")
        step += updates * (self._regulariser(job, count) + self._generator(job, count))
        return self.plan.distillations[job][-1] * step

    def _regulariser(self, job: Distillation, count: int) -> float:
        """Of an update under MetaDD: maps without a graph, if they count, then each network's way
        back to the images."""
        spec, data = self.run.parse(job.spec), DATA[job.dataset]
        if not spec.regulariser:
            return 0.0
        own = self.run.part(spec.regulariser, spec.objective, job.dataset, job.ipc)
        names = auxiliary_networks(self.run, job.spec, job.dataset, job.ipc)
        ways = ("forward", "images") if own["lambda_kl"] else ("images",)
        each = sum(operations(way, name, data) for way in ways for name in names)
        drawn = min(own["draw"] or len(names), len(names)) / len(names)
        return min(own["images"] or count, count) * drawn * each

    def _generator(self, job: Distillation, count: int) -> float:
        """Of an update under GLaD: decoding, and the gradient by the codes."""
        if not self.run.parse(job.spec).parametrisation:
            return 0.0
        own = self.run.generator(job.dataset)
        return count * autoencoder(own["width"], own["code"], DATA[job.dataset])[1]

    def _relabelling(self, job: Relabelling) -> float:
        made = job.snapshot.distillation
        data, views = DATA[made.dataset], self.run.relabel(made.dataset)["views"]
        teachers = sum(operations("forward", name, data) for name in auxiliaries(job.teacher))
        return views * data.classes * made.ipc * teachers

    def _evaluation(self, job: Evaluation) -> float:
        made, options, archs = job.distillation, self.plan.protocol(job), self.plan.evaluations[job]
        data = DATA[made.dataset]
        count = data.train if made.spec == "full" else data.classes * made.ipc
        epochs, trained = options["epochs"], list(archs)
        total = 0.0
        if options["protocol"] == "kd":  # a teacher for each number; it looks once at images that
            teacher, seen = (
                options["teacher"],
                1 if options["augment"] == "none" else epochs,
            )  # stay
            trained.append(teacher)
            total += len(archs) * seen * count * operations("forward", teacher, data)
        for name in trained:
            total += epochs * count * operations("train", name, data)
            total += data.test * operations("forward", name, data)
        return self.run.networks * total

    def _maps(self, job: Snapshot) -> float:
        made = job.distillation
        data, shown = DATA[made.dataset], min(made.ipc, MAPPED)
        names = [one.network for one in self.plan.seers_of(made)]
        return data.classes * shown * sum(operations("forward", name, data) for name in names)

    def _erasing(self, job: Erasing) -> float:
        """Maps of the networks that define regions; then all, on images whole and erased thrice."""
        data = DATA[job.dataset]
        names = [one.network for one in self.plan.erased_for(job)]
        asked = [*auxiliary(self.run, job.dataset), *(4 * names)]
        return data.test * sum(operations("forward", name, data) for name in asked)

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
            data, spec = DATA[job.dataset], self.run.parse(job.spec)
            values = data.classes * job.ipc * data.values
            if "experts" in self.plan.settings(job):  # differences, and weights where it learns any
                kept = 2 if spec.objective == "iadd" else 1
                names = networks(self.run, job.spec, job.dataset, job.ipc)
                values += kept * sum(parameters(name, data) for name in names)
            return 4 * values * len(self.plan.distillations[job])
        if isinstance(job, Relabelling):
            made = job.snapshot.distillation
            data, settings = DATA[made.dataset], self.run.relabel(made.dataset)
            kept = settings["keep"] or data.classes
            width = 2 if not settings["keep"] else 4  # a probability, and which class it is of
            return settings["views"] * data.classes * made.ipc * kept * width
        return 0

    def _prepared(self, dataset: str) -> int:
        """Bytes of a dataset's file: 8-bit images, and ZCA's matrix where a method wants it."""
        data = DATA[dataset]
        zca = 4 * data.values**2 if self.plan.preparation(dataset)["zca"] else 0
        return (data.train + data.test) * data.values + zca

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
        raw = sum(self._prepared(name) for name in plan.run.datasets)
        found = {"prepare": {"jobs": len(plan.run.datasets), "operations": 0.0, "bytes": raw}}
        return found | {
            stage: {
                "jobs": len(those),
                "operations": sum(map(self.work, those)),
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
            one["distill"] += self.work(job)
        for job in self.plan.evaluations:
            found[key(job.distillation)]["evaluate"] += self.work(job)
        return found


def measured_work(name: str, ipc: int | None) -> float:
    """Operations of one unit of a row of :mod:`benchmarks.speed`, which is on CIFAR-10."""
    data = DATA["cifar10"]
    count, real = data.classes * (ipc or 0), data.classes * 256
    forward, train, images, match, unroll = (
        operations(way, "convnet", data)
        for way in ("forward", "train", "images", "match", "unroll")
    )
    if name in ("dc", "dsa"):
        steps, epochs = {1: (1, 0), 10: (10, 450)}[ipc]
        return steps * (real * train + count * match) + epochs * count * train
    if name == "dm":
        return real * forward + count * images
    if name == "mtt":
        return {1: 50, 10: 30}[ipc] * count * unroll
    if name == "buffer":
        return data.train * train
    if name == "evaluation":
        return 10 * (300 * count * train + data.test * forward)
    raise ValueError(f"no rule to count {name}")


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
    """The run as YAML with each dataset ``times`` times, the copies under other names and so with
    the general settings of all recipes."""
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


def measure(repeats: int) -> dict[str, Any]:
    """Everything that the page shows."""
    estimate = Estimate(Plan(load_run(RUN)).main)
    dag = {
        str(times): [planning(RUN, times) for _ in range(repeats if times == 1 else 1)]
        for times in (1, MORE)
    }
    return {
        "kind": "scaling",
        "provenance": provenance(machine=machine(torch.device("cpu"))),
        "run": RUN,
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
    parser.add_argument("--repeats", type=int, default=3, help="dry runs; the median counts")
    parser.add_argument("--note", default="", help="what else ran on the machine")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON to write")
    options = parser.parse_args()
    facts = measure(options.repeats) | {
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
