"""Tables rendered from made-up accuracies."""

import csv
from pathlib import Path
from typing import Any

from dd.artifacts.text import file_digest, save_json, save_rows
from dd.command import main
from dd.plan.jobs import Evaluation
from dd.plan.plan import Plan
from tests.support.runs import every_ipc

TABLES = Path("workflow/config/tables")


def fill(run_name: str, results: Path, accuracy, **overrides) -> Plan:
    """A run's config.json and evaluation files; ``accuracy(job, arch, network)`` in percent."""
    return fill_plan(Plan(every_ipc(run_name, {"results": str(results), **overrides})), accuracy)


def fill_plan(plan: Plan, accuracy) -> Plan:
    """The same for the jobs of a plan."""
    save_json(f"{plan.run.root}/config.json", plan.document())
    for job in plan.of(Evaluation):
        archs = job.archs
        rows = [
            {"arch": arch, "network": n, "accuracy": accuracy(job, arch, n)}
            for arch in archs
            for n in range(job.count(plan.run, arch))
        ]
        save_rows(job.file(plan.run), rows)
    return plan


def claimed(folder: Path) -> Path:
    """A folder with the claims of a run, and with its record."""
    plan = fill("cifar10-cpu", folder / "results", lambda job, arch, n: 50.0 + n)
    words = ["table", "--table", str(TABLES / "claims.yaml")]
    words += ["--config", f"{plan.run.root}/config.json"]
    made = folder / "claimed"
    assert main([*words, "--out", str(made / "claims.csv")]) == 0
    save_json(made / "run.json", record_of_claims(made / "claims.csv"))
    return made


def record_of_claims(path: Path, **more) -> dict[str, Any]:
    """What ``run.json`` has beside a table of claims."""
    files = {"tables/claims.csv": file_digest(path)}
    return {"run": "a", "title": "b", "configuration": {}, "files": files, **more}


def render(plan: Plan, name: str) -> list[dict[str, str]]:
    """The rows of the CSV of a table."""
    out = f"{plan.run.root}/tables/{name}.csv"
    config = f"{plan.run.root}/config.json"
    table = str(TABLES / f"{name}.yaml")
    assert main(["table", "--config", config, "--table", table, "--out", out]) == 0
    with open(out, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def cell(rows, **place):
    """The one row at ``place``."""
    (row,) = [r for r in rows if all(r[axis] == str(value) for axis, value in place.items())]
    return row
