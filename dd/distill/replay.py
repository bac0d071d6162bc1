"""The steps of students, taken one by one, or on a GPU as CUDA graphs.

A step on few images is small: its kernels take less time than Python needs to launch them. All
students of an objective take the same steps and differ in values alone: θ_0, the rate, and what
they see. So their steps, and the way back, are captured once and repeated for each student.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from dd.distill.student import Student
from dd.distill.unroll import Walk, pull_back, unroll
from dd.runtime import cuda_graphs
from dd.runtime.say import say

MOST_END = 1e-2  # of the student's movement, by which graphs may differ from their steps
MOST_GRADIENT = 0.3
"""Of a derivative. After 50 steps rounding alone makes several per cent (benchmarks/README.md). A
value that a graph does not read is zero in it, and then it is all wrong."""


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
        student: one of them; the graphs use its network, and no value of it.
        start: its θ_0, for its form.
        keep: of how many last steps the graphs of autograd are kept.

    Raises:
        RuntimeError: if they cannot be captured, or need too much memory.
    """

    def __init__(self, student: Student, start: Tensor, keep: int) -> None:
        self.model, self.keep = student.model, keep
        # zeros, so that a value that a graph does not read is a large error, which is found
        self.start, self.cotangent = torch.zeros_like(start), torch.zeros_like(start)
        self.rate = start.new_zeros((), dtype=torch.float64)
        self.seen = list(map(torch.zeros_like, student.shown))
        self.labels = list(map(torch.zeros_like, student.labels))
        self.walk: Walk

        def both() -> None:
            self._forth()
            self._back()

        cuda_graphs.warm(both)
        self.forth = cuda_graphs.capture(self._forth)
        self.back = cuda_graphs.capture(self._back, self.forth.pool)

    def steps(self, student: Student, start: Tensor, rate: float) -> Replayed:
        """The steps of another student; they are lost with those of the next one."""
        self.start.copy_(start)
        self.rate.fill_(rate)
        for step, (seen, labels) in enumerate(zip(self.seen, self.labels, strict=True)):
            seen.copy_(student.seen(step, student.shown[step]).detach())
            labels.copy_(student.labels[step])
        self.forth.replay()
        return Replayed(self, student)

    def errors(self, student: Student, start: Tensor, rate: float) -> tuple[float, float]:
        """How far the graphs are from steps one by one: in θ_J, and in the derivatives."""
        ours, theirs = self.steps(student, start, rate), OneByOne(student, start, rate, keep=0)
        moved = theirs.end - start
        end = (ours.end - theirs.end).norm() / moved.norm()
        (images, by_rate), (right, right_rate) = (one.gradients(moved) for one in (ours, theirs))
        found = torch.stack([end, (images - right).norm() / right.norm()]).tolist()
        of_rate = abs(by_rate - right_rate) / max(abs(right_rate), 1e-30)
        return found[0], max(found[1], of_rate)

    def _forth(self) -> list[Tensor]:
        shapes = self.model.shapes
        self.walk = unroll(self._loss, shapes, self.start, self.rate, self.seen, self.keep)
        return self.walk.path

    def _back(self) -> tuple[list[Tensor], Tensor]:
        given = (self.model.shapes, self.walk, self.rate, self.seen, self.cotangent)
        found = pull_back(self._loss, *given)
        return found.inputs, found.rate

    def _loss(self, parameters: Sequence[Tensor], images: Tensor, step: int) -> Tensor:
        return self.model.loss(parameters, images, self.labels[step])


class Replayed:
    """Steps that a :class:`Replay` repeated."""

    def __init__(self, replay: Replay, student: Student) -> None:
        self.replay, self.student = replay, student

    @property
    def end(self) -> Tensor:
        return self.replay.forth.made[-1]

    def gradients(self, cotangent: Tensor) -> tuple[Tensor, float]:
        self.replay.cotangent.copy_(cotangent)
        self.replay.back.replay()
        by_seen, by_rate = self.replay.back.made
        parts = (self.student.through(step, part) for step, part in enumerate(by_seen))
        return self.student.gathered(parts), float(by_rate)


class Runner:
    """Takes the steps of students of one network.

    Args:
        captures: as CUDA graphs, where that works. For the first student they are captured, and
            compared with steps one by one. If they differ by more than rounding, or if capturing
            fails, a line says so, and all steps are taken one by one.
    """

    def __init__(self, captures: bool) -> None:
        self.captures = captures
        self.replay: Replay | None = None

    def steps(self, student: Student, start: Tensor, rate: float, keep: int) -> Steps:
        """The steps of a student from ``start``."""
        if self.captures and self.replay is None:
            self._capture(student, start, rate, keep)
        if self.replay is None:
            return OneByOne(student, start, rate, keep)
        return self.replay.steps(student, start, rate)

    def _capture(self, student: Student, start: Tensor, rate: float, keep: int) -> None:
        try:
            made = Replay(student, start, keep)
            end, derivative = made.errors(student, start, rate)
        except RuntimeError as error:  # whatever CUDA does not allow, or memory
            first = str(error).partition("\n")[0]
            self._give_up(f"no CUDA graph of them ({type(error).__name__}: {first})")
            return
        if end <= MOST_END and derivative <= MOST_GRADIENT:
            self.replay = made
        else:
            self._give_up(
                f"a CUDA graph of them differs by {end:.1e} in where a student ends, by "
                f"{derivative:.1e} in a derivative"
            )

    def _give_up(self, why: str) -> None:
        self.captures = False
        say(f"distill: steps of students are taken one by one: {why}")
