"""Trajectory matching by back-propagation through one graph of all student steps.

Everything else is the suite's own objective. :mod:`dd.distill.unroll` is compared with this.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dd.distill.objectives.mtt import TrajectoryMatching
from dd.distill.parametrisations.pixels import Pixels
from dd.distill.replay import Runner
from dd.distill.student import Student
from dd.distill.unroll import Walk


class WholeGraph:
    """A student whose steps stay in one graph until the gradients are computed."""

    def __init__(self, student: Student) -> None:
        self.student = student

    def keepable(self, start: Tensor, room: float) -> int:
        """0: how many graphs are kept makes no difference here."""
        return 0

    def walk(self, start: Tensor, rate: float, keep: int = 0) -> Walk:
        """Only θ_J, ``[P]``; the earlier steps are in the graph."""
        student = self.student
        self.images = student.like.clone().requires_grad_()
        self.rate = torch.tensor(rate, device=start.device, requires_grad=True)
        sizes = [shape.numel() for shape in student.model.shapes]
        end = start.clone().requires_grad_()
        for step, indices in enumerate(student.indices):
            parts = zip(end.split(sizes), student.model.shapes, strict=True)
            parameters = [part.view(shape) for part, shape in parts]
            loss = student.loss(parameters, self.images[indices], step)
            (gradient,) = torch.autograd.grad(loss, end, create_graph=True)
            end = end - self.rate * gradient
        self.end = end
        return Walk([end.detach()], {})

    def gradients(self, walk: Walk, rate: float, cotangent: Tensor) -> tuple[Tensor, float]:
        """Like :meth:`dd.distill.student.Student.gradients`."""
        by_images, by_rate = torch.autograd.grad(self.end, [self.images, self.rate], cotangent)
        return by_images, float(by_rate)


class WholeMatching(TrajectoryMatching):
    """MTT with :class:`WholeGraph`."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.runner = Runner(captures=False)

    def _student(
        self, network: nn.Module, synthetic: Pixels, stream: torch.Generator
    ) -> WholeGraph:
        return WholeGraph(super()._student(network, synthetic, stream))
