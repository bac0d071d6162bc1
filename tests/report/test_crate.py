"""ro-crate-metadata.json: valid for programs of others, files, checksums, which job made which file
of what, the same bytes for the same files, nothing about the machine but its kind."""

import copy
import getpass
import hashlib
import json
import platform
import shutil
import time
import tomllib
import warnings
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import pytest

from dd.artifacts.text import FileSum, load_json, save_json
from dd.command import main
from dd.config.run import load_run
from dd.plan.plan import Plan
from dd.report import crate
from tests.support.runs import ROOT, jobs

SCHEMA = "http://schema.org/"
# The terms that a crate may use, and what they stand for in the published contexts of RO-Crate 1.1
# and of workflow runs: a term that these do not define would be no property at all.
CONTEXTS = {
    "https://w3id.org/ro/crate/1.1/context": {
        **{
            term: SCHEMA + term
            for term in (
                "CreateAction", "CreativeWork", "Dataset", "PropertyValue", "ComputerLanguage",
                "SoftwareApplication", "SoftwareSourceCode", "WebSite", "about",
                "additionalProperty", "contentSize", "dateCreated", "datePublished", "description",
                "encodingFormat", "endTime", "hasPart", "identifier", "instrument", "license",
                "mentions", "name", "object", "programmingLanguage", "result",
                "softwareRequirements", "softwareVersion", "startTime", "url", "value", "version",
            )
        },
        "File": f"{SCHEMA}MediaObject",
        "ComputationalWorkflow": "https://bioschemas.org/ComputationalWorkflow",
        "conformsTo": "http://purl.org/dc/terms/conformsTo",
    },
    crate.TERMS: {"sha256": "https://w3id.org/ro/terms/workflow-run#sha256"},
}  # fmt: skip
ORIGIN = {
    "code": "0.3.0+gabc", "torch": "2.14.1", "created": "2026-11-25T10:00:00+00:00",
    "cpu": "AMD EPYC", "device": "cpu", "precision": "float32", "threads": 2, "wall_seconds": 0.0,
    "peak_memory_mb": {"host": 512.0}, "command": "python -m dd distill --out /home/me/x",
}  # fmt: skip
RECORD = {
    "run": "smoke", "title": "A title", "code": {"tables and figures": "0.3.0+gdef"},
    "python": "3.11.7", "libraries": {"torch": "2.14.1+cpu", "snakemake": "9.27.1"},
    "started": "2026-11-25T10:00:00+00:00", "ended": "2026-11-25T11:00:00+00:00",
}  # fmt: skip


@cache
def planned(name, **overrides):
    return Plan(load_run(name, overrides)).main


def made(name="smoke", origins=None, record=RECORD, **overrides):
    """The crate of a run whose files need not exist, and its plan; every file holds its name."""
    plan = planned(name, **overrides)
    names = [path.removeprefix(f"{plan.run.root}/") for path in plan.files()]
    sums = {
        name: FileSum(len(name), hashlib.sha256(name.encode()).hexdigest())
        for name in ("config.json", "run.json", *names)
    }
    if origins is None:
        origins = {name: ORIGIN for name in names if name.endswith(".safetensors")}
    return crate.describe("config.json", plan, record, sums, origins), plan


def by_id(document):
    entities = {entity["@id"]: entity for entity in document["@graph"]}
    assert len(entities) == len(document["@graph"])
    return entities


def ids(value):
    """The identifiers that a property names."""
    return [one["@id"] for one in (value if isinstance(value, list) else [value])]


def test_every_file_with_its_whole_checksum():
    document, plan = made()
    entities = by_id(document)
    files = {key: e for key, e in entities.items() if e["@type"] == "File"}
    assert ids(entities["./"]["hasPart"]) == list(files)
    assert len(files) == len(plan.files()) + 2
    assert {unquote(key) for key in files} == {
        "config.json", "run.json", *(p.removeprefix("results/smoke/") for p in plan.files())
    }  # fmt: skip
    file = files["distilled/digits/dm%2Bmetadd/ipc1/seed0/it60.safetensors"]
    name = "distilled/digits/dm+metadd/ipc1/seed0/it60.safetensors"
    assert file["sha256"] == hashlib.sha256(name.encode()).hexdigest()
    assert file["contentSize"] == str(len(name)) and file["dateCreated"] == ORIGIN["created"]
    assert file["encodingFormat"] == ["application/octet-stream", {"@id": crate.SAFETENSORS}]
    assert files["tables/modelpool_ablation.csv"]["encodingFormat"] == "text/csv"
    title = plan.exhibits["table", "modelpool_ablation"].definition["title"]
    assert files["tables/modelpool_ablation.tex"]["name"] == f"{title} (table)"
    assert all("encodingFormat" in file for file in files.values())


def test_a_job_says_what_it_made_of_what_with_what():
    entities = by_id(made()[0])
    action = entities["#distill/digits/dm%2Bmetadd/ipc1/seed0"]
    folder = "distilled/digits/dm%2Bmetadd/ipc1/seed0"
    assert ids(action["result"])[-1] == f"{folder}/metrics.jsonl"
    assert {f"{folder}/it0.safetensors", f"{folder}/it60.safetensors"} < {*ids(action["result"])}
    read = ids(action["object"])
    assert "data/digits.safetensors" in read
    assert "pretrained/digits/none/resnet18_bn.safetensors" in read
    programs = [entities[key] for key in ids(action["instrument"])]
    assert [(p["name"], p["softwareVersion"]) for p in programs] == [
        ("dataset-distillation-suite", "0.3.0+gabc"), ("torch", "2.14.1")
    ]  # fmt: skip
    facts = [entities[key] for key in ids(action["additionalProperty"])]
    assert {fact["name"]: fact["value"] for fact in facts} == {
        "device": "cpu", "precision": "float32", "threads": 2, "cpu": "AMD EPYC",
        "wall_seconds": 0.0, "peak_memory_mb.host": 512.0,
    }  # fmt: skip
    assert action["endTime"] == ORIGIN["created"] and "startTime" not in action


def test_code_that_began_a_job_and_plugins_are_named_too():
    began = {"code": "0.2.0", "torch": "2.11.0", "plugins": "other-plugin 2.0, third 3"}
    more = {"continued_from": [began, {"code": "0.1.0"}], "plugins": ["my-plugin 1.0"]}
    record = RECORD | {"plugins": ["my-plugin 1.0"]}
    document, _ = made(origins={"data/digits.safetensors": ORIGIN | more}, record=record)
    entities = by_id(document)
    programs = [entities[key] for key in ids(entities["#prepare/digits"]["instrument"])]
    suite = "dataset-distillation-suite"
    assert sorted((one["name"], one["softwareVersion"]) for one in programs) == [
        (suite, "0.1.0"), (suite, "0.2.0"), (suite, "0.3.0+gabc"), ("my-plugin", "1.0"),
        ("other-plugin", "2.0"), ("third", "3"), ("torch", "2.11.0"), ("torch", "2.14.1"),
    ]  # fmt: skip
    libraries = [entities[key] for key in ids(entities["#workflow"]["softwareRequirements"])]
    assert ("my-plugin", "1.0") in [(one["name"], one["softwareVersion"]) for one in libraries]
    jobs = [key for key, entity in entities.items() if entity["@type"] == "CreateAction"]
    assert jobs == ["#prepare/digits", "#run"]  # the other artifacts say nothing of their making


def test_every_file_is_the_result_of_one_action():
    document, _ = made()
    entities = by_id(document)
    actions = [e for e in entities.values() if e["@type"] == "CreateAction"]
    results = [key for action in actions for key in ids(action["result"])]
    files = {key for key, entity in entities.items() if entity["@type"] == "File"}
    assert len(results) == len(set(results)) and set(results) == files - {"config.json"}
    assert {*ids(entities["./"]["mentions"])} == {action["@id"] for action in actions}
    run = entities["#run"]
    assert ids(run["object"]) == ["config.json"]
    # nobody records its times: run.json has those of the first and the last artifact
    assert not {"startTime", "endTime"} & run.keys()
    workflow = entities[run["instrument"]["@id"]]
    assert "ComputationalWorkflow" in workflow["@type"] and workflow["version"] == "0.3.0+gdef"
    language = entities[workflow["programmingLanguage"]["@id"]]
    assert (language["name"], language["version"]) == ("Snakemake", "9.27.1")
    libraries = {entities[key]["name"] for key in ids(workflow["softwareRequirements"])}
    assert libraries == {"python", "torch", "snakemake"}


def test_every_reference_leads_somewhere_and_every_term_is_known():
    document, _ = made()
    entities = by_id(document)
    known = {term for terms in CONTEXTS.values() for term in terms}
    assert document["@context"] == [*CONTEXTS]
    for entity in document["@graph"]:
        kinds = entity["@type"] if isinstance(entity["@type"], list) else [entity["@type"]]
        assert {*kinds, *entity} - {"@id", "@type"} <= known
        for value in entity.values():
            for one in value if isinstance(value, list) else [value]:
                if isinstance(one, dict):
                    assert one["@id"] in entities or one["@id"].startswith("https://")


def test_the_same_content_gives_the_same_bytes(tmp_path):
    first, second = (json.dumps(made()[0]) for _ in range(2))
    assert first == second
    assert by_id(made()[0])["./"]["datePublished"] == RECORD["ended"]
    without = by_id(made(record=RECORD | {"started": None, "ended": None}, origins={})[0])
    assert "datePublished" not in without["./"]
    # where the run lies, who made it and on which machine is not in it
    elsewhere = json.dumps(made(results=str(tmp_path))[0])
    assert elsewhere == first
    for private in (str(tmp_path), "/home", platform.node(), f'"{getpass.getuser()}"'):
        assert private not in elsewhere


def test_values_from_elsewhere_are_text():
    """A header may hold half characters, which no identifier can."""
    origins = {"data/digits.safetensors": ORIGIN | {"cpu": "\udc80 #\n"}}
    document, _ = made(origins=origins)
    (fact,) = [e for e in document["@graph"] if e.get("name") == "cpu"]
    assert fact["value"] == "\udc80 #\n" and fact["@id"].isascii() and "\n" not in fact["@id"]


def test_the_licence_is_that_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    entities = by_id(made()[0])
    assert entities["./"]["license"]["@id"] == f"https://spdx.org/licenses/{project['license']}"


CHANGES = {
    "size": ("File", {"contentSize": "1"}),
    "last digits": ("File", {"sha256": hashlib.sha256(b"config.json").hexdigest()[:16] + 48 * "0"}),
    "date": ("File", {"dateCreated": "1999-01-01"}),
    "kind": ("File", {"@type": "Dataset"}),
    "result": ("CreateAction", {"result": {"@id": "config.json"}}),
    "object": ("CreateAction", {"object": []}),
    "end": ("CreateAction", {"endTime": "1999-01-01"}),
    "version": ("SoftwareApplication", {"softwareVersion": "9.9"}),
    "licence": ("Dataset", {"license": "x"}),
    "parts": ("Dataset", {"hasPart": []}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_crate_that_says_something_else_of_files_or_jobs_differs(change):
    described, document = made()[0], copy.deepcopy(made()[0])
    assert crate.difference(document, described) == ""
    kind, change = CHANGES[change]
    entity = next(e for e in document["@graph"] if e["@type"] == kind)
    entity.update(change)
    assert crate.difference(document, described) == entity["@id"]


def test_a_crate_lists_the_files_and_no_others():
    described, document = made()[0], copy.deepcopy(made()[0])
    graph = document["@graph"]
    extra = {"@id": "secret.bin", "@type": ["Thing", "File"], "sha256": "0" * 64}
    graph.append(extra)
    assert crate.difference(document, described) == "secret.bin"
    extra |= by_id(described)["config.json"]  # of one file, two things are said
    extra["sha256"] = "0" * 64
    assert crate.difference(document, described)
    graph.remove(extra)
    graph.remove(by_id(document)["tables/modelpool_ablation.csv"])
    assert crate.difference(document, described) == "tables/modelpool_ablation.csv"


def test_a_crate_of_an_older_version_has_times_of_the_whole_run():
    """Other words are no difference either."""
    described, document = made()[0], copy.deepcopy(made()[0])
    by_id(document)["#run"].update(startTime="2026", endTime="2026", description="other words")
    document["@graph"].append({"@id": "#more", "@type": "PropertyValue", "value": 1})
    assert crate.difference(document, described) == ""


@pytest.mark.slow
def test_thousands_of_files_take_seconds():
    plan = planned("paper")
    assert len(plan.files()) > 1000
    begun = time.process_time()
    assert len(by_id(made("paper")[0])) > len(plan.files())
    assert time.process_time() - begun < 20


@pytest.fixture
def finished(finished_run, tmp_path, monkeypatch) -> Path:
    """The folder of a copy of a finished run, from beside its workflow."""
    folder = shutil.copytree(finished_run, tmp_path / "finished", symlinks=True)
    monkeypatch.chdir(folder)
    return Path("results/tiny")


@pytest.mark.slow
def test_the_library_reads_it(finished):
    from rocrate.rocrate import ROCrate

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = ROCrate(finished)
    assert read.name == load_json(finished / "run.json")["title"]
    assert read.root_dataset["conformsTo"].id == crate.PROFILE
    digests = load_json(finished / "run.json")["files"]
    assert len(read.data_entities) == len(digests) + 2
    for entity in read.data_entities:
        content = Path(entity.source).read_bytes()
        assert entity["sha256"] == hashlib.sha256(content).hexdigest()
        assert entity["contentSize"] == str(len(content))
    assert read.get("#distill/digits/dc/ipc1/seed0")["object"].id == "data/digits.safetensors"


@pytest.mark.slow
def test_it_is_made_again_byte_by_byte(finished):
    before, recorded = (finished / crate.NAME).read_bytes(), load_json(finished / "run.json")
    words = ["record", "--config", str(finished / "config.json")]
    assert main([*words, "--out", str(finished / "run.json")]) == 0
    assert load_json(finished / "run.json") == recorded
    assert (finished / crate.NAME).read_bytes() == before
    assert str(finished.absolute()).encode() not in before


@pytest.mark.slow
def test_the_validator_finds_it_valid(finished, tmp_path, monkeypatch):
    """All that RO-Crate 1.1 and the profile require. Its contexts are on the net: a small part of
    them, the terms that crates use, stands in."""
    pytest.importorskip("rocrate_validator", reason="pip install roc-validator")
    from rocrate_validator.models import Severity, ValidationSettings
    from rocrate_validator.services import validate
    from rocrate_validator.utils.http import HttpRequester

    def answer(self, url, **more):
        content = {"@context": CONTEXTS[url]}
        headers = {"Content-Type": "application/ld+json"}
        return SimpleNamespace(status_code=200, headers=headers, json=lambda: content)

    monkeypatch.setattr(HttpRequester, "get", answer, raising=False)

    def faults(identifier="process-run-crate"):
        settings = ValidationSettings(
            rocrate_uri=str(finished),
            profile_identifier=identifier,
            requirement_severity=Severity.REQUIRED,
            offline=True,
            cache_path=tmp_path / "cache",
        )
        return [issue.message for issue in validate(settings).get_issues()]

    assert faults("ro-crate-1.1") == [] and faults() == []

    path = finished / crate.NAME
    document = load_json(path)
    del by_id(document)["#run"]["instrument"], by_id(document)["./"]["license"]
    save_json(path, document)
    found = " ".join(faults())
    assert "`license`" in found and "instrument" in found


@pytest.mark.slow
def test_verify_compares_it_with_the_record(finished, capsys):
    def verify():
        status = main(["verify", str(finished)])
        return status, capsys.readouterr().err

    path = finished / crate.NAME
    text = path.read_text(encoding="utf-8")
    assert verify() == (0, "")
    document = json.loads(text)
    file = by_id(document)["tables/modelpool_ablation.csv"]
    file["sha256"] = "0" * 64
    save_json(path, document)
    status, said = verify()
    assert status == 2 and said.count("\n") == 1
    assert f"{crate.NAME} does not belong to run.json" in said
    assert "'tables/modelpool_ablation.csv'" in said
    for broken in ("[]", '{"@graph": [1, {"@id": 2, "@type": [[], "File"], "sha256": []}]}'):
        path.write_text(broken)
        status, said = verify()
        assert status == 2 and f"{crate.NAME} does not belong to run.json" in said
    path.write_text("{")
    status, said = verify()
    assert status == 2 and said.count("\n") == 1 and "not JSON" in said
    path.unlink()  # a run that was recorded before there were crates
    assert verify() == (0, "")
    path.symlink_to(finished.absolute().parents[1] / "tiny.yaml")
    status, said = verify()
    assert status == 2 and "must not lead out" in said


@pytest.mark.slow
def test_a_run_recorded_before_is_recorded_again_and_nothing_else(finished):
    words = ("--config", "run=tiny.yaml")
    assert jobs(Path(), *words) == {}
    (finished / crate.NAME).unlink()
    assert jobs(Path(), *words) == {"all": 1, "record": 1, "index": 1}
