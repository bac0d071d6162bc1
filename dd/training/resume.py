"""The loop over the epochs of a training, and the checkpoints from which a killed stage goes on.

::

    job = Checkpoints("pretrain", out, every)
    job.resume(facts)
    for epoch, optimizer in epochs(students, recipe, job, streams):
        ...  # train this epoch with this optimiser
    job.remove()

Between two epochs, if enough time has passed, the loop saves networks, optimiser and random
streams. If the stage is started again with the same facts, the loop begins with the first epoch
that is not in the checkpoint. The stage calls all of this through
:func:`dd.artifacts.checkpoint.or_anew`, since a checkpoint may turn out not to fit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from dd.artifacts.checkpoint import (
    Kept,
    Unusable,
    load_checkpoint,
    restore,
    restore_streams,
    save_checkpoint,
    state_path,
    stream_state,
)
from dd.artifacts.fields import BLOCK, SECONDS, Field, block, both, whole
from dd.artifacts.provenance import earlier
from dd.artifacts.row_files import RowWriter
from dd.runtime.preemption import Pace
from dd.runtime.say import say
from dd.training.ensemble import Ensemble
from dd.training.recipe import Recipe
from dd.training.state import resume_training, set_rate, training_state


class Checkpoints:
    """The checkpoints of a stage that trains. Each one replaces the one before it in the same file.

    The clock starts when the object is made.

    Args:
        stage: the name of the stage, the first word of all messages.
        out: the file that the stage makes; the checkpoint is a hidden file beside it.
        every: seconds between two checkpoints.

    Attributes:
        at: JSON-serialisable values that the next checkpoint saves besides the tensors; after
            :meth:`resume`, those of the last checkpoint. The loop sets ``epoch`` (epochs done) and
            ``seconds``; a stage may add its own values.
        continued_from: the other code or torch, if any, that began the job, for provenance.
    """

    _facts: Mapping[str, Any]
    _rows: RowWriter | None
    _pace: Pace

    def __init__(self, stage: str, out: Path, every: float) -> None:
        self.stage, self.every = stage, every
        self.path = state_path(out)
        self.at: dict[str, Any] = {}
        self.continued_from: list[dict[str, str]] = []
        self._started, self._before = time.monotonic(), 0.0
        self._kept: Kept | None = None

    def resume(
        self,
        facts: Mapping[str, Any],
        rows: RowWriter | None = None,
        *,
        own: Field = BLOCK,
        written: Callable[[Mapping[str, Any]], Iterable[tuple[int, ...]]] = lambda at: (),
        done: str = "epoch",
        unit: str = "epochs",
    ) -> None:
        """Read the checkpoint of a killed job, if there is one; print if it cannot be used.

        Args:
            facts: what identifies the job; a checkpoint with other facts is not used.
            rows: the writer of a stage that also writes rows. If the rows of the killed job are
                lost, its checkpoint is not used. A new checkpoint is written only after the rows
                are on the disk.
            written: positions of the rows that were written when the job was there, given ``at``.
            own: what ``at`` must be besides, for a stage that adds values.
            done, unit: the key of ``at`` that says how far the job was, and what it counts.
        """
        self._facts, self._rows, self._done, self._unit = facts, rows, done, unit
        loop = block({"epoch": whole(1), "seconds": SECONDS})

        def lost(at: Mapping[str, Any]) -> str:
            return rows.lost(written(at)) if rows else ""

        self._kept = load_checkpoint(self.stage, self.path, facts, both(loop, own), lost)
        if self._kept:
            self.at, self._before = self._kept.at, self._kept.at["seconds"]
        # From here on, SIGTERM ends the stage only after a checkpoint; before, it ends it at once.
        self._pace = Pace(self.every)

    @property
    def found(self) -> bool:
        """Whether there is a checkpoint that :meth:`restore` has not used yet."""
        return self._kept is not None

    @property
    def seconds(self) -> float:
        """The seconds that the job has taken until now, including the time before it was killed."""
        return self._before + time.monotonic() - self._started

    def restore(
        self,
        students: Ensemble,
        optimizer: torch.optim.Optimizer,
        streams: Mapping[str, torch.Generator],
        epochs: int,
    ) -> int:
        """Load the checkpoint into the arguments, once; return the number of epochs done.

        ``epochs`` is that of the whole training; a checkpoint is always of an unfinished one.

        Raises:
            Unusable: if its tensors are not those of such a training.
        """
        if not self._kept:
            return 0

        def load(tensors: Mapping[str, torch.Tensor]) -> None:
            students.load_state(resume_training(tensors, optimizer))
            restore_streams(tensors, streams)

        if self.at["epoch"] >= epochs:
            why = f"it is of epoch {self.at['epoch']}, the last one is {epochs}"
            raise Unusable(self.path, why)
        restore(self._kept, lambda: _state(students, optimizer, streams), load)
        say(f"{self.stage}: going on after {self.at[self._done]} {self._unit}")
        self.continued_from = earlier(self.stage, self._kept.makers)
        self._kept = None  # if the stage trains further networks, these start from epoch 0
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
            Terminated: if SIGTERM has come; the checkpoint is written first.
        """
        if not self._pace.due():
            return
        if self._rows:
            self._rows.sync()  # first, because a checkpoint must not rely on rows that may be lost
        self.at |= {"epoch": epoch, "seconds": self.seconds}
        tensors = _state(students, optimizer, streams)
        save_checkpoint(self.path, self._facts, self.at, tensors, self.continued_from)
        self._pace.saved()

    def remove(self) -> None:
        """Remove the checkpoint after the stage has written its file."""
        self.path.unlink(missing_ok=True)


def _state(
    students: Ensemble,
    optimizer: torch.optim.Optimizer,
    streams: Mapping[str, torch.Generator],
) -> dict[str, torch.Tensor]:
    """The tensors of a training in a checkpoint."""
    return training_state(students.state(), optimizer) | stream_state(streams)


def epochs(
    students: Ensemble,
    recipe: Recipe,
    job: Checkpoints | None = None,
    streams: Mapping[str, torch.Generator] | None = None,
) -> Iterator[tuple[int, torch.optim.Optimizer]]:
    """Yield for each epoch its number, from 0, and the optimiser, with the epoch's learning rate.

    Args:
        students: the networks that are trained.
        recipe: gives the rate of each epoch, and whether the epoch starts with a new optimiser.
        job: saves the training between two epochs and restores it; None: no checkpoints.
        streams: the random streams that the epochs draw from; checkpoints contain them.
    """
    rates, streams = recipe.rates(), streams or {}
    optimizer = recipe.new_optimizer(students.parameters, students.stacked)
    first = job.restore(students, optimizer, streams, len(rates)) if job else 0
    for epoch in range(first, len(rates)):
        lr, fresh = rates[epoch]
        if fresh and epoch:  # in the first epoch the optimiser is already new
            optimizer = recipe.new_optimizer(students.parameters, students.stacked)
        set_rate(optimizer, lr)
        yield epoch, optimizer
        # no checkpoint after the last epoch: only measuring and writing are left
        if job and epoch + 1 < len(rates):
            job.offer(epoch + 1, students, optimizer, streams)
