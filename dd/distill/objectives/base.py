"""The interface of objectives: the initial images, and how one iteration moves them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from dd.config.settings import setting
from dd.contracts import Breach
from dd.data.augment import MEANING, check_strategy
from dd.data.dataset import Dataset
from dd.data.space import WHITENINGS
from dd.data.synthetic import Schedule
from dd.distill.parametrisations.base import Parametrisation
from dd.distill.parametrisations.labels import LearnedLabels
from dd.distill.student import Student
from dd.networks.options import canonical
from dd.networks.source import NetworkSource
from dd.pretrain.trajectories import Trajectories
from dd.registry import Registry
from dd.runtime.process import peak_memory
from dd.training.optimizers import SGD


@dataclass(frozen=True)
class Streams:
    """The random streams of a distillation.

    Attributes:
        seed: the seed from which all of them are derived.
        host: on the CPU; draws real images and augmentations.
        network: on the compute device; draws architectures and initial weights.
        start: on the CPU; draws the initial images.
        regulariser: on the CPU; for the draws of a regulariser.
    """

    seed: int
    host: torch.Generator
    network: torch.Generator
    start: torch.Generator
    regulariser: torch.Generator


@dataclass(frozen=True)
class Outcome:
    """What a synthetic set holds beside images and labels.

    Attributes:
        learned_lr: the student's learning rate, if the method learns one.
        indices: ``[M]``, of training images that are the set, instead of synthetic images.
        extras: further tensors; their names have a dot (``importance.convnet``).
        schedule: the steps that networks should take on the set, if the method learns them.
        facts: further entries of the header.
    """

    learned_lr: float | None = None
    indices: torch.Tensor | None = None
    extras: dict[str, torch.Tensor] = field(default_factory=dict)
    schedule: Schedule | None = None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """Settings of all objectives."""

    iterations: int = setting("iterations of the outer loop, 0 for a selection", at_least=0)
    whitening: str = setting("space of the images: none, or zca", choices=WHITENINGS)

    @property
    def starts_real(self) -> bool:
        """Whether the set starts from real images, of which a class must then have enough."""
        return True


@dataclass(frozen=True)
class NetworkSettings(Settings):
    """Settings of all objectives that draw networks."""

    network: str = setting(
        "architecture of its networks, unless they are drawn from a pool", check=canonical
    )


@dataclass(frozen=True)
class OptimisingSettings(Settings):
    """Settings of every objective that optimises images."""

    iterations: int = setting("iterations of the outer loop", at_least=1)
    init: str = setting("start from noise or from real images", choices=("noise", "real"))
    lr_img: float = setting("learning rate of the images", above=0)

    @property
    def starts_real(self) -> bool:
        return self.init == "real"


@dataclass(frozen=True)
class ImageSettings(OptimisingSettings):
    """Settings of every objective that does so by SGD with momentum, under augmentation."""

    momentum_img: float = setting("momentum of the images, 0 to 1", at_least=0, at_most=1)
    augment: str = setting(MEANING, check=check_strategy)


class Objective:
    """An objective bound to a dataset, a network source and its settings.

    Args:
        settings: an instance of the class's ``Settings``.
        dataset: the real data.
        ipc: images per class (0 if ``takes_all``).
        networks: the source of networks.
        streams: the random streams.
        trajectories: those of experts, for objectives that need them.
        memory: bytes that the process may use. An objective may use them to be faster; the result
            does not depend on it, but on a GPU for rounding.
    """

    Settings: ClassVar[type]
    optimises: ClassVar[bool] = True  # with OptimisingSettings; False: it selects real images
    needs_trajectories: ClassVar[bool] = False
    needs_pretrained: ClassVar[bool] = False  # the source then gives frozen, trained networks
    takes_all: ClassVar[bool] = False  # True: it takes all images, and the IPC must be 0

    def __init__(
        self,
        settings: Any,
        dataset: Dataset,
        ipc: int,
        networks: NetworkSource,
        streams: Streams,
        trajectories: Trajectories | None = None,
        memory: float = 0.0,
    ) -> None:
        self.settings = settings
        self.dataset = dataset
        self.ipc = ipc
        self.classes = len(dataset.classes)
        self.networks = networks
        self.streams = streams
        self.trajectories = trajectories
        self.memory = memory
        self.kept: dict[str, int] = {}  # steps whose graphs are kept, by network

    @property
    def device(self) -> torch.device:
        return self.dataset.train.labels.device

    def start(self) -> torch.Tensor:
        """The initial images, ``[classes * ipc, C, H, W]``, class after class."""
        if self.settings.init == "noise":
            shape = (self.classes * self.ipc, self.dataset.channels, *self.dataset.size)
            return torch.randn(shape, generator=self.streams.start).to(self.device)
        chosen = [
            self.dataset.train.sample(label, self.ipc, self.streams.start)
            for label in range(self.classes)
        ]
        return self.dataset.train.take(torch.cat(chosen))

    def labels(self) -> torch.Tensor:
        """The labels of the synthetic set, ``[M]``, on the device."""
        return torch.arange(self.classes, device=self.device).repeat_interleave(self.ipc)

    def learned_labels(self) -> LearnedLabels | None:
        """The labels that are learned together with the images, and moved by
        :meth:`Parametrisation.update_labels`; None: they stay those of :meth:`labels`."""
        return None

    def keep(self, network: str, student: Student, start: torch.Tensor) -> int:
        """How many graphs of the last steps of ``student``, a ``network``, to keep: as many as fit
        into the memory beside what has been used when it is first asked."""
        if network not in self.kept:
            room = self.memory - peak_memory(self.device)
            self.kept[network] = student.keepable(start, room)
        return self.kept[network]

    def iteration(self, number: int, synthetic: Parametrisation) -> dict[str, float | str]:
        """Move the images once and return metrics: numbers and text by name, with a number
        ``loss``; ``number`` counts from 1.

        Raises:
            Divergence: if the step would ruin the images; raised before it moves them.
        """
        raise Breach(
            f"{type(self).__name__} has no method 'iteration', which moves the images; a selection "
            "has optimises = False and iterations: 0"
        )

    def optimizer(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimiser of the images, or of their latents: SGD with momentum. An objective
        without :class:`ImageSettings` has its own.

        Args:
            groups: parameter groups, each with ``params`` and ``lr``.
        """
        return SGD(groups, momentum=self.settings.momentum_img)

    def outcome(self, synthetic: Parametrisation) -> Outcome:
        """What a snapshot holds beside the images. It changes no state and uses no stream."""
        return Outcome()

    def state(self) -> dict[str, torch.Tensor]:
        """The tensors that a checkpoint needs beside images and streams."""
        return {}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Restore what :meth:`state` returned."""

    def real_batch(self, count: int) -> torch.Tensor:
        """Indices ``[classes, n]`` of real images, drawn without replacement within each class; on
        the CPU.

        n is ``count``, or the size of the smallest class if that is less.
        """
        smallest = min(len(indices) for indices in self.dataset.train.by_class)
        count = min(count, smallest)
        return torch.stack(
            [
                self.dataset.train.sample(label, count, self.streams.host)
                for label in range(self.classes)
            ]
        )


OBJECTIVES: Registry[type[Objective]] = Registry(
    "objective", "dd.distill.objectives.base:Objective"
)
