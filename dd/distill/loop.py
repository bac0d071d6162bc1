"""The loop that all distillations share: iterations, snapshots, checkpoints, resume, metrics."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dd.artifacts.atomic import replacing
from dd.artifacts.checkpoint import (
    load_checkpoint,
    restore,
    restore_streams,
    save_checkpoint,
    stream_state,
    under,
)
from dd.artifacts.fields import SECONDS, block, whole
from dd.artifacts.provenance import earlier, stage_provenance
from dd.artifacts.tensors import load_tensors
from dd.artifacts.text import parse_json, read_text, save_text, through_json
from dd.contracts import check_metrics, within
from dd.data import synthetic
from dd.data.dataset import Dataset
from dd.data.synthetic import SyntheticSet
from dd.distill.objectives.base import Objective
from dd.distill.parametrisations import Labelled, Parametrisation
from dd.errors import DDError, Divergence
from dd.runtime.preemption import Pace
from dd.runtime.progress import Progress
from dd.runtime.say import say

_OWN = ("iteration", "seconds")  # what the loop itself writes in each line of metrics


class DistillationLoop:
    """A distillation in progress: images, random streams, iteration, and the files that it writes.

    Args:
        objective: has its dataset, networks and streams.
        make_canvas: makes the images to optimise, as a parametrisation.
        out: the folder for snapshots and metrics.
        snapshots: iterations at which the set is saved, ascending; the last one ends the loop.
        facts: what identifies this distillation; a checkpoint with other facts is not used.
        checkpoint_every: seconds between checkpoints.
    """

    def __init__(
        self,
        objective: Objective,
        make_canvas: Callable[[], Parametrisation],
        out: Path,
        snapshots: list[int],
        facts: dict[str, Any],
        checkpoint_every: float = 60.0,
    ) -> None:
        self.objective, self.make_canvas = objective, make_canvas
        self.out, self.snapshots = out, snapshots
        self.facts, self.every = facts, checkpoint_every
        # Not among the declared outputs of the rule: Snakemake deletes those when a job fails.
        self.folder = out / ".checkpoint"
        self.iteration, self.seconds = 0, 0.0
        self.metrics: list[str] = []
        self.continued_from: list[dict[str, str]] = []  # other code that began the distillation

    def run(self) -> None:
        """Distil from the last checkpoint, if any, to the last snapshot.

        Raises:
            Unusable: if the checkpoint turns out not to fit; then this loop must not be used again.
        """
        started = time.monotonic()
        self.canvas = self.make_canvas()
        self._resume()
        if self.iteration == 0:
            self._snapshot()
        before, pace = self.seconds, Pace(self.every)
        last = self.snapshots[-1]
        with Progress("distill", last, "it", initial=self.iteration) as progress:
            while self.iteration < last:
                try:
                    with within(f"iteration {self.iteration + 1}"):
                        values = self._iteration(self.iteration + 1)
                    loss = float(values["loss"])
                    if not math.isfinite(loss):
                        raise Divergence(f"the loss is {loss}; try a smaller --lr-img")
                except Divergence as error:
                    raise self._given_up(error, self.iteration + 1) from None
                self.iteration += 1
                self.seconds = before + time.monotonic() - started
                line = {"iteration": self.iteration, **values, "seconds": round(self.seconds, 6)}
                self.metrics.append(json.dumps(line))
                progress.update(loss=loss)
                if self.iteration in self.snapshots:
                    self._snapshot()
                if pace.due() or self.iteration == last:
                    self._checkpoint()
                    pace.saved()
        self._deliver()

    def _iteration(self, number: int) -> dict[str, float | str]:
        """One iteration; its metrics, checked."""
        values = self.objective.iteration(number, self.canvas)
        check_metrics("it", values, needed=["loss"], taken=_OWN)
        further = self.canvas.metrics()
        check_metrics("the parametrisation or regulariser", further, taken=(*_OWN, *values))
        return {**values, **further}

    def _given_up(self, error: Divergence, number: int) -> DDError:
        """Keep the last finite images, and return the error of iteration ``number`` with what the
        user needs to know."""
        settings = dataclasses.asdict(self.objective.settings)
        if not self._sound():
            kept = "; its images are not finite any more, so none are kept"
            if self._state.exists():
                kept += f"; the last checkpoint is {self._state}"
        else:
            self._forget_last()
            synthetic.save(path := self.out / f"last-it{self.iteration}.safetensors", self._set())
            kept = f"; the images before it are in {path}"
        listed = ", ".join(f"{name}={value}" for name, value in settings.items())
        return DDError(f"{self.out}: diverged at iteration {number}: {error} ({listed}){kept}")

    def _forget_last(self) -> None:
        """Remove what an earlier start, which diverged, kept: it belongs to other settings."""
        for path in self.out.glob("last-it*.safetensors"):
            path.unlink()

    def _snapshot(self) -> None:
        """If this iteration is to be saved, keep its set in the checkpoint folder until the end."""
        if self.iteration not in self.snapshots:
            return
        if not self._sound():
            message = "images are infinite; try a smaller --lr-img"
            if isinstance(self.canvas, Labelled):
                message = "images or labels are infinite; try a smaller --lr-img or --lr-label"
            raise self._given_up(Divergence(message), self.iteration)
        synthetic.save(self._kept(self.iteration), self._set())

    def _sound(self) -> bool:
        """Whether all images and labels are finite."""
        return bool(self.canvas.images().isfinite().all() and self.canvas.labels.isfinite().all())

    def _set(self) -> SyntheticSet:
        """The current synthetic set."""
        objective = self.objective
        dataset: Dataset = objective.dataset
        outcome = objective.outcome(self.canvas)
        kind = {"labels": self.canvas.kind} if isinstance(self.canvas, Labelled) else {}
        return SyntheticSet(
            self.canvas.images().cpu() if outcome.indices is None else None,
            self.canvas.labels.cpu(),
            *dataset.mean_and_std(),
            indices=outcome.indices,
            learned_lr=outcome.learned_lr,
            extras=outcome.extras | self.canvas.extras(),
            schedule=outcome.schedule,
            header={
                **kind,
                **outcome.facts,
                **self.facts,
                "iteration": self.iteration,
                "classes": dataset.classes,
                "whitening": dataset.whitening,
                "provenance": stage_provenance(objective.device, self.seconds, self.continued_from),
            },
        )

    def _kept(self, iteration: int) -> Path:
        return self.folder / f"it{iteration}.safetensors"

    def _checkpoint(self) -> None:
        save_text(self.folder / "metrics.jsonl", "".join(f"{line}\n" for line in self.metrics))
        at = {"iteration": self.iteration, "seconds": self.seconds}
        save_checkpoint(self._state, self.facts, at, self._tensors(), self.continued_from)

    def _resume(self) -> None:
        last = self.snapshots[-1]
        needed = block({"iteration": whole(1, last), "seconds": SECONDS})
        lines = _lines(self.folder / "metrics.jsonl")

        def lost(at: dict[str, Any]) -> str:
            done = [n for n in self.snapshots if n <= at["iteration"]]
            if all(map(self._is_whole, done)) and len(lines) >= at["iteration"]:
                return ""
            return f"{self.folder} has lost a snapshot or metrics"

        kept = load_checkpoint("distill", self._state, self.facts, needed, lost)
        if kept is None:
            return
        restore(kept, self._tensors, self._load)
        self.iteration, self.seconds = kept.at["iteration"], kept.at["seconds"]
        self.metrics = lines[: self.iteration]
        say(f"distill: going on from iteration {self.iteration}")
        self.continued_from = earlier("distill", kept.makers)

    def _is_whole(self, iteration: int) -> bool:
        """Whether the snapshot of ``iteration`` of this distillation is in the checkpoint folder,
        undamaged."""
        try:
            _, header = load_tensors(self._kept(iteration), "synthetic")
        except (DDError, OSError):
            return False
        wanted = through_json({**self.facts, "iteration": iteration})
        return wanted == {key: header.get(key) for key in wanted}

    def _tensors(self) -> dict[str, torch.Tensor]:
        """The tensors of a checkpoint."""
        tensors = {f"canvas.{name}": value for name, value in self.canvas.state().items()}
        tensors |= {f"objective.{name}": v for name, v in self.objective.state().items()}
        return tensors | stream_state(self._streams())

    def _load(self, tensors: dict[str, torch.Tensor]) -> None:
        self.canvas.load_state(under("canvas.", tensors))
        self.objective.load_state(under("objective.", tensors))
        restore_streams(tensors, self._streams())

    @property
    def _state(self) -> Path:
        return self.folder / "state.safetensors"

    def _streams(self) -> dict[str, torch.Generator]:
        """The random streams: a part of a plug-in may draw from any of them in an iteration."""
        streams = self.objective.streams
        names = ("host", "network", "start", "regulariser")
        return {name: getattr(streams, name) for name in names}

    def _deliver(self) -> None:
        """Copy the snapshots to their declared names, then remove the checkpoint folder."""
        for iteration in self.snapshots:
            with replacing(self.out / f"it{iteration}.safetensors") as partial:
                shutil.copyfile(self._kept(iteration), partial)
        save_text(self.out / "metrics.jsonl", "".join(f"{line}\n" for line in self.metrics))
        self._forget_last()
        shutil.rmtree(self.folder)


def _lines(path: Path) -> list[str]:
    """The lines of a ``metrics.jsonl`` up to the first that is none of ours."""
    try:
        lines = read_text(path).splitlines()
    except (DDError, OSError):
        return []
    for number, line in enumerate(lines, start=1):
        try:
            whole_line = parse_json(line, "")["iteration"] == number
        except (DDError, LookupError, TypeError):
            whole_line = False
        if not whole_line:
            return lines[: number - 1]
    return lines
