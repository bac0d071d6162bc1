"""The one loop over the epochs of a training, and the checkpoint that a killed stage goes on from.

    job = Checkpoints("pretrain", out, every)
    job.resume(facts)
    for epoch, optimizer in epochs(students, recipe, job, streams):
        ...  # train this epoch with this optimiser
    job.remove()

Between two epochs, when it is time, the loop keeps networks, optimiser and random streams.
Started again under the same facts, it yields the first epoch that is not in the checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from dd.artifacts.checkpoint import load_checkpoint, restore_streams, save_checkpoint, state_path
from dd.artifacts.row_files import RowWriter
from dd.runtime.preemption import Pace
from dd.training.ensemble import Ensemble
from dd.training.recipe import Recipe
from dd.training.state import resume_training, set_rate, training_state


class Checkpoints:
    """The checkpoints of a stage that trains, one after the other in the same file.

    The clock starts when the object is made.

    Args:
        stage: its name, the first word of every message.
        out: the file that the stage makes; the checkpoint is a hidden file beside it.
        every: seconds between two checkpoints.

    Attributes:
        at: JSON-serialisable facts that the next checkpoint keeps beside the tensors, and that the
            last one kept. The loop sets ``epoch`` (epochs done) and ``seconds``; a stage may add
            its own.
    """

    _facts: Mapping[str, Any]
    _rows: RowWriter | None
    _pace: Pace

    def __init__(self, stage: str, out: Path, every: float) -> None:
        self.stage, self.every = stage, every
        self.path = state_path(out)
        self.at: dict[str, Any] = {}
        self._started, self._before = time.monotonic(), 0.0
        self._found: dict[str, torch.Tensor] = {}

    def resume(
        self,
        facts: Mapping[str, Any],
        rows: RowWriter | None = None,
        *,
        done: str = "epoch",
        unit: str = "epochs",
    ) -> None:
        """Look for what a killed job left; say whether the stage goes on from it or starts anew.

        Args:
            facts: what identifies the job; a checkpoint of another one is set aside.
            rows: of a stage that also writes rows: without those of the killed job its checkpoint
                is worth nothing, and a new one is written only when they are on the disk.
            done, unit: the key of ``at`` that says how far the job was, and what it counts.
        """
        self._facts, self._rows = facts, rows
        tensors, at = load_checkpoint(self.stage, self.path, facts)
        if at and rows and not rows.found:
            print(f"{self.stage}: starting anew, {self.path} has no rows")
        elif at:
            print(f"{self.stage}: going on after {at[done]} {unit}")
            self._found, self.at, self._before = tensors, at, at["seconds"]
        self._pace = Pace(self.every)  # not before: until here SIGTERM ends the stage at once

    @property
    def found(self) -> bool:
        """Whether a checkpoint waits for :meth:`restore`."""
        return bool(self._found)

    @property
    def seconds(self) -> float:
        """That the job took until now, before and after it was killed."""
        return self._before + time.monotonic() - self._started

    def restore(
        self,
        students: Ensemble,
        optimizer: torch.optim.Optimizer,
        streams: Mapping[str, torch.Generator],
    ) -> int:
        """Bring them to where the checkpoint found was, once; returns how many epochs are done."""
        if not self.found:
            return 0
        students.load_state(resume_training(self._found, optimizer))
        restore_streams(self._found, streams)
        self._found = {}  # a stage that trains one network after another starts the next one anew
        return self.at["epoch"]

    def offer(
        self,
        epoch: int,
        students: Ensemble,
        optimizer: torch.optim.Optimizer,
        streams: Mapping[str, torch.Generator],
    ) -> None:
        """Write a checkpoint of a training after ``epoch`` epochs, if it is time for one.

        Raises:
            Terminated: when it is written, if SIGTERM has come.
        """
        if not self._pace.due():
            return
        if self._rows:
            self._rows.sync()  # first: a checkpoint must not count on rows that get lost
        self.at |= {"epoch": epoch, "seconds": self.seconds}
        tensors = training_state(students.state(), optimizer)
        save_checkpoint(self.path, self._facts, self.at, tensors, streams)
        self._pace.saved()

    def remove(self) -> None:
        """Drop the checkpoint: the stage has made what it is there for."""
        self.path.unlink(missing_ok=True)


def epochs(
    students: Ensemble,
    recipe: Recipe,
    job: Checkpoints | None = None,
    streams: Mapping[str, torch.Generator] | None = None,
) -> Iterator[tuple[int, torch.optim.Optimizer]]:
    """Yield each epoch's number, from 0, and the optimiser to train it with, its rate set.

    Args:
        students: the networks that are trained.
        recipe: gives the rate of each epoch, and whether its optimiser starts anew.
        job: where the training is kept between two epochs and goes on from; None: nowhere.
        streams: the random streams that the epochs draw from, kept with it.
    """
    rates, streams = recipe.rates(), streams or {}
    optimizer = recipe.new_optimizer(students.parameters, students.stacked)
    first = job.restore(students, optimizer, streams) if job else 0
    for epoch in range(first, len(rates)):
        lr, fresh = rates[epoch]
        if fresh and epoch:  # that of the first epoch is new already
            optimizer = recipe.new_optimizer(students.parameters, students.stacked)
        set_rate(optimizer, lr)
        yield epoch, optimizer
        # after the last epoch there is nothing left to train, only to measure and write
        if job and epoch + 1 < len(rates):
            job.offer(epoch + 1, students, optimizer, streams)
