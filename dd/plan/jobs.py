"""The jobs of a run. Each class is one stage and has all that the workflow needs to know of it.

To add a stage, write its class here and list it in :data:`STAGES`. Then write its rule
(``workflow/rules``) and its own file. The plan, the checks of a run, the measurements and the rules
loop over :data:`STAGES`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self, TypeAlias

from dd.config.methods import (
    HARD,
    KD,
    SOFT,
    STEPS,
    TAKING_STEPS,
    Part,
    format_value,
    needs_teacher,
    parse_protocol,
    planned_as,
)
from dd.config.normalisation import DATA, of_published
from dd.config.recipes import (
    ASKED_OF_WEIGHTS,
    epochs_of_steps,
    learns_targets,
    uses_generator,
    uses_pretrained,
)
from dd.config.run import DOWNLOADED, Run
from dd.data.raw import (
    IMAGE_FILES,
    LISTING,
    check_taken,
    identity,
    listing_digest,
    source_digest,
)
from dd.errors import DDError
from dd.networks.options import auxiliaries, canonical
from dd.networks.pool import load_pool
from dd.plan.exhibits import Cell
from dd.plan.measurements import ENDING, MeasuredJob
from dd.plan.needs import (
    auxiliary,
    auxiliary_networks,
    cam_networks,
    cam_rectify,
    metadd,
    networks,
    pool_files,
)

Source: TypeAlias = "Job | Snapshot | str"
"""What a job reads: the file of a job, a synthetic set, or a file that exists before the run."""

Sources: TypeAlias = dict[str, list[Source]]
"""What a job reads, by option of its command."""

Listing: TypeAlias = Callable[[str], str | None]
"""By dataset, the digest of the files of its folder, if it is read from one."""

_PLACES = (
    "root",
    "label",
    "no_download",
)  # of a dataset: where it lies and what it is called do not change images

_OF_SET = ("lr", "batch")  # what networks that take the steps of a set know from it alone
SHARE = 0.9  # of the memory that a job asks for, for what it may keep in it


class Trained(NamedTuple):
    """Networks of one architecture that an evaluation trains.

    Attributes:
        network: its spec. settings: of training and of the protocol. number: how many there are.
    """

    network: str
    settings: dict[str, Any]
    number: int


class CheckedValues(NamedTuple):
    """Values of a job, and the class of settings that checks them.

    Attributes:
        settings: the class as text, ``MODULE:NAME``, because a run is planned without importing the
            stages. The name may contain keys and attributes: ``OBJECTIVES[dc].Settings``.
        values: by name of the setting; None: only check that the class exists.
        owner: what the values belong to, for messages.
    """

    settings: str
    values: Mapping[str, Any] | None
    owner: str


@dataclass(frozen=True)
class Job(ABC):
    """A job of the workflow: one call of ``python -m dd STAGE``. Paths contain ``str(job)``.

    Attributes:
        stage: the name of the command, also used for logs and measurements.
        module: the module that runs it.
        summary: what it makes, for ``python -m dd --help``.
        folder: the folder of its files in the run's folder.
        suffix: the suffix of its file.
        resources: its key in a run's ``resources``.
        section: its key in ``config.json``; "" if it has no section there.
    """

    stage: ClassVar[str]
    module: ClassVar[str]
    summary: ClassVar[str]
    folder: ClassVar[str]
    suffix: ClassVar[str] = ".safetensors"
    resources: ClassVar[str]
    section: ClassVar[str] = ""

    def file(self, run: Run) -> str:
        """The file that it makes; if it makes snapshots, the last one."""
        return f"{run.root}/{self.folder}/{self}{self.suffix}"

    def files(self, run: Run) -> list[str]:
        """All files that it makes."""
        return [self.file(run)]

    @abstractmethod
    def reads(self, run: Run) -> Sources:
        """What it reads, by option of its command."""

    def inputs(self, run: Run) -> dict[str, list[str]]:
        """The files that it reads, by option of its command."""
        return {
            option: [source if isinstance(source, str) else source.file(run) for source in sources]
            for option, sources in self.reads(run).items()
        }

    @abstractmethod
    def options(self, run: Run) -> dict[str, Any]:
        """The options of its command that determine the result, without the files that it reads."""

    def places(self, run: Run) -> dict[str, Any]:
        """The options of its command that may change while the result counts as the same."""
        return {"device": run.device}

    def images(self, run: Run, listing: Listing) -> list[dict[str, Any]]:
        """What the images that it works on depend on: another value means other images.

        Args:
            run: the run.
            listing: asked for the datasets of these images.
        """
        return [
            source.identity(run, listing)
            for sources in self.reads(run).values()
            for source in sources
            if isinstance(source, Preparation)
        ]

    def checked_values(self, run: Run) -> Iterator[CheckedValues]:
        """Its values, each group with the class of settings that checks it."""
        yield from ()

    def _own_values(self, values: Mapping[str, Any]) -> CheckedValues:
        """``values`` for the class ``Settings`` of its module."""
        return CheckedValues(f"{self.module}:Settings", values, self.stage)

    def check(self, run: Run, settings: list[Any]) -> None:  # noqa: B027  # most need no check
        """Raise a :class:`DDError` for an error that no group of settings shows alone.

        Args:
            run: the run.
            settings: one object for each group of :meth:`checked_values` that has values.
        """

    def check_found(self, run: Run) -> None:
        """Raise a :class:`DDError` if a file is missing that must exist before the run."""
        for sources in self.reads(run).values():
            for path in sources:
                if isinstance(path, str) and not Path(path).is_file():
                    raise DDError(f"{path}: no such file")

    def described(self, run: Run) -> dict[str, Any]:
        """Its entry in ``config.json``."""
        return self.options(run)

    @abstractmethod
    def measured(self, run: Run) -> MeasuredJob:
        """Its place in the table of costs, and the file of its measurement."""

    def _measured_on(self, run: Run, made: Distillation, protocol: str = "") -> MeasuredJob:
        """The same for a job on a set of ``made``, or for ``made`` itself."""
        return self._measured(run, made.dataset, made.method, made.ipc, protocol)

    def _measured(
        self, run: Run, dataset: str, method: str = "", ipc: int | None = None, protocol: str = ""
    ) -> MeasuredJob:
        return MeasuredJob(
            stage=f"{self.stage}, {protocol}" if protocol else self.stage,
            dataset=dataset,
            method=method,
            ipc=ipc or None,
            benchmark=f"{run.root}/benchmarks/{self.stage}/{self}{ENDING}",
            made=self.file(run),
        )

    def joined(self, other: Self) -> Self:
        """One job that does the work of this job and of ``other``, which is equal to it."""
        return self


@dataclass(frozen=True)
class Preparation(Job):
    """Write the raw images of a dataset to one file.

    Each whitening has a file of its own. So a method that needs another whitening does not change
    the file of those that ran before.

    Attributes:
        whitening: the space in which methods see images: one of :data:`dd.data.space.WHITENINGS`.
    """

    stage, module = "prepare", "dd.data.prepare"
    summary = "a dataset's raw images as one safetensors file"
    folder, resources = "data", "prepare"

    dataset: str
    whitening: str = "none"

    def __str__(self) -> str:
        return self.dataset if self.whitening == "none" else f"{self.dataset}+{self.whitening}"

    def reads(self, run: Run) -> Sources:
        return {}

    def options(self, run: Run) -> dict[str, Any]:
        given = {"normalise_as": run.normalisation(self.dataset), **self._given(run)}
        options = {name: value for name, value in sorted(given.items()) if name not in _PLACES}
        if self.whitening != "zca":
            options.pop("zca_eps", None)
        return options | {"name": self.dataset, "zca": self.whitening == "zca"}

    def places(self, run: Run) -> dict[str, Any]:
        return {name: value for name, value in self._given(run).items() if name in _PLACES}

    def images(self, run: Run, listing: Listing) -> list[dict[str, Any]]:
        return [self.identity(run, listing)]

    def identity(self, run: Run, listing: Listing) -> dict[str, Any]:
        """What the content of its file depends on, as the file itself says it."""
        return identity(self.options(run), listing(self.dataset))

    def is_current(self, run: Run, listing: Listing) -> bool:
        """Whether its file is there and holds the images that the run asks for."""
        said = self._said(run)
        return said is not None and said == self.identity(run, listing)

    def listing(self, run: Run) -> str | None:
        """The digest of the files of the folder that it reads (:func:`listing_digest`).

        If the folder is away (a disk that is not mounted), it is that of the file prepared before.
        None: there is neither, or its source reads no folder of image files.
        """
        folder = self._folder(run)
        if folder is None:
            return None
        if folder.is_dir():
            return listing_digest(folder)
        said = self._said(run)
        return said.get(LISTING) if isinstance(said, dict) else None

    def _said(self, run: Run) -> Any:
        """What its file says that its images depend on; None if there is no file."""
        from dd.artifacts.headers import read_header  # late: a list of stages needs no NumPy

        path = Path(self.file(run))
        return read_header(path).get("images") if path.is_file() else None

    def check_found(self, run: Run) -> None:
        """Raise a :class:`DDError` if what it reads is missing, unless it has been prepared."""
        if Path(self.file(run)).is_file():
            return
        given = self._given(run)
        if given["source"] != "digits" and "root" not in given:
            raise DDError(f"dataset {self.dataset}: needs a root, the folder of its images")
        if (folder := self._folder(run)) and not folder.is_dir():
            raise DDError(
                f"dataset {self.dataset}: root {folder} is no folder; give the folder that holds "
                "its images (data_root), or leave the dataset out (datasets)"
            )
        inside = DOWNLOADED.get(given["source"], ())
        if given.get("no_download") and not any(Path(given["root"], n).exists() for n in inside):
            raise DDError(
                f"dataset {self.dataset}: {given['root']} holds neither {' nor '.join(inside)}, "
                "nor images in train/<class>/ and test/<class>/; give the folder that does "
                "(data_root), or leave data_root out, and torchvision downloads them"
            )
        if (groups := given.get("groups")) and not Path(groups).is_file():
            raise DDError(f"dataset {self.dataset}: groups {groups} is no file")

    def _given(self, run: Run) -> dict[str, Any]:
        """What the run says of the dataset, in alphabetical order, without what only captions
        use."""
        given = sorted(run.datasets[self.dataset].items())
        return {name: v for name, v in given if name not in ("comparable_to", "copy")}

    def _folder(self, run: Run) -> Path | None:
        given = self._given(run)
        return Path(given["root"]) if given["source"] in IMAGE_FILES and "root" in given else None

    def checked_values(self, run: Run) -> Iterator[CheckedValues]:
        source = run.datasets[self.dataset]["source"]
        yield CheckedValues(f"dd.data.sources:SOURCES[{source}]", None, "prepare")

    def check(self, run: Run, settings: list[Any]) -> None:
        given = self._given(run)
        check_taken(given["source"], given)

    def measured(self, run: Run) -> MeasuredJob:
        return self._measured(run, self.dataset)


@dataclass(frozen=True)
class Shard(Job):
    """One shard of expert trajectories; ``experts`` of the run's buffer is their number."""

    stage, module = "buffer", "dd.pretrain.buffer"
    summary = "expert trajectories: the weights of networks during training on a dataset"
    folder, resources, section = "buffers", "buffer", "buffers"

    dataset: str
    whitening: str
    network: str
    number: int

    def __str__(self) -> str:
        return f"{self.dataset}/{self.whitening}/{self.network}/shard{self.number}"

    def reads(self, run: Run) -> Sources:
        return {"data": [_data(self.dataset, self.whitening)]}

    def options(self, run: Run) -> dict[str, Any]:
        settings = run.training("buffer", self.dataset)
        return {
            "network": self.network,
            "whitening": self.whitening,
            "first": self.number * settings["experts"],
            "width_factor": run.width_factor,
            **settings,
            **_precision(run),
        }

    def checked_values(self, run: Run) -> Iterator[CheckedValues]:
        yield self._own_values(run.training(self.stage, self.dataset))

    def measured(self, run: Run) -> MeasuredJob:
        return self._measured(run, self.dataset, self.network)


@dataclass(frozen=True)
class Pretraining(Job):
    """A network that is trained on the real data, or read from a file, and later used frozen."""

    stage, module = "pretrain", "dd.pretrain.pretrain"
    summary = "a network trained on a dataset, for later use with frozen weights"
    folder, resources, section = "pretrained", "pretrain", "pretrained"

    dataset: str
    whitening: str
    network: str

    def __str__(self) -> str:
        return f"{self.dataset}/{self.whitening}/{self.network}"

    def reads(self, run: Run) -> Sources:
        file = run.pretrained.get(self.dataset, {}).get(self.network)
        weights: list[Source] = [file] if file else []
        return {"data": [_data(self.dataset, self.whitening)], "weights": weights}

    def options(self, run: Run) -> dict[str, Any]:
        settings = run.training("pretrain", self.dataset, self.network)
        if self.reads(run)["weights"]:  # nothing is trained
            settings = {ASKED_OF_WEIGHTS: settings[ASKED_OF_WEIGHTS]}
        return {
            "network": self.network,
            "whitening": self.whitening,
            "width_factor": run.width_factor,
            **settings,
            **_precision(run),
        }

    def described(self, run: Run) -> dict[str, Any]:
        return self.options(run) | {"weights": next(iter(self.inputs(run)["weights"]), None)}

    def checked_values(self, run: Run) -> Iterator[CheckedValues]:
        yield self._own_values(run.training(self.stage, self.dataset, self.network))

    def measured(self, run: Run) -> MeasuredJob:
        return self._measured(run, self.dataset, self.network)


@dataclass(frozen=True)
class GeneratorTraining(Job):
    """A generator that is trained on the real data. Its latents can be optimised, not pixels."""

    stage, module = "generator", "dd.pretrain.generator"
    summary = "a generator whose latents can be optimised in place of pixels"
    folder, resources, section = "pretrained", "pretrain", "pretrained"

    dataset: str
    whitening: str

    def __str__(self) -> str:
        return f"{self.dataset}/{self.whitening}/generator"

    def reads(self, run: Run) -> Sources:
        return {"data": [_data(self.dataset, self.whitening)]}

    def options(self, run: Run) -> dict[str, Any]:
        settings = run.training("generator", self.dataset)
        return {"whitening": self.whitening, **settings, **_precision(run)}

    def checked_values(self, run: Run) -> Iterator[CheckedValues]:
        yield self._own_values(run.training(self.stage, self.dataset))

    def measured(self, run: Run) -> MeasuredJob:
        return self._measured(run, self.dataset)


@dataclass(frozen=True)
class Distillation(Job):
    """Distil a synthetic set.

    Attributes:
        method: see :mod:`dd.config.methods`.
        snapshots: the iterations at which the set is saved, ascending.
    """

    stage, module = "distill", "dd.distill.distill"
    summary = "a synthetic set from a dataset"
    folder, resources, section = "distilled", "distill", "distillations"

    dataset: str
    method: str
    ipc: int
    seed: int
    snapshots: tuple[int, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        return f"{self.dataset}/{self.method}/ipc{self.ipc}/seed{self.seed}"

    def file(self, run: Run) -> str:
        return Snapshot(self, self.snapshots[-1]).file(run)

    def files(self, run: Run) -> list[str]:
        return [*(Snapshot(self, n).file(run) for n in self.snapshots), self.metrics(run)]

    def metrics(self, run: Run) -> str:
        """The file of its metrics, one line per iteration."""
        return f"{run.root}/{self.folder}/{self}/metrics.jsonl"

    def settings(self, run: Run) -> dict[str, Any]:
        """The objective's settings without ``iterations``."""
        settings = run.distillation(self.method, self.dataset, self.ipc)
        return {name: value for name, value in settings.items() if name != "iterations"}

    def whitening(self, run: Run) -> str:
        """The space in which it sees images: one of :data:`dd.data.space.WHITENINGS`."""
        return self.settings(run)["whitening"]

    def parts(self, run: Run) -> dict[str, dict[str, Any]]:
        """Names and settings of its parametrisation and regulariser, as far as it has them."""
        method = run.parse(self.method)
        chosen = {"parametrisation": method.parametrisation, "regulariser": method.regulariser}
        return {
            kind: {
                "name": part.name,
                **run.part(part, method.objective, self.dataset, self.ipc),
            }
            for kind, part in chosen.items()
            if part
        }

    def reads(self, run: Run) -> Sources:
        method, whitening = run.parse(self.method), self.whitening(run)
        names = auxiliary_networks(run, self.method, self.dataset, self.ipc)
        if uses_pretrained(method.objective):
            names = [*networks(run, self.method, self.dataset, self.ipc), *names]
        generator: list[Source] = []
        if self._decodes(run):
            own = run.generators.get(self.dataset)
            trained = GeneratorTraining(self.dataset, whitening)
            generator = [own["weights"] if own else trained]
        return {
            "data": [_data(self.dataset, whitening)],
            "pool": [*pool_files(run, self.method)],
            "buffers": [*self._shards(run)],
            "pretrained": _frozen(self.dataset, whitening, names),
            "generator": generator,
        }

    def _decodes(self, run: Run) -> bool:
        """Whether it decodes latents of a generator."""
        part = run.parse(self.method).parametrisation
        return part is not None and uses_generator(part.name)

    def _shards(self, run: Run) -> list[Shard]:
        """The shards of expert trajectories; empty unless it matches trajectories."""
        settings = self.settings(run)
        if "experts" not in settings:
            return []
        count = -(-settings["experts"] // run.training("buffer", self.dataset)["experts"])
        return [
            Shard(self.dataset, settings["whitening"], network, number)
            for network in networks(run, self.method, self.dataset, self.ipc)
            for number in range(count)
        ]

    def options(self, run: Run) -> dict[str, Any]:
        method = run.parse(self.method)
        options = {
            "objective": method.objective,
            "ipc": self.ipc,
            "seed": self.seed,
            "width_factor": run.width_factor,
            **self.settings(run),
        }
        if method.pool:  # networks come from the pool
            options.pop("network", None)
        for kind, settings in self.parts(run).items():
            name = settings.pop("name")
            options[kind] = str(Part(name, settings))
        if self._decodes(run):
            options["adapter"] = run.generators.get(self.dataset, {}).get("adapter")
        return options | _precision(run) | {"snapshots": list(self.snapshots)}

    def places(self, run: Run) -> dict[str, Any]:
        places = super().places(run)
        # what unrolls students is faster with more memory; the result is the same (on a GPU up to
        # rounding)
        if {"experts", "student_epochs"} & self.settings(run).keys():
            asked = run.resources["distill"]["mem_mb"]
            places["memory"] = round(SHARE * asked / 1000, 1)
        return places

    def described(self, run: Run) -> dict[str, Any]:
        return {"snapshots": list(self.snapshots), **self.settings(run), **self.parts(run)}

    def checked_values(self, run: Run) -> Iterator[CheckedValues]:
        method = run.parse(self.method)
        values = self.settings(run) | {"iterations": self.snapshots[-1]}
        registry = f"dd.distill.objectives:OBJECTIVES[{method.objective}]"
        yield CheckedValues(f"{registry}.Settings", values, method.objective)
        registries = {
            "parametrisation": "dd.distill.parametrisations:PARAMETRISATIONS",
            "regulariser": "dd.distill.regularisers:REGULARISERS",
        }
        for kind, own in self.parts(run).items():
            name = own.pop("name")
            yield CheckedValues(f"{registries[kind]}[{name}].Settings", own, name)

    def check(self, run: Run, settings: list[Any]) -> None:
        for pool in pool_files(run, self.method):
            load_pool(pool)
        if "experts" in self.settings(run):
            own, epochs = settings[0], run.training("buffer", self.dataset)["epochs"]
            if own.last_epoch > epochs:
                raise DDError(
                    f"max_start_epoch {own.max_start_epoch} and expert_epochs "
                    f"{own.expert_epochs} need {own.last_epoch} epochs of the experts, the buffer "
                    f"has {epochs}"
                )

    def measured(self, run: Run) -> MeasuredJob:
        return self._measured_on(run, self)

    def joined(self, other: Distillation) -> Distillation:
        return replace(self, snapshots=tuple(sorted({*self.snapshots, *other.snapshots})))


@dataclass(frozen=True)
class Snapshot:
    """A synthetic set: the state of a distillation after a number of iterations."""

    distillation: Distillation
    iterations: int

    def __str__(self) -> str:
        return f"{self.distillation}/it{self.iterations}"

    def file(self, run: Run) -> str:
        return f"{run.root}/{Distillation.folder}/{self}{Distillation.suffix}"

    def sources(self, run: Run) -> Sources:
        """What every job on this set reads: the set, and the data that it was made from."""
        made = self.distillation
        return {"data": [_data(made.dataset, made.whitening(run))], "synthetic": [self]}

    def networks(self, run: Run, names: Iterable[str]) -> list[Source]:
        """The frozen networks called ``names``, trained on the data of this set, each once."""
        made = self.distillation
        return _frozen(made.dataset, made.whitening(run), names)

    def job(self, run: Run) -> Distillation | Import:
        """The job that makes this set: its distillation, or the import of somebody's set."""
        if run.is_imported(self.distillation.dataset, self.distillation.method):
            return Import(self.distillation, self.iterations)
        return replace(self.distillation, snapshots=(self.iterations,))


@dataclass(frozen=True)
class Import(Job):
    """Make a synthetic set of one that others published."""

    stage, module = "import", "dd.exchange.import_"
    summary = "synthetic sets from files that others published"
    folder, resources, section = "distilled", "import", "imported"

    distillation: Distillation
    iterations: int

    def __str__(self) -> str:
        return str(Snapshot(self.distillation, self.iterations))

    def entry(self, run: Run) -> dict[str, Any]:
        """What the run says of the set."""
        made = self.distillation
        place = (made.dataset, made.method, made.ipc, self.iterations, made.seed)
        entry = run.imported_set(*place)
        assert entry is not None  # cells have no other sets of an imported method
        return entry

    def path(self, run: Run) -> Path:
        """The file or folder that it reads."""
        return Path(run.sets_root, self.entry(run)["file"])

    def reads(self, run: Run) -> Sources:
        # The file of others is no input: it may lie elsewhere, or be away. See `images`.
        made = self.distillation
        return {"data": [_data(made.dataset, made.whitening(run))]}

    def options(self, run: Run) -> dict[str, Any]:
        entry, made = self.entry(run), self.distillation
        published = run.datasets[made.dataset].get("comparable_to", "")
        whitened = made.whitening(run) == "zca"
        return {
            "entry": entry.get("entry"),
            "units": "whitened" if whitened else entry.get("units"),
            "dataset": None if of_published(published) == DATA else published,
            "objective": run.parse(made.method).objective,
            "lr": entry.get("lr"),
            "iterations": self.iterations,
            "by": entry["by"],
        }

    def places(self, run: Run) -> dict[str, Any]:
        # Compared with the file, but no part of the result: a set imported before stays as it is.
        return {"ipc": self.distillation.ipc}

    def images(self, run: Run, listing: Listing) -> list[dict[str, Any]]:
        return [*super().images(run, listing), {"source": self._source(run)}]

    def _source(self, run: Run) -> str | None:
        """The digest of the file or folder; if it is away, of what was imported before."""
        from dd.artifacts.headers import read_header  # late: a list of stages needs no NumPy

        path, made = self.path(run), Path(self.file(run))
        if path.exists():
            return source_digest(path)
        said = read_header(made).get("imported") if made.is_file() else None
        return said.get("source") if isinstance(said, dict) else None

    def check(self, run: Run, settings: list[Any]) -> None:
        made, units = self.distillation, self.entry(run).get("units", "auto")
        if made.whitening(run) == "zca" and units != "auto":
            raise DDError(
                f"units is {units}, but {made.method} sees whitened images in this run; leave "
                "units out of its entry in imported"
            )

    def check_found(self, run: Run) -> None:
        """Raise a :class:`DDError` if what it reads is missing, unless it has been imported."""
        entry, path = self.entry(run), self.path(run)
        if path.exists() or Path(self.file(run)).is_file():
            return
        at = f"; it is in the {entry['from']}" if "from" in entry else ""
        raise DDError(f"{path}: no such file{at}; give the folder that holds it (sets_root)")

    def described(self, run: Run) -> dict[str, Any]:
        return {key: v for key, v in self.entry(run).items() if key != "dataset"}

    def measured(self, run: Run) -> MeasuredJob:
        return self._measured_on(run, self.distillation)


@dataclass(frozen=True)
class Relabelling(Job):
    """Soft labels of the views of a synthetic set."""

    stage, module = "relabel", "dd.evaluate.relabel"
    summary = "soft labels for each view of a synthetic set"
    folder, resources, section = "labels", "relabel", "labels"

    snapshot: Snapshot
    teacher: str

    def __str__(self) -> str:
        return f"{self.snapshot}/{self.teacher}"

    def reads(self, run: Run) -> Sources:
        teachers = self.snapshot.networks(run, auxiliaries(self.teacher))
        return {**self.snapshot.sources(run), "teacher": teachers}

    def options(self, run: Run) -> dict[str, Any]:
        made = self.snapshot.distillation
        views = run.training("relabel", made.dataset)
        fixed = {"seed": made.seed, "width_factor": run.width_factor}
        return {**fixed, **views, **_precision(run)}

    def checked_values(self, run: Run) -> Iterator[CheckedValues]:
        yield self._own_values(run.training(self.stage, self.snapshot.distillation.dataset))

    def measured(self, run: Run) -> MeasuredJob:
        return self._measured_on(run, self.snapshot.distillation)


@dataclass(frozen=True)
class Evaluation(Job):
    """Test accuracies of networks that are trained on a synthetic set.

    Attributes:
        protocol: canonical, see :mod:`dd.config.methods`.
        archs: canonical specs of the networks to evaluate, in alphabetical order.
    """

    stage, module = "evaluate", "dd.evaluate.evaluate"
    summary = "test accuracy of networks trained on a synthetic set"
    folder, resources, section, suffix = "evaluations", "evaluate", "evaluations", ".csv"

    distillation: Distillation
    iterations: int
    protocol: str
    archs: tuple[str, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        return f"{self.snapshot}/{self.protocol}"

    @property
    def snapshot(self) -> Snapshot:
        """The evaluated set."""
        return Snapshot(self.distillation, self.iterations)

    def reads(self, run: Run) -> Sources:
        return {**self.snapshot.sources(run), "labels": [*self.labels(run)]}

    def labels(self, run: Run) -> list[Relabelling]:
        """The soft labels that the networks learn from; empty unless the protocol uses some."""
        options = parse_protocol(self.protocol, run.protocols).options
        if planned_as(options["protocol"]) != SOFT:
            return []
        return [Relabelling(self.snapshot, options["teacher"])]

    def options(self, run: Run) -> dict[str, Any]:
        # Network n of a set has this seed + n. The seeds of two sets differ by more than a set has
        # networks, so no two sets of a cell share a network's seed.
        counts = {arch: self.count(run, arch) for arch in self.archs}
        most = max(counts.values(), default=run.networks)
        fixed: dict[str, Any] = {"networks": most, "seed": 1000 * self.distillation.seed}
        fixed["networks_of"] = [f"{arch}={n}" for arch, n in counts.items() if n != most]
        fixed["diverged"] = "record"  # a setting that fails is a result, too; tables say so
        fixed["arch_settings"] = [str(Part(*own)) for own in self.arch_settings(run).items()]
        fixed["width_factor"] = run.width_factor
        return {"arch": list(self.archs), **fixed, **self._passed(run), **_precision(run)}

    def count(self, run: Run, arch: str) -> int:
        """The number of networks of ``arch``."""
        made = self.distillation
        has = {
            "dataset": made.dataset,
            "method": made.method,
            "ipc": made.ipc,
            "iterations": self.iterations,
            "protocol": self.protocol,
            "arch": canonical(arch),
        }
        for rule in reversed(run.networks_for):
            if all(has[key] in values for key, values in _rule(rule, run).items()):
                return rule["networks"]
        return run.networks

    def conditions(self, run: Run, network: str = "") -> dict[str, Any]:
        """The settings and the protocol with which ``network`` is trained.

        Without ``network``: those of a network that no section of a recipe names.
        """
        made = self.distillation
        protocol = parse_protocol(self.protocol, run.protocols)
        settings = run.evaluation(made.method, made.dataset, made.ipc, network)
        known = made.settings(run)
        epochs = epochs_of_steps(run.parse(made.method).objective)
        if protocol.options["protocol"] == STEPS and epochs:
            settings = {**settings, **TAKING_STEPS, "epochs": known[epochs]}
        return settings | dict(protocol.options)

    def _passed(self, run: Run, network: str = "") -> dict[str, Any]:
        """Those of :meth:`conditions` that are known before the set is there."""
        known = self.conditions(run, network)
        later = _OF_SET if known["protocol"] == STEPS else ()
        return {name: value for name, value in known.items() if name not in later}

    def also_trained(self, run: Run) -> list[str]:
        """Canonical specs of networks that are trained beside those to be tested: a teacher.

        The suite's own ``kd`` trains one only if it has a weight, a plug-in's protocol that is like
        it always.
        """
        options = parse_protocol(self.protocol, run.protocols).options
        protocol = options["protocol"]
        if planned_as(protocol) != KD:
            return []
        if protocol == KD and not needs_teacher(options["temperature"], options["alpha"]):
            return []
        return [canonical(options["teacher"])]

    def trained(self, run: Run) -> list[Trained]:
        """All that this job trains: first those to be tested, then those of :meth:`also_trained`.

        Each network to be tested has a teacher of its own number, so there are as many teachers as
        networks of the architecture that has the most.
        """
        tested = [(arch, self.count(run, arch)) for arch in self.archs]
        most = max((count for _, count in tested), default=run.networks)
        beside = [(arch, most) for arch in self.also_trained(run)]
        return [Trained(arch, self.conditions(run, arch), n) for arch, n in [*tested, *beside]]

    def arch_settings(self, run: Run) -> dict[str, dict[str, Any]]:
        """The networks whose settings differ from the common ones, with the settings that differ.

        The common settings are those of :meth:`conditions` without a network. A teacher that this
        job trains is one of the networks.
        """
        common = self._passed(run)
        archs = dict.fromkeys([*self.archs, *self.also_trained(run)])
        own = {arch: self._passed(run, arch).items() - common.items() for arch in archs}
        return {arch: dict(sorted(settings)) for arch, settings in own.items() if settings}

    def described(self, run: Run) -> dict[str, Any]:
        own: dict[str, Any] = {"arch_settings": self.arch_settings(run)}
        if run.networks_for:
            own["networks"] = {arch: self.count(run, arch) for arch in self.archs}
        return {"arch": list(self.archs), **self._passed(run), **own}

    def checked_values(self, run: Run) -> Iterator[CheckedValues]:
        made = self.distillation
        training = run.evaluation(made.method, made.dataset, made.ipc)
        for arch in ("", *self.arch_settings(run)):
            values = self.conditions(run, arch)
            own = {name: values[name] for name in training}
            yield CheckedValues(
                "dd.training.recipe:Recipe", own, f"evaluation of {arch}" if arch else "evaluation"
            )
        values = self.conditions(run)
        protocol = values["protocol"]
        own = {k: v for k, v in values.items() if k not in training and k != "protocol"}
        yield CheckedValues(
            f"dd.evaluate.protocols:PROTOCOLS[{protocol}].Settings",
            own,
            f"protocol {self.protocol}",
        )

    def check(self, run: Run, settings: list[Any]) -> None:
        views = run.training("relabel", self.distillation.dataset) if self.labels(run) else {}
        *trained, _ = settings
        for recipe in trained:
            if views.get("cutmix") and views["batch"] != recipe.batch:
                raise DDError(
                    f"batch of evaluation is {recipe.batch}, of relabel {views['batch']}: "
                    "CutMix mixes the images of a batch; give both the same value"
                )
        made = self.distillation
        objective = run.parse(made.method).objective
        protocol = parse_protocol(self.protocol, run.protocols).options["protocol"]
        settings_of_set = made.settings(run)
        if protocol == STEPS and not epochs_of_steps(objective):
            raise DDError(
                f"protocol {self.protocol}: networks take the steps for which a set was made, but "
                f"{made.method} makes sets for no steps; use another protocol"
            )
        fixed = settings_of_set.get("initialisation") == "fixed"
        if protocol == STEPS and fixed and "students" in settings_of_set:
            self._check_starts(run, settings_of_set["students"])
        targets = learns_targets(objective) and settings_of_set.get("lr_label", True)
        if targets and protocol in (HARD, KD):
            raise DDError(
                f"protocol {self.protocol}: the labels of {made.method} are targets of a "
                "regression, no probabilities; use the protocol regression, or lr_label=0"
            )

    def _check_starts(self, run: Run, students: int) -> None:
        """Refuse more networks than there are fixed initial parameters, those of ``students``."""
        made = self.distillation
        known = networks(run, made.method, made.dataset, made.ipc)
        for arch in self.archs:
            count = self.count(run, arch)
            if count > students and arch in known:
                raise DDError(
                    f"{count} networks of {arch}, but the set of {made.method} is for "
                    f"fixed initial parameters of {students}, so more networks would be the same "
                    f"again; give networks_for with {students}"
                )

    def measured(self, run: Run) -> MeasuredJob:
        protocol = self.protocol.partition("@")[0]
        return self._measured_on(run, self.distillation, "" if protocol == HARD else protocol)

    def joined(self, other: Evaluation) -> Evaluation:
        return replace(self, archs=tuple(sorted({*self.archs, *other.archs})))


@dataclass(frozen=True)
class ActivationMaps(Job):
    """Class activation maps of a synthetic set, for each network that the run compares."""

    stage, module = "cams", "dd.analyse.cams"
    summary = "class activation maps of a synthetic set"
    folder, resources, section = "cams", "analyse", "cams"

    snapshot: Snapshot

    def __str__(self) -> str:
        return str(self.snapshot)

    def reads(self, run: Run) -> Sources:
        networks = self.snapshot.networks(run, cam_networks(run))
        return {**self.snapshot.sources(run), "pretrained": networks}

    def options(self, run: Run) -> dict[str, Any]:
        options = {"width_factor": run.width_factor, "rectify": cam_rectify(run)}
        return options | _precision(run)

    def described(self, run: Run) -> dict[str, Any]:
        return {"networks": cam_networks(run), **self.options(run)}

    def checked_values(self, run: Run) -> Iterator[CheckedValues]:
        yield _metadd_values(run, self.snapshot.distillation.dataset)

    def measured(self, run: Run) -> MeasuredJob:
        return self._measured_on(run, self.snapshot.distillation)


@dataclass(frozen=True)
class Erasing(Job):
    """Test accuracies of networks after regions of the images are erased."""

    stage, module = "erase", "dd.analyse.erase"
    summary = "test accuracy after regions of the images are erased"
    folder, resources, section, suffix = "erasing", "analyse", "erasing", ".csv"

    dataset: str
    whitening: str = "none"

    def __str__(self) -> str:
        return f"{self.dataset}/{self.whitening}"

    def reads(self, run: Run) -> Sources:
        # The auxiliary networks define the regions, the others are tested on them.
        names = [*auxiliary(run, self.dataset), *cam_networks(run)]
        return {
            "data": [_data(self.dataset, self.whitening)],
            "pretrained": _frozen(self.dataset, self.whitening, names),
        }

    def options(self, run: Run) -> dict[str, Any]:
        return {
            "whitening": self.whitening,
            "width_factor": run.width_factor,
            "regions_from": ".".join(auxiliary(run, self.dataset)),
            "rectify": cam_rectify(run),
            **_precision(run),
        }

    def checked_values(self, run: Run) -> Iterator[CheckedValues]:
        yield _metadd_values(run, self.dataset)

    def measured(self, run: Run) -> MeasuredJob:
        return self._measured(run, self.dataset)


STAGES: tuple[type[Job], ...] = (
    Preparation,
    Shard,
    Pretraining,
    GeneratorTraining,
    Distillation,
    Import,
    Relabelling,
    Evaluation,
    ActivationMaps,
    Erasing,
)
"""The classes of jobs, in the order of the workflow."""


def distillations(cell: Cell, run: Run) -> list[Distillation]:
    """The distillations of a cell, one per seed. Each saves the set that the cell shows.

    If the sets of its method are imported, they stand for those of others. There may be fewer than
    the cell has seeds, or none.
    """
    place, saved = (cell.dataset, cell.method, cell.ipc), (cell.iterations,)
    imported = run.is_imported(cell.dataset, cell.method)
    return [
        Distillation(*place, seed, saved)
        for seed in cell.seeds
        if not imported or run.imported_set(*place, cell.iterations, seed)
    ]


def snapshots(cell: Cell, run: Run) -> list[Snapshot]:
    """The synthetic sets of a cell, one per seed; without those that others did not publish."""
    return [Snapshot(job, cell.iterations) for job in distillations(cell, run)]


def evaluations(cell: Cell, run: Run) -> list[Evaluation]:
    """The evaluations of a cell, one per protocol and set; empty if the cell has no network.

    Raises:
        DDError: if its network is unknown.
    """
    if cell.arch is None:
        return []
    arch = canonical(str(cell.arch))
    return [
        Evaluation(job, cell.iterations, protocol, (arch,))
        for protocol in cell.protocols
        for job in distillations(cell, run)
    ]


def needed(run: Run, roots: Iterable[Job]) -> list[Job]:
    """``roots`` and all jobs whose files they need, directly or indirectly, each once."""
    jobs: dict[Job, Job] = {}

    def add(job: Job) -> None:
        if job in jobs:
            jobs[job] = jobs[job].joined(job)
            return
        jobs[job] = job
        for sources in job.reads(run).values():
            for source in sources:
                if not isinstance(source, str):
                    add(source.job(run) if isinstance(source, Snapshot) else source)

    for job in roots:
        add(job)
    return list(jobs.values())


def check_networks_for(run: Run) -> None:
    """Raise a :class:`DDError` for a name in ``networks_for`` of a run that does not exist."""
    for number, rule in enumerate(run.networks_for):
        try:
            _rule(rule, run)
            for name in rule.get("dataset", ()):
                run.check_dataset("dataset", name)
        except DDError as error:
            raise DDError(f"run {run.name}, networks_for.{number}: {error}") from None


def _rule(rule: Mapping[str, Any], run: Run) -> dict[str, list[Any]]:
    """The properties that a rule of ``networks_for`` is for, with the names that jobs have."""
    named: dict[str, Callable[[str], str]] = {
        "method": lambda text: str(run.parse(text)),
        "protocol": lambda text: str(parse_protocol(text, run.protocols)),
        "arch": canonical,
    }
    return {
        key: [named[key](value) for value in values] if key in named else values
        for key, values in rule.items()
        if key != "networks"
    }


def command_words(settings: Mapping[str, Any]) -> list[str]:
    """Settings as command-line options: ``lr_img: 0.1`` becomes ``--lr-img 0.1``.

    True becomes a flag without a value. The values of a list follow the name of the option.
    """
    words = []
    for name, value in settings.items():
        if value is False or value is None or value == []:
            continue
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words += [format_value(v) for v in (value if isinstance(value, list) else [value])]
            if isinstance(value, str) and value.startswith("-"):  # argparse would see an option
                words[-2:] = [f"{words[-2]}={words[-1]}"]
    return words


def _precision(run: Run) -> dict[str, str]:
    """The option ``precision`` of a stage that computes; none for its default, float32."""
    return {} if run.precision == "float32" else {"precision": run.precision}


def _data(dataset: str, whitening: str) -> Preparation:
    return Preparation(dataset, whitening)


def _frozen(dataset: str, whitening: str, names: Iterable[str]) -> list[Source]:
    """The frozen networks called ``names``, each once."""
    return [Pretraining(dataset, whitening, name) for name in dict.fromkeys(names)]


def _metadd_values(run: Run, dataset: str) -> CheckedValues:
    """MetaDD's settings, which also apply to all class activation maps of a run."""
    settings = "dd.distill.regularisers:REGULARISERS[metadd].Settings"
    return CheckedValues(settings, metadd(run, dataset), "metadd")
