"""How much memory of a GPU the jobs of a run take, counted before the run.

A job has parts, of which it does one after the other: training, passes over test images, matching.
What a part takes is counted by a function of :mod:`dd.distill.demand`, which is found by its name,
since planning needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from dd.config.recipes import uses_generator
from dd.data.extent import Extent
from dd.networks.options import auxiliaries
from dd.plan.counting import Counted
from dd.plan.jobs import (
    ActivationMaps,
    Distillation,
    Erasing,
    Evaluation,
    GeneratorTraining,
    Job,
    Pretraining,
    Relabelling,
    Shard,
)
from dd.plan.needs import auxiliary, auxiliary_networks, cam_networks, networks
from dd.registry import resolve
from dd.runtime.demand import Demand, most
from dd.runtime.stacking import stacks

COPIES = 6
"""How many times a distillation has all its images: images, a leaf, augmented; gradients by both;
the optimiser's momentum."""


class Part(NamedTuple):
    """Something that a job does.

    Attributes:
        way: the function that counts it. given: its arguments but the last.
        size: the last one: images in a pass. More take more.
        beside: bytes that stay on the GPU meanwhile: datasets, synthetic sets.
    """

    way: str
    given: tuple[Any, ...]
    size: int
    beside: float


class GpuMemory:
    """The GPU memory of the jobs of a plan.

    Args:
        counted: knows the plan and the sizes of its datasets.
    """

    def __init__(self, counted: Counted) -> None:
        self.plan, self.run, self.extents = counted.plan, counted.run, counted.extents

    def largest(self, jobs: Iterable[Job]) -> Demand:
        """The demand of the largest of some jobs; 0 if none uses a GPU."""
        parts = _maximal(part for job in jobs for part in self.of(job))
        return most(map(self._counted, parts)) or Demand(0.0, 0.0)

    def training(self) -> list[dict[str, Any]]:
        """What one network of each architecture takes at most in the evaluations of the run."""
        parts = _maximal(
            part._replace(beside=0.0)
            for job in self.plan.of(Evaluation)
            for part in self.of(job)
            if part.way == "train"
        )
        rows: dict[str, dict[str, Any]] = {}
        for part in parts:
            network, data, factor, optimizer, _ = part.given
            all_of_them = self._counted(part)
            alone = self._counted(part._replace(given=(network, data, factor, optimizer, 1)))
            row = {
                "network": network,
                "size": data.size[0],
                "batch": part.size,
                "least": alone.least,
                "one": alone.whole,
                "all": all_of_them.whole,
            }
            if network not in rows or row["all"] > rows[network]["all"]:
                rows[network] = row
        return [rows[network] for network in sorted(rows)]

    def of(self, job: Job) -> Iterator[Part]:
        """What a job does, as far as it uses a GPU."""
        rules: Mapping[type, Callable[[Any], Iterator[Part]]] = {
            Shard: self._buffer,
            Pretraining: self._pretraining,
            GeneratorTraining: self._generator,
            Distillation: self._distillation,
            Relabelling: self._relabelling,
            Evaluation: self._evaluation,
            ActivationMaps: self._maps,
            Erasing: self._erasing,
        }
        rule = rules.get(type(job))
        return rule(job) if rule else iter(())

    def _counted(self, part: Part) -> Demand:
        demand: Demand = resolve(f"dd.distill.demand:{part.way}")(*part.given, part.size)
        return Demand(demand.least + part.beside, demand.whole + part.beside)

    def _of(self, network: str, data: Extent) -> tuple[Any, ...]:
        return network, _unnumbered(data), self.run.width_factor

    def _resident(self, data: Extent, whitening: str, floats: int = 0) -> float:
        """Bytes of a dataset: 8-bit, and for ZCA its matrix and ``floats`` whitened images."""
        both = (data.train + data.test) * data.values
        return both + (4 * data.values**2 + 4 * floats * data.values if whitening == "zca" else 0)

    def _buffer(self, job: Shard) -> Iterator[Part]:
        settings, data = self.run.training("buffer", job.dataset), self.extents[job.dataset]
        beside = self._resident(data, job.whitening, data.train)
        batch = min(settings["batch"], data.train)
        count = _side_by_side(settings["experts"], batch, data)
        given = (*self._of(job.network, data), settings["optimizer"], count)
        yield Part("train", given, batch, beside)
        yield Part("forward", self._of(job.network, data), data.test, beside)

    def _pretraining(self, job: Pretraining) -> Iterator[Part]:
        settings = self.run.training("pretrain", job.dataset, job.network)
        data = self.extents[job.dataset]
        beside = self._resident(data, job.whitening, data.train)
        batch = min(settings["batch"], data.train)
        given = (*self._of(job.network, data), settings["optimizer"], 1)
        yield Part("train", given, batch, beside)
        tested = max(data.test, min(data.train, resolve("dd.pretrain.pretrain:TRAIN_SAMPLE")))
        yield Part("forward", self._of(job.network, data), tested, beside)

    def _generator(self, job: GeneratorTraining) -> Iterator[Part]:
        own, data = self.run.training("generator", job.dataset), self.extents[job.dataset]
        beside = self._resident(data, job.whitening, data.train)
        given = (_unnumbered(data), own["width"], own["code"])
        yield Part("generator_training", given, min(own["batch"], data.train), beside)

    def _distillation(self, job: Distillation) -> Iterator[Part]:
        data, settings = self.extents[job.dataset], job.settings(self.run)
        method, count = self.run.parse(job.method), data.classes * job.ipc
        beside = self._resident(data, job.whitening(self.run))
        beside += COPIES * 4 * count * data.values
        real = min(settings.get("batch_real", 0), data.train // data.classes)
        drawn = networks(self.run, job.method, job.dataset, job.ipc)
        for network in drawn:
            of = self._of(network, data)
            match method.objective:
                case "dc" | "dsa":
                    values = data.classes * real * data.values
                    together = values <= resolve("dd.distill.objectives.dc:TOGETHER_VALUES")
                    way = "matching_together" if together else "matching"
                    yield Part(way, (*of, real), job.ipc, beside)
                    yield Part(
                        "train", (*of, "sgd", 1), min(settings["batch_train"], count), beside
                    )
                case "dm":
                    yield Part("embedding", (*of, real), count, beside)
                case "mtt" | "iadd":
                    memory = 1e9 * job.places(self.run)["memory"]
                    batch = min(settings["batch_syn"] or count, count)
                    way = "replaying" if len(drawn) == 1 else "unrolling"
                    yield Part(way, (*of, memory, settings["student_steps"]), batch, beside)
                case "dd":
                    memory = 1e9 * job.places(self.run)["memory"]
                    steps = settings["steps"] * settings["student_epochs"]
                    batch = data.classes * -(-job.ipc // settings["steps"])
                    yield Part("unrolling", (*of, memory, steps), batch, beside)
                    real = min(settings["batch_real"], data.train)
                    yield Part("mean_gradient", of, real, beside)
                case "frepo":
                    seen = count * (2 if settings["mirror"] == "yes" else 1)
                    real = min(settings["batch_real"], data.train)
                    yield Part("regression", (*of, settings["online"], real), seen, beside)
                    batch = min(settings["batch_train"], count)
                    yield Part("train", (*of, "adamw", 1), batch, beside)
                case "sre2l":
                    yield Part("recovery", of, min(settings["batch_syn"] or count, count), beside)
                case "herding" | "kcenter":
                    batch = min(settings["batch_train"], data.train)
                    yield Part("train", (*of, "sgd", 1), batch, beside)
                    yield Part("forward", of, data.train // data.classes, beside)
        yield from self._modifiers(job, data, count, beside)

    def _modifiers(
        self, job: Distillation, data: Extent, count: int, beside: float
    ) -> Iterator[Part]:
        """MetaDD's gradient, GLaD's decoding; nothing of a plug-in."""
        method = self.run.parse(job.method)
        if method.regulariser and method.regulariser.name == "metadd":
            own = self.run.part(method.regulariser, method.objective, job.dataset, job.ipc)
            seen = min(own["piece"], own["images"] or count, count)
            for network in auxiliary_networks(self.run, job.method, job.dataset, job.ipc):
                yield Part("regularising", self._of(network, data), seen, beside)
        if method.parametrisation and uses_generator(method.parametrisation.name):
            own = self.run.part(method.parametrisation, method.objective, job.dataset, job.ipc)
            trained = self.run.training("generator", job.dataset)
            given = (_unnumbered(data), trained["width"], trained["code"])
            yield Part("decoding", given, min(own["piece"], count), beside)

    def _relabelling(self, job: Relabelling) -> Iterator[Part]:
        made = job.snapshot.distillation
        data, count = self.extents[made.dataset], self._images(made)
        beside = self._resident(data, made.whitening(self.run)) + 4 * count * data.values
        for network in auxiliaries(job.teacher):
            yield Part("forward", self._of(network, data), count, beside)

    def _evaluation(self, job: Evaluation) -> Iterator[Part]:
        made = job.distillation
        data, count = self.extents[made.dataset], self._images(made)
        beside = self._resident(data, made.whitening(self.run), data.test)
        beside += 4 * count * data.values
        for network, own, number in self.plan.planned(job).trained(self.run):
            batch = min(own["batch"], count)
            number = _side_by_side(number, batch, data)
            given = (*self._of(network, data), own["optimizer"], number)
            yield Part("train", given, batch, beside)
            yield Part("forward", self._of(network, data), data.test, beside)

    def _images(self, made: Distillation) -> int:
        """The number of images of a set."""
        data = self.extents[made.dataset]
        return data.train if made.method == "full" else data.classes * made.ipc

    def _maps(self, job: ActivationMaps) -> Iterator[Part]:
        made = job.snapshot.distillation
        data = self.extents[made.dataset]
        shown = data.classes * min(made.ipc, resolve("dd.analyse.cams:SHOWN"))
        beside = self._resident(data, made.whitening(self.run))
        beside += 4 * self._images(made) * data.values
        piece = resolve("dd.networks.activation_maps:PIECE")
        for network in cam_networks(self.run):
            yield Part("maps", self._of(network, data), min(shown, piece), beside)

    def _erasing(self, job: Erasing) -> Iterator[Part]:
        data = self.extents[job.dataset]
        beside = self._resident(data, job.whitening)
        piece = resolve("dd.networks.activation_maps:PIECE")
        for network in auxiliary(self.run, job.dataset):
            yield Part("maps", self._of(network, data), min(data.test, piece), beside)
        for network in cam_networks(self.run):
            yield Part("forward", self._of(network, data), data.test, beside)


def _side_by_side(count: int, batch: int, data: Extent) -> int:
    """How many of ``count`` networks are trained side by side, if there is the memory for all."""
    return count if stacks(None, "cuda", batch, data.size) else 1


def _unnumbered(data: Extent) -> Extent:
    """Without the number of images, so that datasets of the same shape are counted once."""
    return replace(data, train=0, test=0)


def _maximal(parts: Iterable[Part]) -> list[Part]:
    """Those of ``parts`` that no other one exceeds in size and in what is beside."""
    groups: dict[tuple[str, tuple[Any, ...]], set[Part]] = {}
    for part in parts:
        groups.setdefault((part.way, part.given), set()).add(part)
    found = []
    for group in groups.values():
        most = -1.0
        for part in sorted(group, key=lambda part: (part.size, part.beside), reverse=True):
            if part.beside > most:
                most = part.beside
                found.append(part)
    return found
