"""MTT: training on the synthetic set should lead a student to where real data led an expert."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dd.artifacts.checkpoint import form
from dd.config.settings import setting
from dd.data import augment
from dd.distill.objectives.base import (
    OBJECTIVES,
    ImageSettings,
    NetworkSettings,
    Objective,
    Outcome,
)
from dd.distill.parametrisations.base import Parametrisation
from dd.distill.replay import Runner
from dd.distill.student import Student
from dd.errors import DDError, Divergence
from dd.pretrain.trajectories import Segment, Trajectories, layout
from dd.rng import generator

LEAST_RATE = 1e-6  # lower bound of a student's rate, above 0
RUNAWAY = 100.0  # upper bound of a student's rate, in units of the initial rate
PROBES = 4  # segments on which a snapshot is compared with experts


@dataclass(frozen=True)
class Settings(ImageSettings, NetworkSettings):
    """Settings of trajectory matching (the paper's names in brackets)."""

    experts: int = setting(
        "number of experts to draw from, the first ones of the buffer",
        at_least=1,
        at_most=100_000,
    )
    student_steps: int = setting("steps of the student [N, syn_steps]", at_least=1, at_most=100_000)
    expert_epochs: int = setting(
        "epochs of the expert that the student should match [M]", at_least=1
    )
    max_start_epoch: int = setting(
        "segments start after 0 to max_start_epoch - 1 epochs [T+]", at_least=1
    )
    batch_syn: int = setting("synthetic images per student step, 0: all", at_least=0)
    lr_student: float = setting("initial learning rate of the student [alpha]", above=0)
    lr_lr: float = setting(
        "learning rate of the student's rate, 0: that rate is not learned", at_least=0
    )
    momentum_lr: float = setting("momentum of the student's rate, 0 to 1", at_least=0, at_most=1)

    @property
    def last_epoch(self) -> int:
        """The number of epochs that the experts must have."""
        return self.max_start_epoch - 1 + self.expert_epochs


@OBJECTIVES.register("mtt")
class TrajectoryMatching(Objective):
    """MTT (Cazenavette et al. 2022, arXiv:2203.11932, Algorithm 1).

    Each iteration draws an expert and an epoch t. It starts a student at the expert's θ*_t and
    trains it for ``student_steps`` steps on the synthetic set. Then it moves the images and the
    student's rate so that the student ends closer to θ*_{t+M}. The gradient is exact. It keeps the
    graphs of as many of the last steps as fit into ``memory`` (:mod:`dd.distill.unroll`). On a GPU
    its steps are CUDA graphs (:mod:`dd.distill.replay`), unless ``memory`` is 0.
    """

    Settings = Settings
    needs_trajectories = True
    trajectories: Trajectories  # never None: they are needed

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        s = self.settings
        for spec in self.networks.specs():
            parameters = layout(self.networks.skeleton(spec))
            self.trajectories.check(spec, parameters, s.experts, s.last_epoch)
        if s.batch_syn > self.classes * self.ipc:
            raise DDError(
                f"batch_syn is {s.batch_syn}, the synthetic set has {self.classes * self.ipc} "
                "images; 0 takes all"
            )
        self.rate = torch.tensor(s.lr_student, dtype=torch.float64)
        self.rate_momentum = torch.zeros((), dtype=torch.float64)
        one = len(self.networks.specs()) == 1  # graphs are of one network
        self.runner = Runner(captures=one and self.device.type == "cuda" and self.memory > 0)
        self.initial: dict[str, Tensor] = {}  # differences before the first iteration

    def iteration(self, number: int, synthetic: Parametrisation) -> dict[str, float | str]:
        if not self.initial:
            self.initial = self._differences(synthetic)
        name, network = self.networks.draw(number - 1, self.streams.network)
        segment = self._segment(name, self.streams.host)
        student = self._student(network, synthetic, self.streams.host)
        rate = float(self.rate)
        keep = self.keep(name, student, segment.start)
        steps = self.runner.steps(student, segment.start, rate, keep)
        loss, cotangent = self.compare(name, steps.end, segment)
        if not math.isfinite(loss):
            self._check_moves(name, segment)
            raise Divergence(f"the loss is {loss}; try a smaller --lr-img or --lr-student")
        gradient, by_rate = steps.gradients(cotangent)
        if not gradient.isfinite().all():
            raise Divergence("the images' gradient is infinite; try a smaller --lr-student")
        self.step_rate(by_rate)  # first, since it may raise; then the images are unchanged
        synthetic.update(gradient)
        return {
            "loss": loss,
            "network": name,
            "expert": segment.expert,
            "start_epoch": segment.epoch,
            "lr_student": rate,
        }

    def compare(self, network: str, end: Tensor, segment: Segment) -> tuple[float, Tensor]:
        """The matching loss (arXiv:2203.11932, Eq. 2) and its derivative by ``end``, ``[P]``."""
        scale = (segment.start - segment.target).square().sum()
        apart = end - segment.target
        return float(apart.square().sum() / scale), 2 * apart / scale

    def step_rate(self, gradient: float) -> None:
        """One step of SGD with momentum on the student's rate, which stays above 0.

        Raises:
            Divergence: if the rate would become too large; then it is not changed.
        """
        s = self.settings
        momentum = s.momentum_lr * self.rate_momentum + gradient
        rate = (self.rate - s.lr_lr * momentum).clamp(min=LEAST_RATE)
        if not float(rate) <= RUNAWAY * s.lr_student:
            raise Divergence(
                f"the student's learning rate ran away from {s.lr_student} to {float(rate):.3g}; "
                "try a smaller --lr-lr"
            )
        self.rate, self.rate_momentum = rate, momentum

    def outcome(self, synthetic: Parametrisation) -> Outcome:
        """The student's rate, and for each network ``difference.<network>`` [P], see
        :meth:`_differences`, and ``matching.<network>`` [2], see :meth:`losses`."""
        extras = {}
        for name, now in self._differences(synthetic).items():
            extras[f"difference.{name}"] = now
            extras[f"matching.{name}"] = self.losses(name, now)
        return Outcome(float(self.rate), extras=extras)

    def losses(self, network: str, now: Tensor, weights: Tensor | None = None) -> Tensor:
        """The matching loss ``[2]``, before the first iteration and now; means over the probes.

        The first value is with the images and the student's rate that the distillation started
        from, the second with those that gave the differences ``now``.

        Args:
            network: its canonical spec.
            now: differences ``[P]``, see :meth:`_differences`.
            weights: W ``[P]``, the same for both values; None: 1.
        """
        pair = torch.stack([self.initial.get(network, now), now]).double()
        weighted = pair if weights is None else weights * pair
        return (
            weighted.square().mean(1).float()
        )  # a mean, not a sum: the scale of the differences is a mean over P

    def state(self) -> dict[str, Tensor]:
        rates = {"rate": self.rate, "rate_momentum": self.rate_momentum}
        return rates | {f"initial.{name}": values for name, values in self.initial.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.rate, self.rate_momentum = state["rate"], state["rate_momentum"]
        self.initial = {}
        for name in self.networks.specs():
            values = state[f"initial.{name}"]
            count = sum(p.numel() for p in self.networks.skeleton(name).parameters())
            if values.shape != (count,) or not values.is_floating_point():
                raise DDError(f"'initial.{name}' is {form(values)}, {name} has {count} parameters")
            self.initial[name] = values.to(self.device)

    def _segment(self, network: str, stream: torch.Generator) -> Segment:
        s = self.settings
        return self.trajectories.draw(
            network, s.experts, s.max_start_epoch, s.expert_epochs, stream
        )

    def _check_moves(self, network: str, segment: Segment) -> None:
        """Raise a :class:`Divergence` if the expert of ``segment`` stays where it is: then the
        losses, which are in units of its movement, are infinite."""
        if not (segment.start - segment.target).square().sum():
            last = segment.epoch + self.settings.expert_epochs
            raise Divergence(
                f"expert {segment.expert} of {network} does not move from epoch {segment.epoch} to "
                f"{last}, so there is nothing to match; train its buffer with a larger --lr, or "
                "give a smaller --max-start-epoch"
            )

    def _student(
        self, network: nn.Module, synthetic: Parametrisation, stream: torch.Generator
    ) -> Student:
        """A student whose batches and augmentations are drawn from ``stream``."""
        batches = self._batches(stream)
        drawn = [
            augment.draw(self.settings.augment, stream, len(part), self.dataset.size)
            for part in batches
        ]
        transforms, indices = augment.moved(drawn, self.device, *batches)
        return Student(network, synthetic.images(), synthetic.labels, indices, transforms)

    def _batches(self, stream: torch.Generator) -> list[Tensor]:
        """Indices ``[b]`` for each student step; a new epoch starts when all images were used.

        As in the public code, a batch is taken from the end of the permutation. So if the batch
        size does not divide the set, the first batch of each epoch is the smaller one.
        """
        size = self.classes * self.ipc
        left: list[Tensor] = []
        batches = []
        for _ in range(self.settings.student_steps):
            if not left:
                order = torch.randperm(size, generator=stream)
                left = list(order.split(self.settings.batch_syn or size))
            batches.append(left.pop())
        return batches

    def _differences(self, synthetic: Parametrisation) -> dict[str, Tensor]:
        """How far students end from their experts, for each parameter: ``[P]`` for each network.

        It is the root mean square over :data:`PROBES` segments of (θ_J − θ*), divided by the root
        mean square of the expert's own movement. Segments and batches are the same for all methods
        of one seed, and the random streams do not advance.
        """
        differences = {}
        for name in self.networks.specs():
            network = self.networks.skeleton(name)
            stream = generator(self.streams.seed, "distill", "probe", name)
            total = torch.zeros((), device=self.device)
            for _ in range(PROBES):
                segment = self._segment(name, stream)
                self._check_moves(name, segment)
                student = self._student(network, synthetic, stream)
                end = student.walk(segment.start, float(self.rate)).end
                scale = (segment.start - segment.target).square().mean()
                total = total + (end - segment.target).square() / scale
            differences[name] = (total / PROBES).sqrt()
        return differences
