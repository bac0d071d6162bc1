"""A run: which data, how many networks and seeds, which settings, which tables and figures."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dd import plugins
from dd.artifacts.text import load_json
from dd.config import plugin_files
from dd.config.documents import check, read_yaml
from dd.config.methods import (
    SOFT,
    Definitions,
    Method,
    Part,
    parse,
    planned_as,
    protocol_of_plugin,
)
from dd.config.normalisation import CONSTANTS, constants, of_published, of_source
from dd.config.recipes import (
    check_overrides,
    check_sections,
    evaluation_fallback,
    fallback,
    merged,
    plugin,
    resolve,
    resolve_evaluation,
    resolve_part,
    resolve_training,
    uses_pretrained,
)
from dd.errors import DDError, unknown

OVERRIDES = (
    *("data_root", "copy", "datasets", "sets_root", "networks", "seeds", "device", "precision"),
    *("plugins", "results"),
)
_YOUNGER = (
    *("networks_for", "seeds_for", "exclude", "imported"),
    *("sets_root", "plugins", "other_datasets"),
)
DOWNLOADED = {
    "cifar10": ("cifar-10-batches-py", "cifar-10-python.tar.gz"),
    "cifar100": ("cifar-100-python", "cifar-100-python.tar.gz"),
    "fashion_mnist": ("FashionMNIST",),
    "mnist": ("MNIST",),
    "svhn": ("train_32x32.mat",),
}
"""The sources that may download into their folder, each with what is then in it, one of these."""

FOLDERS = ("image-folder", "class-folders")  # sources that do not tell which dataset they hold


@dataclass(frozen=True)
class Run:
    """A checked run configuration (``workflow/config/runs/<name>.yaml`` and overrides).

    Attributes:
        name: the file's stem; results lie under ``<results>/<name>/``.
        title: a description of the run.
        datasets: by name, the options of ``python -m dd prepare``, the ``label`` for captions,
            ``comparable_to`` (the published dataset that it may be compared with, if any) and
            ``copy`` (which copy of that dataset it is, if not the original files).
        seeds: the seeds; one synthetic set is made for each.
        networks: number of evaluation networks per synthetic set and architecture.
        networks_for: other numbers for some evaluations: rules with ``networks`` and, by property
            (``dataset``, ``method``, ``ipc``, ``iterations``, ``protocol``, ``arch``), the values
            that they are for; the last rule that fits counts.
        seeds_for: other seeds, for one table, figure or paper by name.
        exclude: cells that all tables and figures leave out: rules with values by axis.
        imported: sets that others made, in place of distillations (:meth:`imported_set`).
        sets_root: the folder in which the files of ``imported`` lie.
        axes: values that replace those of the same axes in tables and figures.
        axes_for: the same, for one table, figure or paper by name; these override ``axes``.
        recipes: settings that override ``dd/config/recipes.yaml``, by objective, parametrisation or
            regulariser, and for ``buffer``, ``pretrain``, ``generator``, ``relabel`` and
            ``evaluation``.
        tables, figures, optional: what is made; the optional ones only if requested by name.
        resources: threads, mem_mb and runtime (minutes) of a job, by stage.
        pretrained: by dataset and network, files of weights to use instead of pretraining.
        generators: by dataset, ``weights`` (a file) and ``adapter`` (``MODULE:FUNCTION``) of a
            generator to use instead of the suite's own.
        cam_networks: networks whose class activation maps are computed; empty: the auxiliary
            networks.
        stands_in_for: the dataset that the datasets replace, for captions ("" if none).
        width_factor: factor on the widths of all networks; 1 gives the networks of the papers.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: in which networks compute: ``float32``, ``bf16`` or ``tf32``.
        plugins: modules that are plug-ins of this run and are not installed.
        other_datasets: datasets of its file that its user left out. What the run says of them has
            no effect, and tables and figures of them alone are left out.
        results: the folder of all runs.
        workflow: the folder of the workflow's configuration.
    """

    name: str
    title: str
    datasets: dict[str, dict[str, Any]]
    seeds: list[int]
    networks: int
    axes: dict[str, list[Any]]
    tables: list[str]
    figures: list[str]
    resources: dict[str, dict[str, int]]
    axes_for: dict[str, dict[str, list[Any]]] = dataclasses.field(default_factory=dict)
    networks_for: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    seeds_for: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    exclude: list[dict[str, list[Any]]] = dataclasses.field(default_factory=list)
    imported: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    sets_root: str = ""
    recipes: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    optional: list[str] = dataclasses.field(default_factory=list)
    pretrained: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    generators: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    cam_networks: list[str] = dataclasses.field(default_factory=list)
    stands_in_for: str = ""
    width_factor: float = 1.0
    device: str = "auto"
    precision: str = "float32"
    plugins: list[str] = dataclasses.field(default_factory=list)
    other_datasets: list[str] = dataclasses.field(default_factory=list)
    results: str = "results"
    workflow: str = "workflow"

    @property
    def root(self) -> str:
        """The folder of everything that the run makes."""
        return f"{self.results}/{self.name}"

    def path(self, *parts: str) -> str:
        """``parts`` under ``workflow/config``."""
        return str(Path(self.workflow, "config", *parts))

    @cached_property
    def pools(self) -> list[str]:
        """The names of all model pools."""
        return stems(self.path("pools"))

    @cached_property
    def protocols(self) -> Definitions:
        """The evaluation protocols by name."""
        path = self.path("protocols.yaml")
        document, schema = read_yaml(path), read_yaml(self.schema("protocols"))
        _with_plugins(schema["additionalProperties"]["properties"], document)
        check(document, schema, path)
        return Definitions(document)

    def schema(self, kind: str) -> str:
        """The file of the JSON schema of ``kind``."""
        return str(Path(self.workflow, "schemas", f"{kind}.schema.yaml"))

    def parse(self, method: str) -> Method:
        """The method called ``method``."""
        found = self._parsed.get(method) if isinstance(method, str) else None
        if found is None:  # parse refuses what is no text
            found = self._parsed[method] = parse(method, self.pools)
        return found

    @cached_property
    def _parsed(self) -> dict[str, Method]:
        return {}

    def imported_set(
        self, dataset: str, method: str, ipc: int, iterations: int, seed: int
    ) -> dict[str, Any] | None:
        """The entry of ``imported`` for a synthetic set; None if there is none."""
        return self._imported.get((dataset, method, ipc, iterations, seed))

    def is_imported(self, dataset: str, method: str) -> bool:
        """Whether the sets of ``method`` are imported. Then none is distilled on this dataset: a
        set that ``imported`` does not list does not exist."""
        return (dataset, method) in self._imported_methods

    @cached_property
    def _imported(self) -> dict[tuple[Any, ...], dict[str, Any]]:
        found: dict[tuple[Any, ...], dict[str, Any]] = {}
        for entry in self.imported:
            method = str(self.parse(entry["method"]))
            place = (entry["dataset"], method, entry["ipc"], entry["iterations"], entry["seed"])
            if place in found:
                raise DDError(
                    f"imported: two sets for {method}, {entry['dataset']}, IPC {entry['ipc']}, "
                    f"{entry['iterations']} iterations, seed {entry['seed']}"
                )
            found[place] = entry
        return found

    @cached_property
    def _imported_methods(self) -> set[tuple[str, str]]:
        return {(dataset, method) for dataset, method, *_ in self._imported}

    def distillation(self, method: str, dataset: str, ipc: int) -> dict[str, Any]:
        """The settings with which ``method`` distils ``dataset`` in this run."""
        parsed = self.parse(method)
        own = merged(self._own(parsed.objective), dataset, ipc) | dict(parsed.settings)
        return resolve(parsed.objective, dataset, ipc, own)

    def evaluation(self, method: str, dataset: str, ipc: int, network: str = "") -> dict[str, Any]:
        """The settings with which this run trains ``network`` on a set of ``method``.

        Without ``network``: those of a network that no section names.
        """
        objective = self.parse(method).objective
        own = merged(self._own("evaluation"), dataset, ipc, objective, network)
        return resolve_evaluation(objective, dataset, ipc, own, network)

    def training(self, stage: str, dataset: str, network: str = "") -> dict[str, Any]:
        """The settings of a ``stage`` on ``dataset``, for ``network`` if it trains one.

        The stage is one that does not depend on the method: ``buffer``, ``pretrain``, ``generator``
        or ``relabel``.
        """
        own = merged(self._own(stage), dataset, network=network)
        return resolve_training(stage, dataset, own, network)

    def part(self, part: Part, objective: str, dataset: str, ipc: int) -> dict[str, Any]:
        """The settings of a parametrisation or regulariser together with ``objective``."""
        own = merged(self._own(part.name), dataset, ipc, objective) | dict(part.settings)
        return resolve_part(part.name, objective, dataset, ipc, own)

    def as_published(
        self,
        method: str,
        dataset: str,
        ipc: int,
        trained: Iterable[str] = ("",),
        protocols: Iterable[str] = (),
    ) -> bool:
        """Whether this run uses exactly the settings of the recipe of ``method``.

        What its distillation reads (buffers, frozen networks) and the evaluation of the networks
        ``trained`` must follow their recipes, too, soft labels and their teachers included. The
        recipe must have settings of its own for this dataset and IPC. Of imported sets, whose
        distillation was not ours, only images and evaluation count. A plug-in from which anything
        of this comes must say where it was published (its ``source``).
        """
        parsed = self.parse(method)
        objective = parsed.objective
        trained, protocols = [*trained], [*protocols]
        specs = ".".join(trained).split(".")  # teachers are joined by dots
        named = [plugin(objective), *map(protocol_of_plugin, protocols)]
        named += [plugins.find(spec.partition(":")[0], ("network",), ()) for spec in specs]
        if self.is_imported(dataset, method):
            distilled = evaluation_fallback(objective, dataset, ipc) is None
        else:
            distilled = self._distilled_as_published(method, dataset, ipc)
        if any(planned_as(protocol) == SOFT for protocol in protocols):
            distilled &= self._trained_as_published("relabel", dataset)
            distilled &= self._trained_as_published("pretrain", dataset, *specs)
        return (
            distilled
            and all(plugin_files.source(entry) for entry in named if entry is not None)
            and self.width_factor == 1
            and self._images_as_published(objective, dataset)
            and all(
                self.evaluation(method, dataset, ipc, network)
                == resolve_evaluation(objective, dataset, ipc, network=network)
                for network in trained
            )
            and not parsed.parts  # no published values to compare them with
        )

    def _distilled_as_published(self, method: str, dataset: str, ipc: int) -> bool:
        """Whether the distillation by ``method``, and what it reads, are those of the recipes."""
        parsed, settings = self.parse(method), self.distillation(method, dataset, ipc)
        if fallback(parsed.objective, dataset, ipc) is not None:
            return False
        if settings != resolve(parsed.objective, dataset, ipc):
            return False
        if "experts" in settings and not self._trained_as_published("buffer", dataset):
            return False
        if not uses_pretrained(parsed.objective):
            return True
        if parsed.pool:  # any network may be in it
            return not self._own("pretrain")
        return self._trained_as_published("pretrain", dataset, settings["network"])

    def _trained_as_published(self, stage: str, dataset: str, *networks: str) -> bool:
        """Whether a ``stage`` on ``dataset`` has the settings of its recipe, for all
        ``networks``."""
        return all(
            self.training(stage, dataset, network)
            == resolve_training(stage, dataset, network=network)
            for network in networks or ("",)
        )

    def _images_as_published(self, objective: str, dataset: str) -> bool:
        """Whether ``dataset`` has the images of the authors of ``objective``: same size, channels,
        units and ZCA ε."""
        options = self.datasets[dataset]
        units = constants(of_published(options.get("comparable_to", ""), objective))
        if units is None or constants(self.normalisation(dataset)) != units:
            return False
        channels = options.get("channels", len(units.mean))
        return channels == len(units.mean) and not {"zca_eps", "resize"} & options.keys()

    def check_dataset(self, what: str, name: str) -> None:
        """Raise a :class:`DDError` if ``name``, given as ``what``, is no dataset of the run's
        file."""
        if name not in (*self.datasets, *self.other_datasets):
            raise unknown(what, name, self.datasets)

    def normalisation(self, dataset: str) -> str:
        """The source of the mean and std that normalise ``dataset`` (``--normalise-as``)."""
        options = self.datasets[dataset]
        return options.get("normalise_as", of_source(options["source"]))

    def _own(self, block: str) -> dict[str, Any]:
        return self.recipes.get(block, {})

    def document(self) -> dict[str, Any]:
        """The run as JSON (``config.json``).

        Keys that older versions did not have are left out if the run does not use them. So the file
        of an older run stays as it is, and its tables and figures are not made again.
        """
        document = dataclasses.asdict(self)
        if self.precision == "float32":
            del document["precision"]
        return {key: v for key, v in document.items() if key not in _YOUNGER or v}


def _with_plugins(known: dict[str, Any], definitions: Any) -> None:
    """Add the protocols of plug-ins, and the options of those that ``definitions`` use, to what a
    schema knows of a definition."""
    known["protocol"]["enum"] += plugins.catalogue().names("protocol")
    if not isinstance(definitions, dict):
        return  # the schema says so
    for definition in definitions.values():
        named = definition.get("protocol") if isinstance(definition, dict) else None
        if isinstance(named, str) and (entry := protocol_of_plugin(named)):
            for option in plugin_files.options(entry):
                known.setdefault(option, {"type": ["number", "string"]})


def stated(run: Run) -> dict[str, Any]:
    """The content of the file of ``run``: without its paths, and without options that are empty."""
    document = run.document()
    for field in dataclasses.fields(Run):
        optional = field.default_factory is not dataclasses.MISSING or field.default == ""
        if optional and document.get(field.name) in ("", [], {}):
            del document[field.name]
    return {key: v for key, v in document.items() if key not in ("name", "results", "workflow")}


def stems(folder: str | Path) -> list[str]:
    """The names of the YAML files in ``folder``."""
    return sorted(path.stem for path in Path(folder).glob("*.yaml"))


def load_run(
    name: str, overrides: Mapping[str, Any] | None = None, workflow: str | Path = "workflow"
) -> Run:
    """The run ``name`` (of ``workflow/config/runs``, or the path of a YAML file).

    Args:
        name: a run's name or its file.
        overrides: values that override the file: ``data_root`` (existing raw data of the run's
            dataset, or a folder with a folder for each dataset), ``copy`` (which copy of the
            original images ``data_root`` holds, such as ``JPEG``), ``datasets`` (a choice of the
            run's datasets), ``sets_root`` (the folder of imported sets), ``networks`` (for all
            architectures), ``seeds`` (for all tables and figures), ``device``, ``precision``,
            ``results``.
        workflow: the folder of the workflow.

    Raises:
        DDError: for anything that is unknown, missing or of another type; the message names file
            and key.
    """
    overrides = dict(overrides or {})
    for key, value in overrides.items():
        if key not in OVERRIDES:
            raise unknown("configuration key", str(key), ["run", *OVERRIDES])
        if value is None or value == "":
            raise DDError(f"{key}: is empty; give a value, or leave {key} out")
    name = str(name)
    runs = Path(workflow, "config", "runs")
    if not Path(workflow, "schemas").is_dir():
        raise DDError(
            f"{workflow}: is no folder of a workflow; start in the checkout, or give --workflow"
        )
    if not name.endswith((".yaml", ".yml")) and name not in stems(runs):
        raise unknown("run", name, stems(runs))
    path = Path(name) if name.endswith((".yaml", ".yml")) else runs / f"{name}.yaml"
    schema = read_yaml(Path(workflow, "schemas", "run.schema.yaml"))
    document = read_yaml(path)
    check(document, schema, path)
    data_root, copy = (overrides.pop(key, None) for key in ("data_root", "copy"))
    results = os.path.normpath(str(overrides.pop("results", "results")))
    if isinstance(overrides.get("plugins"), str):
        overrides["plugins"] = [overrides["plugins"]]
    chosen = overrides.pop("datasets", None)
    if chosen is not None:
        known, document["datasets"] = document["datasets"], _chosen(document["datasets"], chosen)
        document["other_datasets"] = [name for name in known if name not in document["datasets"]]
    if "sets_root" in overrides:
        overrides["sets_root"] = os.path.normpath(str(overrides["sets_root"]))
    document |= {key: _typed(value) for key, value in overrides.items()}
    for key in overrides:
        document.pop(f"{key}_for", None)  # what is given here is for all
    check(document, schema, "--config")
    if data_root is not None:
        root = os.path.normpath(str(data_root))
        described = None if copy is None else str(copy)
        document["datasets"] = _rooted(document["datasets"], root, described)
        check(document, schema, "--config")
    if copy is not None and not any("copy" in o for o in document["datasets"].values()):
        raise DDError(
            f"copy: {data_root} is no image folder of this run: it needs train/ and test/ (or val/)"
            if data_root is not None
            else "copy: describes the images in data_root, which is not given"
        )
    for options in document["datasets"].values():
        if "copy" in options:
            options["label"] += f" ({options['copy']} copy)"
    plugin_files.use(document.get("plugins", []))
    run = Run(name=path.stem, workflow=str(workflow), results=results, **document)
    if run.precision == "tf32" and run.device == "cpu":
        raise DDError("precision: tf32 is of NVIDIA GPUs, device is cpu; choose float32 or bf16")
    _check_folders(run)
    try:
        _check_names(run)
    except DDError as error:
        raise DDError(f"{path}: {error}") from None
    return run


def _check_folders(run: Run) -> None:
    """Raise a :class:`DDError` if the path of the run's results cannot be used.

    The results must lie in a folder named after the run. Snakemake, its report and commands must
    not misread the path (as a wildcard, HTML or an option).
    """
    if run.name.startswith((".", "-")):
        raise DDError(f"run {run.name}: its file's name must not start with '{run.name[0]}'")
    for what, text in (("results", run.results), ("run", run.name)):
        bad = [sign for sign in text if sign in "{}<>" or not sign.isprintable()]
        if bad or not text or text.startswith("-"):
            fault = f"has {bad[0]!r}" if bad else "starts with '-'" if text else "is empty"
            raise DDError(f"{what}: the path {text!r} {fault}; choose one of plain characters")
    for folder in (Path(run.root), *Path(run.root).parents):
        if folder.exists() and not folder.is_dir():
            raise DDError(f"results: {folder} is a file; choose a folder")
    check_layout(run.root)


def check_layout(root: str | Path) -> None:
    """Raise a :class:`DDError` if ``root`` has the layout of a version before 0.3."""
    old, new = Path(root, "pools"), Path(root, "pretrained")
    if old.is_dir():
        raise DDError(
            f"{old}: is of a version before 0.3; frozen networks and generators now lie in {new}. "
            f"Rename the folder (mv {shlex.quote(str(old))} {shlex.quote(str(new))}), or choose "
            "other results"
        )


def _typed(value: Any) -> Any:
    """A value of ``--config``. Snakemake leaves numbers in a list as text, so convert them."""
    if not isinstance(value, list):
        return value
    return [int(v) if isinstance(v, str) and v.isdecimal() else v for v in value]


def _chosen(datasets: dict[str, dict[str, Any]], names: Any) -> dict[str, dict[str, Any]]:
    """The ``datasets`` called ``names`` (a name or a list of names)."""
    names = names if isinstance(names, list) else [names]
    for name in names:
        if isinstance(name, (dict, list)):
            raise DDError(f"datasets: {name} is no name; give a name or a list of names")
        if str(name) not in datasets:
            raise unknown("dataset of the run", str(name), datasets)
    return {str(name): datasets[str(name)] for name in names}


def _rooted(
    datasets: dict[str, dict[str, Any]], root: str, copy: str | None
) -> dict[str, dict[str, Any]]:
    """The datasets, each in the folder of its name in ``root``; an only one may lie in ``root``."""
    if not Path(root).is_dir():
        raise DDError(f"data_root: {root} is no folder")
    folders = {name: str(Path(root, name)) for name in datasets}
    if len(datasets) == 1 and not any(Path(folder).is_dir() for folder in folders.values()):
        folders = dict.fromkeys(datasets, root)
    for folder in folders.values():
        if not Path(folder).is_dir():
            raise DDError(
                f"data_root: {folder} is no folder; a run of several datasets needs one for each "
                f"({', '.join(datasets)})"
            )
    return {name: _read_from(name, datasets[name], folders[name], copy) for name in datasets}


def _read_from(name: str, options: dict[str, Any], root: str, copy: str | None) -> dict[str, Any]:
    """The options of ``python -m dd prepare`` if the images lie in ``root``.

    A folder that replaces a source keeps the source's normalisation. It is compared with published
    values only if ``copy`` names it. Otherwise nobody says that it holds the published images.
    """
    if options["source"] == "digits":
        raise DDError(f"data_root: '{name}' comes with scikit-learn; choose another run to use it")
    options = options | {"root": root}
    there = {part for part in ("train", "test", "val") if Path(root, part).is_dir()}
    # Tiny ImageNet's own folders are train, test (without labels) and val
    own = options["source"] == "tiny-imagenet" and "val" in there
    folder = "train" in there and len(there) > 1 and not own
    if folder and copy is not None:
        options["copy"] = copy
    if not folder and options["source"] in DOWNLOADED:
        options["no_download"] = True  # the folder is somebody's, and is said to hold the images
    if not folder or options["source"] == "image-folder":
        return options
    if options["source"] == "tiny-imagenet":
        options["channels"] = 3  # some of its files are grey
    if (units := of_source(options["source"])) in CONSTANTS:
        options = {"normalise_as": units} | options
    options["source"] = "image-folder"
    dropped = {"test_share", "split_seed", "groups"}  # the folder is already split
    dropped |= {"no_download"}  # and nothing would be downloaded into it
    if "copy" not in options:
        options["label"] += " (image folder)"
        dropped |= {"comparable_to"}
    return {key: value for key, value in options.items() if key not in dropped}


def _check_names(run: Run) -> None:
    """Raise a :class:`DDError` for a table, figure or recipe override that does not exist."""
    known = {kind: stems(run.path(kind)) for kind in ("tables", "figures")}
    for kind, wanted in (("tables", run.tables), ("figures", run.figures)):
        for name in wanted:
            if name not in known[kind]:
                raise unknown(kind[:-1], name, known[kind])
    for name in run.optional:
        if name not in known["tables"] + known["figures"]:
            raise unknown("table or figure", name, known["tables"] + known["figures"])
    labelled: dict[str, str] = {}
    for dataset, options in run.datasets.items():
        _check_images(dataset, options)
        other = labelled.setdefault(options["label"], dataset)
        if other != dataset:
            raise DDError(
                f"dataset {dataset}: label '{options['label']}' is that of {other}, too; tables "
                "and figures tell datasets apart by their labels"
            )
    for key in ("pretrained", "generators"):
        for dataset in getattr(run, key):
            run.check_dataset(f"dataset of {key}", dataset)
    for number, entry in enumerate(run.imported):
        run.check_dataset(f"dataset of imported.{number}", entry["dataset"])
    if run.imported:
        run.is_imported("", "")  # parses the methods
        if not run.sets_root and any(entry["dataset"] in run.datasets for entry in run.imported):
            raise DDError("imported: needs sets_root, the folder in which its files lie")
    for block, overrides in run.recipes.items():
        check_sections(block, overrides)
        for dataset, ipc in itertools.product(run.datasets, run.axes.get("ipc", [1])):
            check_overrides(block, dataset, ipc, merged(overrides, dataset, ipc))


def _check_images(dataset: str, options: Mapping[str, Any]) -> None:
    """Raise a :class:`DDError` if ``options`` of the images of ``dataset`` do not go together."""
    units = options.get("normalise_as")
    if units is not None and (known := constants(units)):
        channels = options.get("channels", len(known.mean))
        if channels != len(known.mean):
            raise DDError(
                f"dataset {dataset}: normalise_as {units} is for {len(known.mean)} channels, "
                f"channels is {channels}"
            )
    if "no_download" in options and options["source"] not in DOWNLOADED:
        raise DDError(
            f"dataset {dataset}: no_download is for {', '.join(DOWNLOADED)}; the source "
            f"{options['source']} downloads nothing, leave it out"
        )
    compared = "comparable_to" in options
    if compared and options["source"] in FOLDERS and "copy" not in options:
        raise DDError(
            f"dataset {dataset}: comparable_to needs copy if the source is a folder: name the copy "
            "of the published images that it holds, such as JPEG"
        )
    if "copy" in options and options["source"] not in FOLDERS:
        raise DDError(
            f"dataset {dataset}: copy is for a folder of images; the source {options['source']} "
            "reads the original files"
        )
    if "copy" in options and not compared:
        raise DDError(
            f"dataset {dataset}: copy needs comparable_to, the published dataset that it copies"
        )


def read_run(path: str | Path) -> Run:
    """The run that a ``config.json`` describes. Its results are expected beside the file.

    Raises:
        DDError: if the file is missing or holds no such configuration.
    """
    content = load_json(path)
    try:
        run = Run(**content["run"])
        run = replace(run, workflow=_workflow_of(run.workflow, Path(path)))
        schema = read_yaml(Path(run.workflow, "schemas", "run.schema.yaml"))
    except (KeyError, TypeError):
        raise DDError(f"{path}: is no configuration of `python -m dd configure`") from None
    check(stated(run), schema, path)  # the file may come from anywhere, and its names become paths
    check_layout(Path(path).parent)
    plugin_files.use(run.plugins)
    folder, whole = Path(path).parent, Path(os.path.abspath(path)).parent
    # the parent of "." is no path's parent
    results = str(folder.parent) if folder.name == whole.name else os.path.relpath(whole.parent)
    return replace(run, name=whole.name, results=results)


def _workflow_of(folder: str, config: Path) -> str:
    """Where the ``folder`` of the workflow is that the run of ``config`` was made with: as it says,
    or else in the first folder above the file that has one, so that any folder may be the current.

    Raises:
        DDError: if it is in none of them.
    """
    if not Path(folder, "schemas").is_dir():
        for above in config.resolve().parents:
            if (above / folder / "schemas").is_dir():
                return str(above / folder)
        raise DDError(
            f"{config}: its workflow '{folder}' is neither here nor above the run's folder; start "
            "in the checkout"
        )
    return folder


def check_run_folder(path: Path) -> None:
    """Raise a :class:`DDError` unless ``path``, which should be the folder of a run, is one."""
    if not path.is_dir():
        meant = f"{path.parent}" if path.is_file() else "such as results/NAME"
        raise DDError(f"{path}: is no folder; give the folder of the run: {meant}")
