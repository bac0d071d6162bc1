"""The steps of students, taken one by one, or on a GPU as CUDA graphs.

A step on few images is small: its kernels take less time than Python needs to launch them. All
students of an objective take the same steps and differ in values alone: θ_0, the rate, and what
they see. So their steps, and the way back, are captured once and repeated for each student.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from dd.distill.student import Student
from dd.distill.unroll import Walk, pull_back, unroll
from dd.runtime import cuda_graphs
from dd.runtime.say import say

MOST_END = 1e-2  # of the student's movement, by which graphs may differ from their steps
MOST_GRADIENT = 0.3
"""Of the images' gradient. Rounding in float32 is enough for 0.08 after 50 steps
(benchmarks/README.md); a graph that reads wrong values has errors of 1."""


class Steps(Protocol):
    """The steps that a student took."""

    @property
    def end(self) -> Tensor:
        """θ_J, ``[P]``."""

    def gradients(self, cotangent: Tensor) -> tuple[Tensor, float]:
        """The derivatives of a loss of θ_J by the images and by the rate, from that by θ_J."""


class OneByOne:
    """Steps that Python takes one by one; ``keep`` of their graphs are kept."""

    def __init__(self, student: Student, start: Tensor, rate: float, keep: int) -> None:
        self.student, self.rate = student, rate
        self.walk = student.walk(start, rate, keep)

    @property
    def end(self) -> Tensor:
        return self.walk.end

    def gradients(self, cotangent: Tensor) -> tuple[Tensor, float]:
        return self.student.gradients(self.walk, self.rate, cotangent)


class Replay:
    """The steps of all students of a network, and the way back, as two CUDA graphs.

    Images are augmented before the first graph, as augmentation is another one for each student;
    the derivatives by them are carried back after the second.

    Args:
        student: the first one, whose network the graphs use.
        start: its θ_0. rate: its rate.
        keep: of how many last steps the graphs of autograd are kept.

    Raises:
        RuntimeError: if they cannot be captured, or need too much memory.
    """

    def __init__(self, student: Student, start: Tensor, rate: float, keep: int) -> None:
        self.student, self.keep, self.compared = student, keep, False
        self.start, self.rate = start.clone(), start.new_full((), rate, dtype=torch.float64)
        self.seen = [images.detach().clone() for images in student.augmented()[1]]
        self.labels = [labels.clone() for labels in student.labels]
        self.cotangent = torch.zeros_like(start)
        self.walk: Walk

        def both() -> None:
            self._forth()
            self._back()

        cuda_graphs.warm(both)
        self.forth = cuda_graphs.capture(self._forth)
        self.back = cuda_graphs.capture(self._back, self.forth.pool)

    def steps(self, student: Student, start: Tensor, rate: float) -> Replayed:
        """The steps of another student; they are lost with those of the next one."""
        leaves, seen = student.augmented()
        self.start.copy_(start)
        self.rate.fill_(rate)
        for mine, given in zip((*self.seen, *self.labels), (*seen, *student.labels), strict=True):
            mine.copy_(given.detach())
        self.forth.replay()
        return Replayed(self, student, leaves, seen)

    def errors(self, student: Student, start: Tensor, rate: float) -> tuple[float, float]:
        """How far the graphs are from steps one by one, in θ_J and in the images' gradient."""
        ours, theirs = self.steps(student, start, rate), OneByOne(student, start, rate, keep=0)
        moved = theirs.end - start
        end = (ours.end - theirs.end).norm() / moved.norm()
        found, expected = (steps.gradients(moved)[0] for steps in (ours, theirs))
        gradient = (found - expected).norm() / expected.norm()
        return tuple(torch.stack([end, gradient]).tolist())

    def _forth(self) -> list[Tensor]:
        shapes = self.student.shapes
        self.walk = unroll(self._loss, shapes, self.start, self.rate, self.seen, self.keep)
        return self.walk.path

    def _back(self) -> tuple[list[Tensor], Tensor]:
        given = (self.student.shapes, self.walk, self.rate, self.seen, self.cotangent)
        found = pull_back(self._loss, *given)
        return found.inputs, found.rate

    def _loss(self, parameters: Sequence[Tensor], images: Tensor, step: int) -> Tensor:
        return F.cross_entropy(self.student.logits(parameters, images), self.labels[step])


class Replayed:
    """Steps that a :class:`Replay` repeated.

    Args:
        leaves, seen: the images of each step, and what the student sees of them.
    """

    def __init__(
        self, replay: Replay, student: Student, leaves: list[Tensor], seen: list[Tensor]
    ) -> None:
        self.replay, self.student, self.leaves, self.augmented = replay, student, leaves, seen

    @property
    def end(self) -> Tensor:
        return self.replay.forth.made[-1]

    def gradients(self, cotangent: Tensor) -> tuple[Tensor, float]:
        self.replay.cotangent.copy_(cotangent)
        self.replay.back.replay()
        by_seen, by_rate = self.replay.back.made
        by_leaf = torch.autograd.grad(self.augmented, self.leaves, by_seen)
        return self.student.gathered(by_leaf), float(by_rate)


class Runner:
    """Takes the steps of students.

    Args:
        captures: as CUDA graphs, where that works. The first student of a network takes its steps
            one by one, then they are captured. With the second one both ways are compared. If they
            differ by more than rounding, or if capturing fails, a line says so, and all further
            steps are taken one by one.
    """

    def __init__(self, captures: bool) -> None:
        self.captures = captures
        self.replays: dict[str, Replay | None] = {}

    def steps(self, network: str, student: Student, start: Tensor, rate: float, keep: int) -> Steps:
        """The steps of a student, a ``network``, from ``start``."""
        replay = self.replays.get(network)
        if replay is not None and self._right(network, replay, student, start, rate):
            return replay.steps(student, start, rate)
        taken = OneByOne(student, start, rate, keep)
        if self.captures and network not in self.replays:
            self.replays[network] = self._captured(network, student, start, rate, keep)
        return taken

    def _captured(
        self, network: str, student: Student, start: Tensor, rate: float, keep: int
    ) -> Replay | None:
        try:
            return Replay(student, start, rate, keep)
        except RuntimeError as error:  # whatever CUDA does not allow, or memory
            first = str(error).partition("\n")[0]
            say(
                f"distill: steps of {network} are taken one by one: no CUDA graph of them ({first})"
            )
            return None

    def _right(
        self, network: str, replay: Replay, student: Student, start: Tensor, rate: float
    ) -> bool:
        """Whether ``replay`` gives what steps one by one give; looked at once."""
        if not replay.compared:
            replay.compared = True
            end, gradient = replay.errors(student, start, rate)
            if not (end <= MOST_END and gradient <= MOST_GRADIENT):
                self.replays[network] = None
                say(
                    f"distill: steps of {network} are taken one by one: a CUDA graph of them "
                    f"differs by {end:.1e} in where a student ends, and by {gradient:.1e} in the "
                    "images' gradient"
                )
        return self.replays[network] is not None
