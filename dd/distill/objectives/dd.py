"""DD: a network that takes a few steps on the synthetic set should know the real data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dd.artifacts.checkpoint import form, under
from dd.config.settings import setting
from dd.data import augment
from dd.data.augment import Transform
from dd.data.synthetic import Schedule
from dd.distill.gradients import CHUNK
from dd.distill.objectives.base import (
    OBJECTIVES,
    NetworkSettings,
    Objective,
    OptimisingSettings,
    Outcome,
)
from dd.distill.parametrisations.base import Parametrisation
from dd.distill.parametrisations.labels import LearnedLabels, check_learnable
from dd.distill.student import Student
from dd.errors import DDError, Divergence
from dd.networks.batchnorm import has_batch_norm
from dd.networks.flat import flat, parameters_of, split
from dd.networks.init import fixed_start, initialise
from dd.runtime import precision
from dd.runtime.memory import Fitting
from dd.training.optimizers import Adam
from dd.training.state import load_optimizer_state, optimizer_state, step

BETAS = (0.5, 0.999)  # decay rates of Adam's moments


@dataclass(frozen=True)
class Settings(OptimisingSettings, NetworkSettings):
    """Settings of dataset distillation (the public code's names in brackets)."""

    batch_real: int = setting("real images per iteration, of any class", at_least=1)
    steps: int = setting(
        "steps in which a student sees the whole set, each with its own images of every class "
        "[distill_steps]",
        at_least=1,
        at_most=100_000,
    )
    student_epochs: int = setting(
        "times that a student sees the set [distill_epochs]", at_least=1, at_most=100_000
    )
    initialisation: str = setting(
        "of the students: random (drawn anew in each iteration) or fixed (always the same)",
        choices=("random", "fixed"),
    )
    students: int = setting(
        "students per iteration, over which the gradient is averaged [sample_n_nets]", at_least=1
    )
    lr_student: float = setting(
        "initial learning rate of each step of the students [distill_lr]", above=0
    )
    lr_lr: float = setting(
        "learning rate of v, where a student's rate is ln(1 + e^v); 0: rates are not learned",
        at_least=0,
    )
    lr_label: float = setting(
        "learning rate of v, where the labels of an image are softmax(v); 0: labels are fixed",
        at_least=0,
    )
    label_start: float = setting(
        "probability of an image's own class before learned labels move, 0 to 1", above=0, at_most=1
    )
    decay: float = setting(
        "factor on learning rates of images, labels and rates after each decay_every iterations",
        above=0,
    )
    decay_every: int = setting("iterations between two decays, 0: no decay", at_least=0)


@OBJECTIVES.register("dd")
class DatasetDistillation(Objective):
    """DD (Wang, Zhu, Torralba, Efros 2018, arXiv:1811.10959, Algorithm 1).

    A student θ_0 takes J = ``student_epochs`` · ``steps`` steps of SGD on the synthetic set,
    without augmentation, each with a learning rate of its own. The loss is the cross-entropy of θ_J
    on a batch of real images. Each iteration differentiates it by the images and the rates, and
    moves both by Adam. The gradient is exact, in the memory of one step and of as many graphs of
    the last steps as fit into ``memory`` (:mod:`dd.distill.unroll`).

    The set is split into ``steps`` parts, each with ipc / ``steps`` images of every class (or one
    more). A student sees part 0, 1, ..., and after the last one the first again.

    With ``lr_label`` above 0, labels are probabilities that are learned, too (Sucholutsky, Schonlau
    2021, arXiv:1910.02551).
    """

    Settings = Settings

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        s = self.settings
        if s.steps > self.ipc:
            raise DDError(
                f"steps is {s.steps}, but a class has {self.ipc} images and each step needs one of "
                f"every class; give 1 to {self.ipc}"
            )
        if s.lr_label:
            check_learnable(self.classes)
            if not 1 / self.classes < s.label_start < 1:
                raise DDError(
                    f"label_start is {s.label_start}, but labels that are learned (lr_label "
                    f"{s.lr_label}) begin with an image's own class as the most probable one, and "
                    f"leave something to the others; give more than {1 / self.classes:.3g} and "
                    "less than 1"
                )
        self.parts = batches(self.classes, self.ipc, s.steps)
        count = s.steps * s.student_epochs
        # softplus undone
        start = math.log(math.expm1(s.lr_student)) if s.lr_student < 30 else s.lr_student
        self.raw = torch.full((count,), start, dtype=torch.float64, requires_grad=True)
        self.rate_optimizer = Adam([self.raw], lr=s.lr_lr, betas=BETAS)
        self.real = Fitting(CHUNK, "real images")  # in a pass, without a batch norm
        self.starts: dict[tuple[str, int], Tensor] = {}  # fixed initial parameters

    def optimizer(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        return Adam(groups, betas=BETAS)

    def learned_labels(self) -> LearnedLabels | None:
        s = self.settings
        if not s.lr_label:
            return None
        rest = (1 - s.label_start) / (self.classes - 1)
        own = F.one_hot(self.labels(), self.classes).float()
        return LearnedLabels(rest + (s.label_start - rest) * own, "probabilities", s.lr_label)

    def rates(self) -> list[float]:
        """The learning rate of each step, ``[J]``."""
        return F.softplus(self.raw.detach()).tolist()

    def iteration(self, number: int, synthetic: Parametrisation) -> dict[str, float | str]:
        s, rates = self.settings, self.rates()
        order = torch.randperm(len(self.dataset.train), generator=self.streams.host)
        *parts, real = augment.moved([], self.device, *self.parts, order[: s.batch_real])[1]
        total = torch.zeros_like(synthetic.images())
        by_rates = total.new_zeros(len(rates))
        labels = synthetic.labels
        by_labels = torch.zeros_like(labels) if s.lr_label else None
        loss, names = total.new_zeros(()), []
        for which in range(s.students):
            name, network = self.networks.draw(number - 1, self.streams.network)
            steps = [parts[step % s.steps] for step in range(len(rates))]
            still = [Transform("none")] * len(rates)
            student = Student(
                network, synthetic.images(), labels, steps, still, by_labels=by_labels is not None
            )
            start = self._start(name, network, which).to(total)
            if name not in self.kept:  # the loss needs memory, too, while the graphs are there
                self._outer(student, start, real)
            walk = student.walk(start, rates, self.keep(name, student, start))
            own, cotangent = self._outer(student, walk.end, real)
            found = student.set_gradients(walk, rates, cotangent)
            total += found.images / s.students
            by_rates += found.rates / s.students
            if by_labels is not None:
                by_labels += found.labels / s.students
            loss += own / s.students
            names.append(name)
        sound = total.isfinite().all()
        if by_labels is not None:
            sound &= by_labels.isfinite().all()
        # one look at all values
        mean, finite, *slopes = torch.cat([torch.stack([loss, sound.to(loss)]), by_rates]).tolist()
        if not (math.isfinite(mean) and finite and all(map(math.isfinite, slopes))):
            raise Divergence(
                f"a student's loss is {mean}, or its gradient infinite; try a smaller "
                "--lr-student, --lr-lr or --lr-img"
            )
        factor = s.decay ** ((number - 1) // s.decay_every) if s.decay_every else 1.0
        if s.lr_lr:
            self._move_rates(slopes, factor)
        synthetic.update(total, factor)
        if by_labels is not None:
            synthetic.update_labels(by_labels, factor)
        return {
            "loss": mean,
            "network": ", ".join(dict.fromkeys(names)),
            "lr_student_low": min(rates),
            "lr_student_high": max(rates),
        }

    def _move_rates(self, slopes: Sequence[float], factor: float) -> None:
        """Move the rates down the loss, or leave them and raise :class:`Divergence`."""
        before = self.raw.detach().clone()
        slope = torch.tensor(slopes, dtype=torch.float64)
        self.raw.grad = slope * before.sigmoid()
        step(self.rate_optimizer, factor)
        found = F.softplus(self.raw.detach()).float()  # as they are stored
        if not ((found > 0) & found.isfinite()).all():
            self.raw.data.copy_(before)
            low, high = found.min().item(), found.max().item()
            raise Divergence(
                f"rates of students have moved to {low:g} to {high:g}; try a smaller --lr-lr"
            )

    def outcome(self, synthetic: Parametrisation) -> Outcome:
        """The steps: rates, and the images of each."""
        s = self.settings
        numbers = torch.empty(self.classes * self.ipc, dtype=torch.int64)
        for number, part in enumerate(self.parts):
            numbers[part] = number
        starts = {"seed": self.streams.seed, "students": s.students}
        fixed = {"fixed_start": starts | {"networks": self.networks.specs()}}
        return Outcome(
            schedule=Schedule(torch.tensor(self.rates()), numbers),
            facts=fixed if s.initialisation == "fixed" else {},
        )

    def state(self) -> dict[str, Tensor]:
        moments = optimizer_state(self.rate_optimizer)
        return {"raw": self.raw.detach()} | {f"rates.{n}": value for n, value in moments.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        raw = state["raw"]
        if raw.shape != self.raw.shape or not raw.is_floating_point():
            raise DDError(f"'raw' is {form(raw)}, there are {len(self.raw)} steps")
        self.raw.data.copy_(raw)
        load_optimizer_state(self.rate_optimizer, under("rates.", state))

    def _start(self, name: str, network: nn.Module, which: int) -> Tensor:
        """θ_0 of student ``which``, ``[P]``: as ``network`` was drawn, or fixed."""
        if self.settings.initialisation == "random":
            return parameters_of(network)
        if (name, which) not in self.starts:
            initialise(network, fixed_start(self.streams.seed, which))
            self.starts[name, which] = parameters_of(network)
        return self.starts[name, which]

    def _outer(self, student: Student, end: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of θ_J = ``end`` on the ``real`` images, and its derivative by θ_J.

        Images go through the network in pieces, unless a batch norm needs them together. Only here
        does the network compute in the chosen precision.
        """
        labels = self.dataset.train.labels

        def piece(part: Tensor) -> tuple[Tensor, Tensor]:
            leaves = [value.requires_grad_() for value in split(end, student.model.shapes)]
            logits = precision.forward(
                lambda images: student.model.logits(leaves, images),
                self.dataset.train.take(part).to(end.dtype),
            )
            loss = F.cross_entropy(logits, labels[part], reduction="sum") / len(real)
            return loss.detach(), flat(torch.autograd.grad(loss, leaves))

        if has_batch_norm(student.model.network):
            return piece(real)
        loss, gradient = end.new_zeros(()), torch.zeros_like(end)
        for _, (own, slope) in self.real.pieces(real, piece):
            loss, gradient = loss + own, gradient + slope
        return loss, gradient


def batches(classes: int, ipc: int, count: int) -> list[Tensor]:
    """The indices of the images of ``count`` batches, of a set with its classes in order.

    Each batch has different images of every class; their numbers differ by at most one a class.
    """
    every = torch.arange(classes * ipc).view(classes, ipc)
    return [part.flatten() for part in every.tensor_split(count, dim=1)]
