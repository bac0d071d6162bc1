"""A run's configuration, resolved and checked; which jobs its tables and figures need.

``python -m dd configure`` writes ``config.json``: the run, and for every distillation the settings
that it is given. The workflow asks :class:`Plan` for the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from dd.errors import DDError
from dd.grid import Cell, Grid, load_grid
from dd.run import Run, load_run
from dd.spec import format_value, parse_protocol

SHOWN = ("images", "difference", "weights")  # kinds of figures that show synthetic sets themselves
NETWORK = "convnet"  # of a distillation without a pool


@dataclass(frozen=True)
class Distillation:
    """One job that makes a synthetic set; its path below ``distilled/`` names it."""

    dataset: str
    spec: str
    ipc: int
    seed: int

    def __str__(self) -> str:
        return f"{self.dataset}/{self.spec}/ipc{self.ipc}/seed{self.seed}"


@dataclass(frozen=True)
class Shard:
    """One job that trains experts; its path below ``buffers/`` names it."""

    dataset: str
    whitening: str
    network: str
    number: int

    def __str__(self) -> str:
        return f"{self.dataset}/{self.whitening}/{self.network}/shard{self.number}"


@dataclass(frozen=True)
class Evaluation:
    """One job that evaluates a snapshot; its path below ``evaluations/`` names it."""

    distillation: Distillation
    iterations: int
    protocol: str

    def __str__(self) -> str:
        return f"{self.distillation}/it{self.iterations}/{self.protocol}"


class Plan:
    """The jobs of a run: each once, whatever number of tables and figures share it.

    Attributes:
        run: the run.
        grids: the tables and figures by ``(kind, name)``, optional ones included.
        distillations: the snapshots asked of each distillation, ascending.
        shards: the buffers' parts that they read.
        evaluations: the architectures asked of each evaluation, in alphabetical order.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.grids = {
            (kind, name): load_grid(kind, run.path(f"{kind}s", f"{name}.yaml"), run)
            for kind, name in self._names()
        }
        known = {axis for grid in self.grids.values() for axis in grid.axes}
        for grid in self.grids.values():
            known |= _selected(grid)
        for axis in run.axes:
            if axis not in known:
                raise DDError(
                    f"run {run.name}: axis '{axis}' is in none of its tables and figures "
                    f"(their axes are {', '.join(sorted(known))})"
                )

    def _names(self) -> list[tuple[str, str]]:
        run = self.run
        listed = [("table", name) for name in run.tables]
        listed += [("figure", name) for name in run.figures]
        return listed + [
            (kind, name)
            for name in run.optional
            for kind in ("table", "figure")
            if Path(run.path(f"{kind}s", f"{name}.yaml")).is_file() and (kind, name) not in listed
        ]

    @cached_property
    def distillations(self) -> dict[Distillation, tuple[int, ...]]:
        found: dict[Distillation, set[int]] = {}
        for cell in self._cells():
            for job in distillations(cell, self.run):
                found.setdefault(job, set()).add(cell.iterations)
        return {job: tuple(sorted(snapshots)) for job, snapshots in found.items()}

    @cached_property
    def shards(self) -> list[Shard]:
        jobs = self.distillations
        return list(dict.fromkeys(shard for job in jobs for shard in self.shards_of(job)))

    @cached_property
    def evaluations(self) -> dict[Evaluation, tuple[str, ...]]:
        found: dict[Evaluation, set[str]] = {}
        for cell in self._cells():
            for job in evaluations(cell, self.run):
                found.setdefault(job, set()).add(str(cell.arch))
        return {job: tuple(sorted(archs)) for job, archs in found.items()}

    def _cells(self) -> list[Cell]:
        return [cell for grid in self.grids.values() for cell in grid.cells()]

    def shards_of(self, job: Distillation) -> list[Shard]:
        """The shards that hold the experts of a distillation; none where it needs no experts."""
        settings = self.settings(job)
        if "experts" not in settings:
            return []
        count = -(-settings["experts"] // self.run.buffer(job.dataset)["experts"])
        return [
            Shard(job.dataset, settings["whitening"], network, number)
            for network in networks(self.run, job.spec)
            for number in range(count)
        ]

    def settings(self, job: Distillation) -> dict[str, Any]:
        """The objective's settings for a distillation, iterations apart."""
        settings = self.run.distillation(job.spec, job.dataset, job.ipc)
        return {name: value for name, value in settings.items() if name != "iterations"}

    def protocol(self, job: Evaluation) -> dict[str, Any]:
        """How the networks of an evaluation are trained: settings and protocol."""
        made = job.distillation
        protocol = parse_protocol(job.protocol, self.run.protocols)
        return self.run.evaluation(made.spec, made.dataset, made.ipc) | dict(protocol.options)

    def preparation(self, dataset: str) -> dict[str, Any]:
        """Options of ``python -m dd prepare``."""
        asked = {k: v for k, v in self.run.datasets[dataset].items() if k != "comparable_to"}
        spaces = {self.settings(j)["whitening"] for j in self.distillations if j.dataset == dataset}
        return asked | {"name": dataset, "zca": "zca" in spaces}

    def buffer_options(self, shard: Shard) -> dict[str, Any]:
        """Options of ``python -m dd buffer`` that decide what comes out."""
        settings = self.run.buffer(shard.dataset)
        return {
            "network": shard.network,
            "whitening": shard.whitening,
            "first": shard.number * settings["experts"],
            "width_factor": self.run.width_factor,
            **settings,
        }

    def distill_options(self, job: Distillation) -> dict[str, Any]:
        """Options of ``python -m dd distill`` that decide what comes out."""
        run, spec = self.run, self.run.parse(job.spec)
        return {
            "objective": spec.objective,
            "ipc": job.ipc,
            "seed": job.seed,
            "pool": next(iter(pool_files(run, job.spec)), None),
            "width_factor": run.width_factor,
            **self.settings(job),
        }

    def evaluate_options(self, job: Evaluation) -> dict[str, Any]:
        """Options of ``python -m dd evaluate`` that decide what comes out."""
        run = self.run
        # Apart by more than a set has networks: no two sets of a cell share a network's seed.
        fixed = {"networks": run.networks, "seed": 1000 * job.distillation.seed}
        fixed["diverged"] = "record"  # a setting that fails is a result too; tables say so
        return fixed | {"width_factor": run.width_factor} | self.protocol(job)

    def targets(self) -> dict[str, tuple[list[str], list[str]]]:
        """Tables and figures by target: each paper's (without the optional ones), each name's."""
        found: dict[str, tuple[list[str], list[str]]] = {}
        for (kind, name), grid in self.grids.items():
            targets = [name] if name in self.run.optional else [grid.definition["paper"], name]
            for target in targets:
                found.setdefault(target, ([], []))[kind == "figure"].append(name)
        return found

    def document(self) -> dict[str, Any]:
        """What ``config.json`` holds."""
        return {
            "run": self.run.document(),
            "protocols": self.run.protocols,
            "distillations": {
                str(job): {"snapshots": list(snapshots), **self.settings(job)}
                for job, snapshots in self.distillations.items()
            },
            "buffers": {str(shard): self.buffer_options(shard) for shard in self.shards},
            "evaluations": {
                str(job): {"arch": list(archs), **self.protocol(job)}
                for job, archs in self.evaluations.items()
            },
        }

    def inputs(self, kind: str, name: str) -> list[str]:
        """The files that a table or figure is rendered from, beside its definition."""
        grid, run = self.grids[kind, name], self.run
        cells = grid.cells()
        files = []
        if "published" in grid.definition:
            files.append(published_file(grid))
        kind = grid.definition["kind"]
        if kind == "settings":
            specs = {job.spec for job in self.distillations}
            files += sorted({file for spec in specs for file in pool_files(run, spec)})
        if kind in SHOWN:
            made = [(job, cell.iterations) for cell in cells for job in distillations(cell, run)]
            if kind == "images":
                files += [data_file(run, dataset) for dataset in {c.dataset: 0 for c in cells}]
            files += [synthetic_file(run, job, iterations) for job, iterations in made]
        else:
            jobs = [job for cell in cells for job in evaluations(cell, run)]
            files += [evaluation_file(run, job) for job in jobs]
        if kind == "curves":
            files += [metrics_file(run, job) for c in cells for job in distillations(c, run)]
        return list(dict.fromkeys(files))


def distillations(cell: Cell, run: Run) -> list[Distillation]:
    """The synthetic sets of a cell, one a seed."""
    return [Distillation(cell.dataset, cell.spec, cell.ipc, seed) for seed in run.seeds]


def evaluations(cell: Cell, run: Run) -> list[Evaluation]:
    """The evaluations of a cell, protocol by protocol, one a seed; none where it has no network."""
    if cell.arch is None:
        return []
    return [
        Evaluation(job, cell.iterations, protocol)
        for protocol in cell.protocols
        for job in distillations(cell, run)
    ]


def _selected(grid: Grid) -> set[str]:
    binds = [bound for axis in grid.axes for bound in grid.values(axis).values()]
    return {bound["select"]["axis"] for bound in binds if "select" in bound}


def data_file(run: Run, dataset: str) -> str:
    return f"{run.root}/data/{dataset}.safetensors"


def pool_files(run: Run, spec: str) -> list[str]:
    """The definition of the pool that ``spec`` draws networks from, if it does."""
    pool = run.parse(spec).pool
    return [run.path("pools", f"{pool}.yaml")] if pool else []


def networks(run: Run, spec: str) -> list[str]:
    """The networks that ``spec`` distils with."""
    pools = pool_files(run, spec)
    if not pools:
        return [NETWORK]
    from dd.networks import load_pool  # imports torch, which the workflow's parsing need not

    return [name for name, _ in load_pool(pools[0]).networks()]


def synthetic_file(run: Run, job: Distillation, iterations: int) -> str:
    return f"{run.root}/distilled/{job}/it{iterations}.safetensors"


def metrics_file(run: Run, job: Distillation) -> str:
    return f"{run.root}/distilled/{job}/metrics.jsonl"


def shard_file(run: Run, shard: Shard) -> str:
    return f"{run.root}/buffers/{shard}.safetensors"


def evaluation_file(run: Run, job: Evaluation) -> str:
    return f"{run.root}/evaluations/{job}.csv"


def published_file(grid: Grid) -> str:
    return str(Path(grid.run.workflow, "reference", grid.definition["published"]["file"]))


def options(settings: Mapping[str, Any]) -> list[str]:
    """Settings as command-line options: ``lr_img: 0.1`` is ``--lr-img 0.1``; true is a flag."""
    words = []
    for name, value in settings.items():
        if value is False or value is None:
            continue
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words.append(format_value(value))
    return words


def read_run(path: str | Path) -> Run:
    """The run that a ``config.json`` describes; its results are taken to lie beside the file.

    Raises:
        DDError: if the file is missing or no such configuration.
    """
    from dd.artifacts import load_json  # imports torch, which the workflow's parsing need not

    content = load_json(path)
    try:
        run = Run(**content["run"])
    except (KeyError, TypeError):
        raise DDError(f"{path}: is no configuration of `python -m dd configure`") from None
    root = Path(path).resolve().parent
    return Run(**run.document() | {"name": root.name, "results": str(Path(path).parent.parent)})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", required=True, help="a run's name or its YAML file")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides, as snakemake --config"
    )
    parser.add_argument("--workflow", default="workflow", help="folder of the workflow")
    parser.add_argument("--out", required=True, help="the JSON file to write")


def run(arguments: argparse.Namespace) -> None:
    """Check the run down to names and values that only the stages know, and write it."""
    from dd.artifacts import save_json
    from dd.checks import check_plan

    plan = Plan(load_run(arguments.run, parse_overrides(arguments.set), arguments.workflow))
    check_plan(plan)
    save_json(arguments.out, plan.document())
    print(
        f"{arguments.out}: run {plan.run.name}, {len(plan.distillations)} distillations, "
        f"{len(plan.evaluations)} evaluations"
    )


def parse_overrides(words: list[str]) -> dict[str, Any]:
    """``KEY=VALUE`` words as a mapping, values read as YAML."""
    overrides = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise DDError(f"--set: '{word}' must be KEY=VALUE")
        try:
            overrides[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise DDError(f"--set: '{word}': the value is not YAML") from None
    return overrides
