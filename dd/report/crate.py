"""``ro-crate-metadata.json``: the record of a run in a form that programs of other people read.

It is an RO-Crate 1.1 of the profile Process Run Crate 0.5 (https://w3id.org/ro/wfrun/process/0.5):
the files of the run with their checksums, and one ``CreateAction`` for each job whose artifact says
where it comes from: by which code, on what machine, from which files. An action of the whole run
lists what is left: evaluations, tables, figures. The same files give the same bytes: no clock, no
random names, no paths or names of a machine. The workflow itself is not in the crate, so it is no
Workflow Run Crate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from dd.artifacts.fields import TEXT, Field, block, block_of, both, list_of, optional
from dd.artifacts.text import FileSum
from dd.plan.jobs import Evaluation, Import
from dd.plan.plan import ENDINGS, Plan, made_sets

if TYPE_CHECKING:  # late elsewhere: only the record of a run needs it
    from rocrate.model.contextentity import ContextEntity
    from rocrate.rocrate import ROCrate

NAME = "ro-crate-metadata.json"  # the specification wants this name
VERSION = "1.1"  # of RO-Crate, which the profile extends
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
TERMS = "https://w3id.org/ro/terms/workflow-run/context"  # defines sha256; RO-Crate 1.1 does not
LICENSE = "MIT"  # of the project (pyproject.toml), as SPDX writes it
SAFETENSORS = "https://github.com/huggingface/safetensors"
FORMATS: dict[str, Any] = {
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".md": "text/markdown",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".safetensors": ["application/octet-stream", {"@id": SAFETENSORS}],
    ".tex": "text/x-tex",
}
FACTS = ("device", "precision", "threads", "cpu", "gpu", "machine", "python", "wall_seconds")

RECORD: Mapping[str, Field] = {  # what a crate takes from run.json, besides the plug-ins
    "run": TEXT,
    "title": TEXT,
    "code": block({"tables and figures": TEXT}),
    "python": TEXT,
    "libraries": both(block({"snakemake": TEXT}), block_of(TEXT)),
    "ended": optional(TEXT),
}
PLUGINS: Mapping[str, Field] = {"plugins": list_of(TEXT)}  # a run without any does not have them
# By type of an entity, what it says of the files and jobs of a run. The rest is words about them,
# which a later version may choose otherwise.
SAID: Mapping[str, Sequence[str]] = {
    "Dataset": ("hasPart", "mentions", "license", "datePublished"),
    "File": ("sha256", "contentSize", "dateCreated"),
    "CreateAction": ("object", "result", "instrument", "endTime"),
    "SoftwareApplication": ("softwareVersion",),
    "ComputationalWorkflow": ("version",),
}
OLDER = ("endTime",)  # older versions took that of the last artifact for that of the whole run


def describe(
    config: str,
    plan: Plan,
    record: Mapping[str, Any],
    sums: Mapping[str, FileSum],
    origins: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The content of ``ro-crate-metadata.json``.

    Args:
        config: the name of the run's ``config.json``.
        plan: the plan of the run, without its optional tables and figures.
        record: the run's ``run.json``.
        sums: size and checksum of each file, by its name in the run's folder.
        origins: the provenance of those files that carry one, by name.
    """
    from rocrate.rocrate import ROCrate

    crate = ROCrate(version=VERSION)
    crate.metadata.extra_contexts.append(TERMS)
    for name, summed in sums.items():
        facts: dict[str, Any] = {
            "name": name,
            "encodingFormat": FORMATS.get(Path(name).suffix, "application/octet-stream"),
            "contentSize": str(summed.size),
            "sha256": summed.sha256,
        }
        if "created" in origins.get(name, {}):
            facts["dateCreated"] = origins[name]["created"]
        crate.add_file(dest_path=name, properties=facts)
    for (kind, name), exhibit in plan.exhibits.items():
        for ending in ENDINGS[kind]:
            file = crate.get(quote(f"{kind}s/{name}.{ending}"))
            file["name"] = f"{exhibit.definition['title']} ({kind})"
    _about(crate, plan, record)
    actions = [*_jobs(crate, plan, sums, origins)]
    made = {file.id for action in actions for file in _listed(action["result"])}
    left = [name for name in sums if quote(name) not in made]
    crate.root_dataset["mentions"] = [_whole(crate, config, record, left), *actions]
    return crate.metadata.generate()


def difference(document: Any, described: Any) -> str:
    """The first entity in which a crate says something else of the run's files and jobs than it
    should (:data:`SAID`), or which only one of them has; "" if they agree.

    Crates of older versions may say when the whole run ended (:data:`OLDER`).

    Args:
        document: the content of a ``ro-crate-metadata.json``.
        described: what :func:`describe` gives for the same files.
    """
    nothing: tuple[str, Mapping[str, Any]] = ("", {})
    pairs = zip_longest(_said(described), _said(document), fillvalue=nothing)
    for (wanted, facts), (found, more) in pairs:
        same = {n: v for n, v in more.items() if n in facts or n not in OLDER}
        if wanted != found or same != facts:
            return min(filter(None, (wanted, found)))  # both are sorted
    return ""


def _said(document: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """The entities of :data:`SAID` with what they say, by identifier."""
    graph = document.get("@graph") if isinstance(document, dict) else None
    found = [
        (str(entity.get("@id")), {name: entity[name] for name in names if name in entity})
        for entity in (graph if isinstance(graph, list) else [])
        if isinstance(entity, dict)
        for kind, names in SAID.items()
        if kind in _listed(entity.get("@type"))
    ]
    return sorted(found, key=lambda one: one[0])


def _about(crate: ROCrate, plan: Plan, record: Mapping[str, Any]) -> None:
    """What the crate is, when it was made, what may be done with it."""
    kinds = [kind for kind, _ in plan.exhibits]
    root = crate.root_dataset
    del root["datePublished"]  # the library has put the time of this moment there
    if record["ended"] is not None:
        root["datePublished"] = record["ended"]
    root["name"] = record["title"]
    root["description"] = (
        f"Run {record['run']} of a suite that reproduces papers on dataset distillation: "
        f"{kinds.count('table')} tables and {kinds.count('figure')} figures from "
        f"{made_sets(plan)} and {len(plan.of(Evaluation))} evaluations."
    )
    root["conformsTo"] = _entity(
        crate, PROFILE, "CreativeWork", name="Process Run Crate", version=PROFILE.rpartition("/")[2]
    )
    root["license"] = _entity(
        crate,
        f"https://spdx.org/licenses/{LICENSE}",
        "CreativeWork",
        name=f"{LICENSE} License",
        description="The licence of the suite and of what it adds. Images, and what is made of "
        "them, stay under the terms of the datasets that they come from"
        + (", imported synthetic sets under those of their makers." if plan.of(Import) else "."),
    )
    _entity(crate, SAFETENSORS, "WebSite", name="safetensors: tensors with a JSON header")


def _whole(
    crate: ROCrate, config: str, record: Mapping[str, Any], made: Sequence[str]
) -> ContextEntity:
    """The action of the whole run, with the files that no other action has ``made``."""
    from rocrate.model.computerlanguage import get_lang

    libraries = [("python", record["python"]), *record["libraries"].items()]
    libraries += map(_plugin, record.get("plugins", []))
    language = crate.add(get_lang(crate, "snakemake", record["libraries"]["snakemake"]))
    workflow = _entity(
        crate,
        "#workflow",
        ["SoftwareSourceCode", "ComputationalWorkflow"],
        name="Snakefile",
        description="The workflow of the suite: one rule for each stage. It is not in this crate.",
        version=record["code"]["tables and figures"],
        programmingLanguage=language,
        softwareRequirements=[_software(crate, *library) for library in libraries],
    )
    return _entity(
        crate,
        "#run",
        "CreateAction",
        name=f"run {record['run']}",
        # without times: nobody records when a run begins, nor when its last figure is there
        description="Evaluations, tables and figures of the artifacts that the other actions made.",
        instrument=workflow,
        object=[crate.get(quote(config))],
        result=[crate.get(quote(name)) for name in made if name != config],
    )


def _jobs(
    crate: ROCrate,
    plan: Plan,
    sums: Mapping[str, FileSum],
    origins: Mapping[str, Mapping[str, Any]],
) -> Iterator[ContextEntity]:
    """An action for each job whose artifact carries its provenance."""
    run = plan.run

    def entities(paths: Iterable[str]) -> list[Any]:
        names = (path.removeprefix(f"{run.root}/") for path in paths)
        return [crate.get(quote(name)) for name in names if name in sums]

    for job in plan.jobs:
        name = job.file(run).removeprefix(f"{run.root}/")
        origin = origins.get(name, {})
        if not {"code", "torch", "created"} <= origin.keys():
            continue
        yield _entity(
            crate,
            _local(f"{job.stage}/{job}"),
            "CreateAction",
            name=f"{job.stage} {job}",
            description=job.summary,
            endTime=origin["created"],
            instrument=[_software(crate, *program) for program in sorted({*_programs(origin)})],
            object=entities(path for paths in job.inputs(run).values() for path in paths),
            result=entities(job.files(run)),
            additionalProperty=[*_facts(crate, origin)],
        )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _programs(origin: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and version of the code, torch and plug-ins that made an artifact, or began it."""
    for maker in (origin, *origin.get("continued_from", [])):
        for name, key in (("dd", "code"), ("torch", "torch")):
            if key in maker:
                yield name, maker[key]
        used = maker.get("plugins", [])
        yield from map(_plugin, used.split(", ") if isinstance(used, str) else used)


def _plugin(text: str) -> tuple[str, str]:
    """Name and version of a plug-in from the text of a record."""
    name, _, version = text.rpartition(" ")
    return name, version


def _facts(crate: ROCrate, origin: Mapping[str, Any]) -> Iterator[ContextEntity]:
    """What a provenance says of machine and effort."""
    memory = {
        f"peak_memory_mb.{kind}": value for kind, value in origin.get("peak_memory_mb", {}).items()
    }
    for name, value in {**{key: origin.get(key) for key in FACTS}, **memory}.items():
        if isinstance(value, str | int | float):
            yield _entity(crate, _local(f"{name}={value}"), "PropertyValue", name=name, value=value)


def _software(crate: ROCrate, name: str, version: str) -> ContextEntity:
    """A program or library of one version."""
    known = "dataset-distillation-suite" if name == "dd" else name
    return _entity(
        crate,
        _local(f"{name} {version}"),
        "SoftwareApplication",
        name=known,
        softwareVersion=version,
    )


def _local(text: str) -> str:
    """The identifier of an entity that is no file. Headers may hold half characters."""
    return f"#{quote(text, errors='backslashreplace')}"


def _entity(crate: ROCrate, identifier: str, kind: str | list[str], **facts: Any) -> ContextEntity:
    """Put a contextual entity with those ``facts`` that are not empty into the crate, or return the
    one that is there."""
    from rocrate.model.contextentity import ContextEntity

    if there := crate.get(identifier):
        return there
    # the specification wants one value without brackets
    single = {
        n: v[0] if isinstance(v, list) and len(v) == 1 else v
        for n, v in facts.items()
        if v not in (None, "", [])
    }
    return crate.add(ContextEntity(crate, identifier, {"@type": kind, **single}))
