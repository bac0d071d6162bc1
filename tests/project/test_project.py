"""What a newcomer meets first: CONTRIBUTING.md leads to files that exist; citation and hooks."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from snakemake_interface_executor_plugins.settings import SharedFSUsage

from dd import __version__
from tests.support.runs import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
DOCS = sorted(path for under in ("", "papers/") for path in (ROOT / "docs").glob(f"{under}*.md"))
FOLDERS = "dd|workflow|docs|tests|benchmarks|[.]ci"


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def citation():
    return yaml.safe_load(read("CITATION.cff"))


def hooks():
    (local,) = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert local["repo"] == "local"
    return {hook["id"]: hook for hook in local["hooks"]}


def test_citation_is_valid():
    check = [sys.executable, "-m", "check_jsonschema", "CITATION.cff"]
    check += ["--builtin-schema", "vendor.citation-file-format"]
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_citation_is_of_this_version_and_the_three_papers():
    assert citation()["version"] == __version__
    assert citation()["license"] == "MIT" and read("LICENSE").startswith("MIT License\n")
    cited = {known["value"] for r in citation()["references"] for known in r["identifiers"]}
    assert cited == {"arXiv:2410.05103", "arXiv:2402.13007", "arXiv:2401.15863"}


def test_changelog_begins_with_this_version():
    versions = re.findall(
        r"^## \[([\d.]+)\] - (?:in progress|\d{4}-\d\d-\d\d)$", read("CHANGELOG.md"), re.M
    )
    assert versions[0] == __version__
    parts = [tuple(map(int, version.split("."))) for version in versions]
    assert parts == sorted(set(parts), reverse=True)


def test_hooks_are_what_ci_runs_with_the_tools_of_the_test_extra():
    project = tomllib.loads(read("pyproject.toml"))["project"]
    tools = {re.match("[a-z0-9-]+", text)[0] for text in project["optional-dependencies"]["test"]}
    run = [line.removeprefix("step ").split()[0] for line in read(".ci/run").splitlines()
           if line.startswith("step ")]  # fmt: skip
    assert set(hooks()) == {"ruff", "ruff-format", "snakefmt", "codespell", "mypy"}
    for hook in hooks().values():
        tool = hook["entry"].split()[0]
        assert hook["language"] == "system" and tool in tools and tool in run


def test_every_rule_that_runs_a_command_has_the_environment():
    """What .snakemake-workflow-catalog.yml promises."""
    usage = yaml.safe_load(read(".snakemake-workflow-catalog.yml"))["usage"]
    assert usage["software-stack-deployment"]["conda"] is True
    for path in (ROOT / "workflow/rules").glob("*.smk"):
        text = path.read_text(encoding="utf-8")
        assert len(re.findall(r"^\s+conda:", text, re.M)) == len(
            re.findall(r"^\s+shell:", text, re.M)
        )


def profile(name):
    return yaml.safe_load(read(f"workflow/profiles/{name}/config.yaml"))


def test_only_rules_that_compute_ask_slurm_for_a_kind_of_gpu():
    """``gpu_model`` of all jobs would make each of them ask for a GPU."""
    local = re.search(r"^localrules:\n((?:    \w+,\n)+)", read("Snakefile"), re.M)[1].split(",\n")
    without = set()
    for path in (ROOT / "workflow/rules").glob("*.smk"):
        for rule in re.split(r"^(?=rule )", path.read_text(encoding="utf-8"), flags=re.M)[1:]:
            if "gpu=" not in rule:
                without.add(rule.partition(":")[0].removeprefix("rule "))
    without -= {name.strip() for name in local}
    assert {"prepare", "import_set", "table"} <= without and "evaluate" not in without
    assert set(profile("slurm")["set-resources"]) == {f'{rule}:gpu_model=""' for rule in without}


def test_no_profile_needs_a_home_folder():
    """All is on a file system that jobs share, but the source cache, which would lie there."""
    shared = [profile(name)["shared-fs-usage"] for name in ("default", "gpu", "slurm")]
    assert shared[0] == shared[1] == shared[2]
    usual = {one.name.lower().replace("_", "-") for one in SharedFSUsage}
    assert usual - {*shared[0]} <= {"source-cache", "software-deployment-cache"}
    assert "source-cache" not in shared[0]


def test_the_walk_leads_to_files_that_exist():
    rows = re.findall(
        r"^\| (.+\?) \| `(.+?/)` \| `(\w+\.py)`: (.+) \|$", read("CONTRIBUTING.md"), re.M
    )
    assert len(rows) == 4
    for question, folder, file, told in rows:
        path = ROOT / folder / file
        assert path.is_file(), question
        if name := re.match(r"`(\w+)(?:\.(\w+))?`", told):
            source = path.read_text(encoding="utf-8")
            assert f"class {name[1]}" in source, question
            assert name[2] is None or f"def {name[2]}(" in source, question


@pytest.mark.parametrize("page", [*PAGES, *DOCS], ids=lambda path: path.name)
def test_links_lead_to_files_that_exist(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES[:2], ids=lambda path: path.name)
def test_paths_exist(page):
    named = re.findall(rf"`((?:{FOLDERS})/[\w./-]*)`", page.read_text(encoding="utf-8"))
    assert named
    assert not [path for path in named if not (ROOT / path).exists()]
