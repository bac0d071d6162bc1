"""Evaluation protocols: what networks learn from when they are trained on a synthetic set."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

from dd.config import plugin_files
from dd.config.methods import TAKING_STEPS, needs_teacher
from dd.config.settings import declared, setting
from dd.contracts import check_call
from dd.data.dataset import Dataset
from dd.data.synthetic import Schedule
from dd.evaluate import kd, soft_labels
from dd.evaluate.soft_labels import LabelledViews, SoftLabels
from dd.networks.build import create
from dd.networks.init import fixed_start, initialise
from dd.networks.options import canonical
from dd.plugins import Entry
from dd.registry import Registry
from dd.rng import generator
from dd.runtime import precision
from dd.runtime.stacking import stacks
from dd.training.memory import networks_that_fit
from dd.training.recipe import Recipe, WarmRecipe
from dd.training.regression import scaled, squared_error
from dd.training.train import Criterion, TrainingDiverged, accuracy, cross_entropy, train

PROTOCOLS: Registry[type[Hard]] = Registry("protocol", "dd.evaluate.protocols:Hard")


class FixedStart(NamedTuple):
    """Initial parameters that a set was made for.

    Attributes:
        seed: from which they are drawn. students: how many there are of a network.
        networks: canonical specs of the networks that have them.
    """

    seed: int
    students: int
    networks: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Task:
    """What all evaluations of one synthetic set share.

    Attributes:
        dataset: accuracy is measured on its test split.
        images, labels: the synthetic set on the device, in the dataset's normalised units.
        recipe: how networks are trained.
        own: recipes of the networks that are trained differently, by canonical spec.
        seed: seed of network 0; network n has seed + n.
        width_factor: scales the widths of all networks.
        together: train networks stacked, as many as fit, or one after the other; None: what is
            faster (:mod:`dd.runtime.stacking`).
        strict: a network whose loss becomes NaN is an error; otherwise it gives a row like others.
        soft: soft labels of the set's views, for protocols that learn from them.
        schedule: the steps that the set was made for, for protocols that take these.
        fixed_start: the fixed initial parameters that the set was made for; None: it was made for
            random ones.
        regresses: whether the labels are targets of a regression.
    """

    dataset: Dataset
    images: torch.Tensor
    labels: torch.Tensor
    recipe: Recipe
    seed: int
    width_factor: float
    together: bool | None
    strict: bool
    soft: SoftLabels | None = None
    own: Mapping[str, Recipe] = dataclasses.field(default_factory=dict)
    schedule: Schedule | None = None
    fixed_start: FixedStart | None = None
    regresses: bool = False

    def recipe_of(self, arch: str) -> Recipe:
        """How networks of ``arch`` are trained."""
        return self.own.get(canonical(arch), self.recipe)

    def networks(
        self, arch: str, numbers: Sequence[int], role: Sequence[str] = ()
    ) -> list[nn.Module]:
        """New networks of ``arch``; its number and role determine a network's initial weights."""
        streams = [generator(self.seed + n, "evaluate", *role, "weights") for n in numbers]
        return [self._network(arch, stream, self.images.device) for stream in streams]

    def _network(
        self, arch: str, stream: torch.Generator | None, device: torch.device
    ) -> nn.Module:
        shape = (self.dataset.channels, self.dataset.size, len(self.dataset.classes))
        return create(arch, *shape, generator=stream, width_factor=self.width_factor, device=device)

    def _stacked(self, arch: str) -> bool:
        """Whether networks of ``arch`` are trained stacked."""
        seen = min(self.recipe_of(arch).batch, len(self.images))
        return stacks(self.together, self.images.device.type, seen, self.dataset.size)

    def side_by_side(self, archs: Sequence[str], count: int) -> int:
        """How many of ``count`` networks are trained together, of whichever of ``archs``."""
        if not all(map(self._stacked, archs)):
            return 1
        dataset, device = self.dataset, self.images.device
        for arch in archs:
            recipe, classes = self.recipe_of(arch), len(dataset.classes)
            count = networks_that_fit(
                self._network(arch, None, torch.device("meta")),
                dataset.test.shape,
                classes,
                recipe,
                min(recipe.batch, len(self.images)),
                count,
                device,
                f"networks of {arch}",
            )
        return count

    def train(
        self,
        arch: str,
        numbers: Sequence[int],
        criterion: Criterion = cross_entropy,
        teachers: Sequence[nn.Module] | None = None,
        views: LabelledViews | None = None,
        role: Sequence[str] = (),
    ) -> list[nn.Module]:
        """Train networks ``numbers`` of ``arch`` on the synthetic set, or on ``views`` of it.

        Args:
            arch: the architecture.
            numbers: of the networks.
            criterion: the loss.
            teachers: a network for each, whose logits the loss gets; None: it gets those of
                ``views``, or none.
            views: what to train on instead of the set.
            role: names the random streams of networks that are not those to be tested.

        Raises:
            TrainingDiverged: if a loss becomes NaN or infinite and the task is strict.
        """
        check_call("its loss", criterion, ("logits", "labels", "guide", "epoch"))
        networks = self.networks(arch, numbers, role)
        order = [generator(self.seed + n, "evaluate", *role, "order") for n in numbers]
        try:
            train(
                networks,
                self.images if views is None else views,
                self.labels,
                self.recipe_of(arch),
                order,
                criterion=criterion,
                teachers=teachers,
                guide=None if teachers else views,
                together=self._stacked(arch),
                strict=self.strict,
            )
        except TrainingDiverged as error:
            raise TrainingDiverged(
                f"{arch}: {error}, or let it count as a row, marked as diverged: --diverged record"
            ) from None
        return networks


def check_options(entry: Entry) -> dict[str, Any]:
    """The defaults of a plug-in's protocol, by option.

    An option of training is none of its own, but may have a value in the file.

    Raises:
        DDError: if its class has other options than its file.
    """
    own = {
        name: field.default for name, (field, _) in declared(PROTOCOLS[entry.name].Settings).items()
    }
    known = plugin_files.options(entry)
    of_file = {name: known[name] for name in known if name in own or name not in declared(Recipe)}
    plugin_files.check_defaults(entry, of_file, own)
    return of_file


@dataclasses.dataclass(frozen=True)
class HardSettings:
    """The protocol ``hard`` has no settings of its own."""


@PROTOCOLS.register("hard")
class Hard:
    """Networks learn from the set's own labels (probabilities, if the set has soft labels)."""

    Settings: ClassVar[type] = HardSettings
    needs_labels: ClassVar[bool] = False  # needs a file of `python -m dd relabel`
    takes_targets: ClassVar[bool] = False  # the set's labels may be targets of a regression
    needs_schedule: ClassVar[bool] = False  # networks take the steps that the set was made for

    def __init__(self, settings: Any, task: Task) -> None:
        self.settings, self.task = settings, task

    def train(self, arch: str, numbers: Sequence[int]) -> list[nn.Module]:
        """Train networks ``numbers`` of ``arch``, all together or one after the other."""
        return self.task.train(arch, numbers)

    def side_by_side(self, arch: str, count: int) -> int:
        """How many of ``count`` networks of ``arch`` to give to :meth:`train` at a time."""
        return self.task.side_by_side([arch, *self.also_trained(self.settings)], count)

    @classmethod
    def also_trained(cls, settings: Any) -> list[str]:
        """Canonical specs of networks that are trained beside those to be tested."""
        return []

    @classmethod
    def adapted(cls, known: Recipe, schedule: Schedule | None) -> Recipe:
        """The recipe as far as the protocol lets it decide; its values stand in the results.

        Where networks learn from labelled views, these take the place of augmentation.

        Args:
            known: the recipe.
            schedule: of the set.
        """
        return dataclasses.replace(known, augment="none") if cls.needs_labels else known

    def facts(self, number: int) -> dict[str, Any]:
        """Columns that the protocol adds to the row of network ``number``."""
        return {}


@dataclasses.dataclass(frozen=True)
class KDSettings:
    """Knowledge distillation at evaluation (Model Pool)."""

    teacher: str = setting(
        "architecture of the teacher, trained on the set", default="convnet", check=canonical
    )
    temperature: float = setting(
        "temperature of teacher and student, 0: no teacher", at_least=0, default=3.0
    )
    alpha: float = setting("weight of the teacher, 0 to 1", at_least=0, at_most=1, default=0.5)
    variant: str = setting(
        "paper (Eq. 1) or released (the loss behind the published sweep, with a temperature decay "
        "of 0.9)",
        choices=kd.VARIANTS,
        default="paper",
    )
    temperature_decay: float = setting(
        "factor on the temperature per epoch, 1: no decay", above=0, at_most=1, default=1.0
    )


@PROTOCOLS.register("kd")
class Distilled(Hard):
    """Networks learn from labels and from a teacher that is trained on the same set.

    Each network number has its own teacher, with random streams of its own: a student of the
    teacher's architecture does not start from the teacher's weights. If the teacher would have no
    weight, none is trained.
    """

    Settings = KDSettings

    def __init__(self, settings: KDSettings, task: Task) -> None:
        super().__init__(settings, task)
        self.teachers: dict[int, nn.Module] = {}
        self.accuracies: dict[int, float] = {}

    def train(self, arch: str, numbers: Sequence[int]) -> list[nn.Module]:
        if not needs_teacher(self.settings.temperature, self.settings.alpha):
            return self.task.train(arch, numbers, self._loss)
        missing = [n for n in numbers if n not in self.teachers]
        if missing:
            trained = self.task.train(self.settings.teacher, missing, role=["teacher"])
            self.teachers |= zip(missing, trained, strict=True)
            for n in missing:
                tested = accuracy(self.teachers[n], self.task.dataset.test)
                self.accuracies[n] = round(tested, 4)
        return self.task.train(arch, numbers, self._loss, [self.teachers[n] for n in numbers])

    @classmethod
    def also_trained(cls, settings: KDSettings) -> list[str]:
        needed = needs_teacher(settings.temperature, settings.alpha)
        return [canonical(settings.teacher)] if needed else []

    def _loss(
        self, logits: torch.Tensor, labels: torch.Tensor, guide: torch.Tensor | None, epoch: int
    ) -> torch.Tensor:
        s = self.settings
        temperature = s.temperature * s.temperature_decay**epoch
        return kd.loss(logits, guide, labels, temperature, s.alpha, s.variant)

    def facts(self, number: int) -> dict[str, Any]:
        return {"teacher_accuracy": self.accuracies.get(number, "")}


@dataclasses.dataclass(frozen=True)
class SoftSettings:
    """Learning from the soft labels of every view (SRe2L)."""

    teacher: str = setting(
        "networks that gave the labels, joined by dots; empty: those of the file",
        default="",
        check=lambda text: [canonical(spec) for spec in text.split(".") if text],
    )
    temperature: float = setting("temperature of labels and student", above=0, default=20.0)
    views: int = setting(
        "number of views in the file of labels, 0: any number", at_least=0, default=0
    )
    kl_factor: str = setting(
        "factor on the KL divergence: squared (temperature squared) or one",
        choices=soft_labels.FACTORS,
        default="squared",
    )


@PROTOCOLS.register("soft")
class Soft(Hard):
    """Networks learn from a frozen network's output for every view (SRe2L, arXiv:2306.13092,
    section 3.4). The loss is the KL divergence alone; labels of the set are not used. Views replace
    augmentation."""

    Settings = SoftSettings
    needs_labels = True
    takes_targets = True

    def __init__(self, settings: SoftSettings, task: Task) -> None:
        super().__init__(settings, task)
        assert task.soft is not None  # ``needs_labels``
        self.views = LabelledViews(task.soft, task.images, len(task.dataset.classes))

    def train(self, arch: str, numbers: Sequence[int]) -> list[nn.Module]:
        return self.task.train(arch, numbers, self._loss, views=self.views)

    def _loss(
        self, logits: torch.Tensor, labels: torch.Tensor, guide: torch.Tensor | None, epoch: int
    ) -> torch.Tensor:
        assert guide is not None  # the views are the guide
        return soft_labels.loss(logits, guide, self.settings.temperature, self.settings.kl_factor)

    def facts(self, number: int) -> dict[str, Any]:
        return self.views.labels.facts()


@dataclasses.dataclass(frozen=True)
class StepsSettings:
    """The protocol ``steps`` has no settings: the set says everything."""


@PROTOCOLS.register("steps")
class Steps(Hard):
    """Networks take the steps that the set was made for: those of DD's students
    (arXiv:1811.10959), each on its own images, with its own learning rate; plain SGD, without
    augmentation. If the set was made for fixed initial parameters, networks of the architectures
    that have these start from them: network n from those of student n.
    """

    Settings = StepsSettings
    needs_schedule = True
    fixed = False  # whether the networks trained last had a fixed start

    def train(self, arch: str, numbers: Sequence[int]) -> list[nn.Module]:
        networks, start = self.task.networks(arch, numbers), self.task.fixed_start
        self.fixed = start is not None and canonical(arch) in start.networks
        for number, network in zip(numbers, networks, strict=True):
            if start is not None and self.fixed:
                initialise(network, fixed_start(start.seed, number))
            self._take(network)
            if self.task.strict and not all(p.isfinite().all() for p in network.parameters()):
                raise TrainingDiverged(
                    f"{arch}: training diverged on the steps of the set; let it count as a row, "
                    "marked as diverged: --diverged record"
                )
        return networks

    def _take(self, network: nn.Module) -> None:
        """Train ``network`` in place, and leave it in evaluation mode."""
        schedule, task = self.task.schedule, self.task
        assert schedule is not None  # ``needs_schedule``
        parts = [part.to(task.images.device) for part in schedule.indices()]
        network.train()
        parameters = list(network.parameters())
        for step, rate in enumerate(schedule.rates.tolist()):
            part = parts[step % len(parts)]
            logits = precision.forward(network, task.images[part])
            slopes = torch.autograd.grad(
                cross_entropy(logits, task.labels[part], None, step), parameters
            )
            with torch.no_grad():
                for parameter, slope in zip(parameters, slopes, strict=True):
                    parameter.sub_(slope, alpha=rate)
        network.eval()

    def side_by_side(self, arch: str, count: int) -> int:
        """One: they are trained in turn."""
        return 1

    @classmethod
    def adapted(cls, known: Recipe, schedule: Schedule | None) -> Recipe:
        """What the steps are as a recipe: facts for the rows of results."""
        assert schedule is not None  # ``needs_schedule``
        parts = schedule.indices()
        return dataclasses.replace(
            known,
            epochs=-(-len(schedule.rates) // len(parts)),
            lr=max(schedule.rates.mean().item(), torch.finfo(torch.float32).tiny),
            batch=max(map(len, parts)),
            **TAKING_STEPS,
        )

    def facts(self, number: int) -> dict[str, Any]:
        assert self.task.schedule is not None
        rates = self.task.schedule.rates
        return {
            "steps": len(rates),
            "rate_low": round(rates.min().item(), 8),
            "rate_high": round(rates.max().item(), 8),
            "fixed_start": int(self.fixed),
        }


@dataclasses.dataclass(frozen=True)
class RegressionSettings:
    """Regression on targets (FRePo)."""

    warmup: int = setting(
        "steps in which the learning rate rises from 0, in whole epochs, at most half of all",
        at_least=0,
        default=500,
    )
    floor: float = setting(
        "learning rate at the end, relative to the recipe's", at_least=0, at_most=1, default=0.01
    )


@PROTOCOLS.register("regression")
class Regression(Hard):
    """Networks learn targets by the squared error, as FRePo's authors test (arXiv:2206.00719).

    Targets are the set's labels if these are some, otherwise those with which FRePo starts
    (:func:`dd.training.regression.scaled`). The learning rate rises to that of the recipe, and then
    falls along a half cosine, instead of following the recipe's schedule.
    """

    Settings = RegressionSettings
    takes_targets = True

    def __init__(self, settings: RegressionSettings, task: Task) -> None:
        count, targets = len(task.images), task.labels
        own = {arch: self._warm(recipe, settings, count) for arch, recipe in task.own.items()}
        if not task.regresses:
            targets = scaled(targets, len(task.dataset.classes))
        warm = self._warm(task.recipe, settings, count)
        super().__init__(settings, dataclasses.replace(task, labels=targets, recipe=warm, own=own))

    @staticmethod
    def _warm(recipe: Recipe, settings: RegressionSettings, images: int) -> Recipe:
        steps = -(-images // recipe.batch)  # of an epoch
        warm = {"warmup": -(-settings.warmup // steps), "floor": settings.floor}
        return WarmRecipe(**dataclasses.asdict(recipe) | warm)

    def train(self, arch: str, numbers: Sequence[int]) -> list[nn.Module]:
        return self.task.train(arch, numbers, self._loss)

    def _loss(
        self, logits: torch.Tensor, labels: torch.Tensor, guide: torch.Tensor | None, epoch: int
    ) -> torch.Tensor:
        return squared_error(logits, labels)

    @classmethod
    def adapted(cls, known: Recipe, schedule: Schedule | None) -> Recipe:
        """The schedule is the protocol's, nearest to ``cosine``."""
        return dataclasses.replace(known, schedule="cosine")
