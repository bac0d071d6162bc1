"""Distil a dataset: one loop for every objective, with snapshots, checkpoints and resume.

Writes OUT/it<n>.safetensors for every snapshot and OUT/metrics.jsonl (one line an iteration). Kill
it and start it again with the same options: it goes on from its last checkpoint to the same images.
Settings that are not given come from the recipe of objective, dataset and IPC (dd/recipes.yaml).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from dd import recipes, synthetic
from dd.artifacts import (
    check_target,
    command_line,
    load_tensors,
    provenance,
    read_header,
    replacing,
    save_tensors,
    save_text,
)
from dd.data.dataset import Dataset, load_dataset
from dd.errors import DDError, Divergence
from dd.networks import NetworkSource, PoolSource, SingleSource, load_pool
from dd.objectives import OBJECTIVES
from dd.objectives.base import Objective, Streams
from dd.parametrize.pixels import Pixels
from dd.progress import Progress
from dd.rng import generator
from dd.runtime import add_checkpoint_option, add_machine_options, peak_memory_mb, setup
from dd.settings import add_options, build
from dd.synthetic import SyntheticSet
from dd.trajectory import Trajectories, agreement


class Distillation:
    """A distillation under way: images, streams, iteration, and the files it leaves.

    Args:
        objective: bound to dataset, networks and streams.
        out: the folder for snapshots and metrics.
        snapshots: iterations to save at, ascending; the last one ends the loop.
        facts: what identifies this distillation; a checkpoint of another one is set aside.
        checkpoint_every: seconds between checkpoints.
    """

    def __init__(
        self,
        objective: Objective,
        out: Path,
        snapshots: list[int],
        facts: dict[str, Any],
        checkpoint_every: float = 60.0,
    ) -> None:
        self.objective, self.out, self.snapshots = objective, out, snapshots
        self.facts, self.every = facts, checkpoint_every
        # Beside the declared outputs, which Snakemake deletes when a job fails.
        self.folder = out / ".checkpoint"
        self.iteration, self.seconds = 0, 0.0
        self.metrics: list[str] = []

    def run(self) -> None:
        """Distil from the last checkpoint, if any, to the last snapshot."""
        started = time.monotonic()
        start = self.objective.start()
        settings = self.objective.settings
        lr, momentum = getattr(settings, "lr_img", 0.0), getattr(settings, "momentum_img", 0.0)
        self.canvas = Pixels(start, self.objective.labels(), lr, momentum)
        self._resume()
        if self.iteration == 0:
            self._snapshot()
        before, saved = self.seconds, time.monotonic()
        last = self.snapshots[-1]
        with Progress("distill", last, "it", initial=self.iteration) as progress:
            while self.iteration < last:
                try:
                    values = self.objective.iteration(self.iteration + 1, self.canvas)
                    if not math.isfinite(values["loss"]):
                        raise Divergence(f"the loss is {values['loss']}; try a smaller --lr-img")
                except Divergence as error:
                    raise self._given_up(error) from None
                self.iteration += 1
                self.seconds = before + time.monotonic() - started
                line = {"iteration": self.iteration, **values, "seconds": round(self.seconds, 3)}
                self.metrics.append(json.dumps(line))
                progress.update(loss=values["loss"])
                if self.iteration in self.snapshots:
                    self._snapshot()
                if time.monotonic() - saved >= self.every or self.iteration == last:
                    self._checkpoint()
                    saved = time.monotonic()
        self._deliver()

    def _given_up(self, error: Divergence) -> DDError:
        """Keep the last good images; the error with what the user needs to know."""
        settings = dataclasses.asdict(self.objective.settings)
        number = self.iteration + 1
        if not self.canvas.images().isfinite().all():
            path = self.folder / "state.safetensors"
            kept = f"; the last checkpoint is {path}" if path.exists() else ""
        else:
            synthetic.save(path := self.out / f"last-it{self.iteration}.safetensors", self._set())
            kept = f"; the images before are in {path}"
        told = ", ".join(f"{name}={value}" for name, value in settings.items())
        return DDError(f"{self.out}: diverged at iteration {number}: {error} ({told}){kept}")

    def _snapshot(self) -> None:
        """Keep the images of a snapshot's iteration in the checkpoint folder until delivery."""
        if self.iteration not in self.snapshots:
            return
        if not self.canvas.images().isfinite().all():
            raise self._given_up(Divergence("images are infinite; try a smaller --lr-img"))
        synthetic.save(self._kept(self.iteration), self._set())

    def _set(self) -> SyntheticSet:
        """The synthetic set as it is now."""
        objective = self.objective
        dataset: Dataset = objective.dataset
        outcome = objective.outcome(self.canvas)
        origin = provenance(
            command=command_line(),
            wall_seconds=round(self.seconds, 1),
            device=str(objective.device),
            threads=torch.get_num_threads(),
            peak_memory_mb=peak_memory_mb(objective.device),
        )
        return SyntheticSet(
            self.canvas.images().cpu() if outcome.indices is None else None,
            self.canvas.labels.cpu(),
            dataset.mean.cpu(),
            dataset.std.cpu(),
            indices=outcome.indices,
            learned_lr=outcome.learned_lr,
            extras=outcome.extras,
            header={
                **self.facts,
                "iteration": self.iteration,
                "classes": dataset.classes,
                "whitening": dataset.whitening,
                "provenance": origin,
            },
        )

    def _kept(self, iteration: int) -> Path:
        return self.folder / f"it{iteration}.safetensors"

    def _checkpoint(self) -> None:
        streams = self.objective.streams
        tensors = {f"canvas.{name}": value for name, value in self.canvas.state().items()}
        tensors |= {f"objective.{name}": v for name, v in self.objective.state().items()}
        for name in ("host", "network"):
            tensors[f"stream.{name}"] = getattr(streams, name).get_state()
        save_text(self.folder / "metrics.jsonl", "".join(f"{line}\n" for line in self.metrics))
        header = {"facts": self.facts, "iteration": self.iteration, "seconds": self.seconds}
        save_tensors(self.folder / "state.safetensors", "checkpoint", tensors, header)

    def _resume(self) -> None:
        path = self.folder / "state.safetensors"
        if not path.exists():
            return
        try:
            tensors, header = load_tensors(path, "checkpoint")
            lines = (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        except (DDError, OSError) as error:
            print(f"distill: starting anew, the checkpoint cannot be read ({error})")
            return
        # through JSON, because that is what the facts of a checkpoint went through
        if header.get("facts") != json.loads(json.dumps(self.facts)):
            print(f"distill: starting anew, {path} belongs to other settings")
            return
        done = [n for n in self.snapshots if n <= header["iteration"]]
        if not all(self._kept(n).exists() for n in done) or len(lines) < header["iteration"]:
            print(f"distill: starting anew, {self.folder} has lost a snapshot or metrics")
            return

        def under(prefix: str) -> dict[str, torch.Tensor]:
            return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

        self.canvas.load_state(under("canvas."))
        self.objective.load_state(under("objective."))
        for name, state in under("stream.").items():
            getattr(self.objective.streams, name).set_state(state)
        self.iteration, self.seconds = header["iteration"], header["seconds"]
        self.metrics = lines[: self.iteration]
        print(f"distill: going on from iteration {self.iteration}")

    def _deliver(self) -> None:
        """Copy the snapshots to their declared names, then drop the checkpoint folder."""
        for iteration in self.snapshots:
            with replacing(self.out / f"it{iteration}.safetensors") as partial:
                shutil.copyfile(self._kept(iteration), partial)
        save_text(self.out / "metrics.jsonl", "".join(f"{line}\n" for line in self.metrics))
        shutil.rmtree(self.folder)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m dd distill``."""
    need = parser.add_argument_group("what to distil")
    need.add_argument("--data", required=True, type=Path, help="prepared dataset", metavar="FILE")
    need.add_argument("--objective", required=True, help=f"one of {', '.join(OBJECTIVES)}")
    need.add_argument("--ipc", required=True, type=int, help="images per class")
    need.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write to")
    networks = parser.add_mutually_exclusive_group()
    networks.add_argument(
        "--network", default="convnet", help="architecture, NAME or NAME:key=value,..."
    )
    networks.add_argument(
        "--pool", type=Path, metavar="FILE", help="model pool (YAML) (default: none)"
    )
    need.add_argument(
        "--snapshots",
        type=int,
        nargs="+",
        metavar="N",
        help="iterations to save at; the last one ends the run (default: the recipe's iterations)",
    )
    need.add_argument(
        "--buffers",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="shards of `python -m dd buffer` (default: none; trajectory matching needs them)",
    )
    parser.add_argument("--width-factor", type=float, default=1.0, help="scales network widths")
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers")
    add_checkpoint_option(parser)
    add_machine_options(parser)
    group = parser.add_argument_group("settings (default: the recipe's; see dd/recipes.yaml)")
    add_options(group, _declared_settings(), skip=("iterations",))  # said by --snapshots


def _declared_settings() -> dict[str, tuple[dataclasses.Field, str]]:
    """Every setting that any objective declares, with what it means to whom."""
    meanings: dict[str, dict[str, list[str]]] = {}
    declared: dict[str, dataclasses.Field] = {}
    for objective in OBJECTIVES:
        for field in dataclasses.fields(OBJECTIVES[objective].Settings):
            owners = meanings.setdefault(field.name, {})
            owners.setdefault(field.metadata["help"], []).append(objective)
            declared[field.name] = field
    return {
        name: (
            field,
            "; ".join(f"{text} [{', '.join(who)}]" for text, who in meanings[name].items()),
        )
        for name, field in declared.items()
    }


def run(arguments: argparse.Namespace) -> None:
    """The stage: check everything, then distil."""
    options = vars(arguments)
    objective_class = OBJECTIVES[arguments.objective]
    if objective_class.takes_all and arguments.ipc != 0:
        raise DDError(
            f"--ipc is {arguments.ipc}, but {arguments.objective} takes all images: give 0"
        )
    if arguments.ipc < 1 and not objective_class.takes_all:
        raise DDError(f"--ipc is {arguments.ipc}, it must be at least 1")
    check_target(arguments.out / "metrics.jsonl")
    device = setup(arguments.device, arguments.threads)
    given = {name: options[name] for name in _declared_settings() if name in options}
    name = str(read_header(arguments.data).get("name", arguments.data.stem))
    recipe = recipes.resolve(arguments.objective, name, arguments.ipc, given)
    snapshots = sorted(set(arguments.snapshots or [recipe["iterations"]]))
    if snapshots[0] < 0:
        raise DDError(f"--snapshots: {snapshots[0]} is no iteration; give numbers from 0")
    settings = build(
        objective_class.Settings, recipe | {"iterations": snapshots[-1]}, arguments.objective
    )
    dataset = load_dataset(arguments.data, device, settings.whitening)
    smallest = min(range(len(dataset.classes)), key=lambda k: len(dataset.train.by_class[k]))
    if arguments.ipc > len(dataset.train.by_class[smallest]):
        raise DDError(
            f"--ipc is {arguments.ipc}, but class '{dataset.classes[smallest]}' of {dataset.name} "
            f"has {len(dataset.train.by_class[smallest])} training images"
        )
    networks = _network_source(arguments, dataset, device)
    streams = Streams(
        seed=arguments.seed,
        host=generator(arguments.seed, "distill", "host"),
        network=generator(arguments.seed, "distill", "network", device=device),
        start=generator(arguments.seed, "distill", "start"),
    )
    facts = {
        "dataset": dataset.name,
        "dataset_label": dataset.label,
        "fingerprint": dataset.fingerprint,
        "objective": arguments.objective,
        "ipc": arguments.ipc,
        "seed": arguments.seed,
        "networks": networks.describe(),
        "width_factor": arguments.width_factor,
        "settings": dataclasses.asdict(settings),
        "snapshots": snapshots,
        "device": device.type,
    }
    trajectories = None
    if objective_class.needs_trajectories:
        if not arguments.buffers:
            raise DDError(f"--buffers: {arguments.objective} needs shards of `python -m dd buffer`")
        agreed = agreement(dataset, arguments.width_factor)
        trajectories = Trajectories(arguments.buffers, agreed, device)
        facts["buffers"] = trajectories.describe()
    elif arguments.buffers:
        raise DDError(f"--buffers: {arguments.objective} matches no trajectories; leave it out")
    objective = objective_class(settings, dataset, arguments.ipc, networks, streams, trajectories)
    Distillation(objective, arguments.out, snapshots, facts, arguments.checkpoint_every).run()
    print(
        f"distill: {', '.join(f'it{n}' for n in snapshots)} of {arguments.objective} in "
        f"{arguments.out}"
    )


def _network_source(
    arguments: argparse.Namespace, dataset: Dataset, device: torch.device
) -> NetworkSource:
    shape = (dataset.channels, dataset.size, len(dataset.classes))
    scale = {"width_factor": arguments.width_factor, "device": device}
    if arguments.pool:
        return PoolSource(load_pool(arguments.pool), *shape, **scale)
    return SingleSource(arguments.network, *shape, **scale)
