"""Operations and bytes of the jobs of a run, counted before the run.

Counting needs the networks, and so torch; planning does not. So what counts a pass of a network is
found by its name, when the first job is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from dd.config.recipes import uses_generator
from dd.data.extent import Extent
from dd.networks.options import auxiliaries
from dd.networks.pool import load_pool
from dd.plan.jobs import (
    STAGES,
    ActivationMaps,
    Distillation,
    Erasing,
    Evaluation,
    GeneratorTraining,
    Import,
    Job,
    Preparation,
    Pretraining,
    Relabelling,
    Shard,
)
from dd.plan.needs import auxiliary, auxiliary_networks, cam_networks, networks, pool_files
from dd.plan.plan import Plan
from dd.registry import resolve


class Counted:
    """Operations and bytes of the jobs of a plan.

    Args:
        plan: the plan.
        extents: the size of each of its datasets.
    """

    def __init__(self, plan: Plan, extents: Mapping[str, Extent]) -> None:
        self.plan, self.run, self.extents = plan, plan.run, extents

    def _passes(self, way: str, network: str, data: Extent) -> float:
        """Operations of one image and network (:func:`dd.networks.operations.operations`)."""
        count = resolve("dd.networks.operations:operations")
        return count(way, network, data, self.run.width_factor)

    def _parameters(self, network: str, data: Extent) -> int:
        count = resolve("dd.networks.operations:parameters")
        return count(network, data, self.run.width_factor)

    def _autoencoder(self, dataset: str) -> tuple[float, float]:
        """Operations of a training step of the generator, and of decoding and its gradient."""
        own = self.run.training("generator", dataset)
        count = resolve("dd.pretrain.generators.autoencoder:operations")
        return count(own["width"], own["code"], self.extents[dataset])

    def work(self, job: Job) -> float:
        """Floating-point operations of a job; 0 if it runs no network, or if no rule is here."""
        rules: Mapping[type, Callable[[Any], float]] = {
            Shard: self._buffer,
            Pretraining: self._pretraining,
            GeneratorTraining: self._generator_training,
            Distillation: self._distillation,
            Relabelling: self._relabelling,
            Evaluation: self._evaluation,
            ActivationMaps: self._maps,
            Erasing: self._erasing,
        }
        rule = rules.get(type(job))
        return rule(job) if rule else 0.0

    def _buffer(self, job: Shard) -> float:
        settings, data = self.run.training("buffer", job.dataset), self.extents[job.dataset]
        images = settings["experts"] * settings["epochs"] * data.train
        return images * self._passes("train", job.network, data)

    def _pretraining(self, job: Pretraining) -> float:
        data = self.extents[job.dataset]
        epochs = self.run.training("pretrain", job.dataset, job.network)["epochs"]
        trained = epochs * data.train * self._passes("train", job.network, data)
        return trained + data.test * self._passes("forward", job.network, data)

    def _generator_training(self, job: GeneratorTraining) -> float:
        epochs = self.run.training("generator", job.dataset)["epochs"]
        step, _ = self._autoencoder(job.dataset)
        return epochs * self.extents[job.dataset].train * step

    def _drawn(self, way: str, job: Distillation) -> float:
        """Operations for one image, averaged over the networks that a distillation draws."""
        data, settings = self.extents[job.dataset], job.settings(self.run)
        if files := pool_files(self.run, job.method):
            networks = load_pool(files[0]).networks()
            return sum(share * self._passes(way, name, data) for name, share in networks)
        return self._passes(way, settings["network"], data)

    def _distillation(self, job: Distillation) -> float:
        data, settings = self.extents[job.dataset], job.settings(self.run)
        method, count, updates = self.run.parse(job.method), data.classes * job.ipc, 1
        real = data.classes * settings.get("batch_real", 0)
        match method.objective:
            case "dc" | "dsa":
                updates = settings["outer"]
                step = updates * real * self._drawn("train", job)
                step += updates * count * self._drawn("match", job)
                trained = (updates - 1) * settings["inner"] * count
                step += trained * self._drawn("train", job)
            case "dm":
                step = real * self._drawn("forward", job) + count * self._drawn("images", job)
            case "mtt" | "iadd":
                batch = min(settings["batch_syn"] or count, count)
                step = settings["student_steps"] * batch * self._drawn("unroll", job)
            case "dd":
                step = settings["student_epochs"] * count * self._drawn("unroll", job)
                real = min(settings["batch_real"], data.train)
                step = settings["students"] * (step + real * self._drawn("train", job))
            case "frepo":
                seen = count * (2 if settings["mirror"] == "yes" else 1)
                real = min(settings["batch_real"], data.train)
                step = real * self._drawn("forward", job) + seen * self._drawn("images", job)
                step += min(settings["batch_train"], count) * self._drawn("train", job)
            case "sre2l":
                step = count * self._drawn("images", job)
            case "herding" | "kcenter":
                trained = settings["feature_epochs"] * data.train * self._drawn("train", job)
                return trained + data.train * self._drawn("forward", job)
            case "random" | "full":
                return 0.0
            case _:  # of a plug-in: only what its parts take is known
                step = 0.0
        step += updates * (self._regulariser(job, count) + self._generator(job, count))
        return self.plan.planned(job).snapshots[-1] * step

    def _regulariser(self, job: Distillation, count: int) -> float:
        """Operations of MetaDD per update: maps without a graph, if they have a weight, then the
        gradient of each network by the images. 0 for a plug-in's regulariser."""
        method, data = self.run.parse(job.method), self.extents[job.dataset]
        if not method.regulariser or method.regulariser.name != "metadd":
            return 0.0
        own = self.run.part(method.regulariser, method.objective, job.dataset, job.ipc)
        names = auxiliary_networks(self.run, job.method, job.dataset, job.ipc)
        ways = ("forward", "images") if own["lambda_kl"] else ("images",)
        each = sum(self._passes(way, name, data) for way in ways for name in names)
        drawn = min(own["draw"] or len(names), len(names)) / len(names)
        return min(own["images"] or count, count) * drawn * each

    def _generator(self, job: Distillation, count: int) -> float:
        """Operations of GLaD per update: decoding, and the gradient by the codes."""
        part = self.run.parse(job.method).parametrisation
        if part is None or not uses_generator(part.name):
            return 0.0
        return count * self._autoencoder(job.dataset)[1]

    def _relabelling(self, job: Relabelling) -> float:
        made = job.snapshot.distillation
        data, views = (
            self.extents[made.dataset],
            self.run.training("relabel", made.dataset)["views"],
        )
        teachers = sum(self._passes("forward", name, data) for name in auxiliaries(job.teacher))
        return views * data.classes * made.ipc * teachers

    def _evaluation(self, job: Evaluation) -> float:
        made, planned = job.distillation, self.plan.planned(job)
        data = self.extents[made.dataset]
        count = data.train if made.method == "full" else data.classes * made.ipc
        trained, total = planned.trained(self.run), 0.0
        for name, own, each in trained:
            total += each * own["epochs"] * count * self._passes("train", name, data)
            total += each * data.test * self._passes("forward", name, data)
        # A teacher sees images once if they are not augmented, otherwise in every epoch of each
        # network that learns from it.
        looks = sum(
            each * (1 if own["augment"] == "none" else own["epochs"])
            for _, own, each in trained[: len(planned.archs)]
        )
        for teacher in planned.also_trained(self.run):
            total += looks * count * self._passes("forward", teacher, data)
        return total

    def _maps(self, job: ActivationMaps) -> float:
        made = job.snapshot.distillation
        data, shown = self.extents[made.dataset], min(made.ipc, resolve("dd.analyse.cams:SHOWN"))
        names = cam_networks(self.run)
        return data.classes * shown * sum(self._passes("forward", name, data) for name in names)

    def _erasing(self, job: Erasing) -> float:
        """Maps of the networks that define regions; then all networks on four versions of each
        image: unchanged, and erased in three ways."""
        data = self.extents[job.dataset]
        region_networks = auxiliary(self.run, job.dataset)
        tested = list(dict.fromkeys([*region_networks, *cam_networks(self.run)]))
        passes = [*region_networks, *(4 * tested)]
        return data.test * sum(self._passes("forward", name, data) for name in passes)

    def bytes(self, job: Job) -> int:
        """The bytes of a job's files on the disk, without headers and tables."""
        if isinstance(job, Preparation):  # 8-bit images, and the matrix of a whitening
            data = self.extents[job.dataset]
            return (data.train + data.test) * data.values + (
                4 * data.values**2 if job.whitening == "zca" else 0
            )
        if isinstance(job, Shard):
            settings = self.run.training("buffer", job.dataset)
            width = {"float32": 4, "bfloat16": 2}[settings["stored"]]
            size = self._parameters(job.network, self.extents[job.dataset])
            return settings["experts"] * (settings["epochs"] + 1) * size * width
        if isinstance(job, Pretraining):
            return 4 * self._parameters(job.network, self.extents[job.dataset])
        if isinstance(job, Distillation):
            data, method = self.extents[job.dataset], self.run.parse(job.method)
            values = data.classes * job.ipc * data.values
            if "experts" in job.settings(self.run):  # differences, and weights if it learns them
                kept = 2 if method.objective == "iadd" else 1
                names = networks(self.run, job.method, job.dataset, job.ipc)
                values += kept * sum(self._parameters(name, data) for name in names)
            return 4 * values * len(self.plan.planned(job).snapshots)
        if isinstance(job, Import):
            data = self.extents[job.distillation.dataset]
            return 4 * data.classes * job.distillation.ipc * data.values
        if isinstance(job, Relabelling):
            made = job.snapshot.distillation
            data, settings = self.extents[made.dataset], self.run.training("relabel", made.dataset)
            kept = settings["keep"] or data.classes
            width = 2 if not settings["keep"] else 4  # a probability, and with `keep` its class
            return settings["views"] * data.classes * made.ipc * kept * width
        return 0

    @cached_property
    def stages(self) -> dict[str, dict[str, float]]:
        """Jobs, operations and bytes by stage, in the order of the workflow."""
        by_stage = {}
        for stage in STAGES:
            jobs = self.plan.of(stage)
            by_stage[stage.stage] = {
                "jobs": len(jobs),
                "operations": sum(map(self.work, jobs)),
                "bytes": sum(map(self.bytes, jobs)),
            }
        return by_stage

    @cached_property
    def objectives(self) -> dict[str, dict[str, float]]:
        """The number of distillations, their operations and those of evaluations, by objective.

        Imported sets count as none.
        """
        return self._shared(lambda job: self.run.parse(job.method).objective)

    @cached_property
    def sizes(self) -> dict[str, dict[str, float]]:
        """The same by dataset and IPC."""
        return self._shared(
            lambda job: f"{job.dataset}, {'full' if job.method == 'full' else f'IPC {job.ipc}'}"
        )

    def _shared(self, key: Callable[[Distillation], str]) -> dict[str, dict[str, float]]:
        groups: dict[str, dict[str, float]] = {}
        imported = [job.distillation for job in self.plan.of(Import)]
        for job in sorted(
            [*self.plan.of(Distillation), *imported],
            key=lambda j: list(self.extents).index(j.dataset),
        ):
            group = groups.setdefault(key(job), {"jobs": 0, "distill": 0.0, "evaluate": 0.0})
            if not self.run.is_imported(job.dataset, job.method):
                group["jobs"] += 1
                group["distill"] += self.work(job)
        for evaluation in self.plan.of(Evaluation):
            groups[key(evaluation.distillation)]["evaluate"] += self.work(evaluation)
        return groups
