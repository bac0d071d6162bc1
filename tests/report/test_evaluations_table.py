"""The table of every network: a row for each, none twice, none left out; counts by hand."""

from pathlib import Path

import pytest

from dd.artifacts.text import load_rows, save_rows
from dd.command import main
from dd.config.run import load_run
from dd.plan.exhibits import load_exhibit
from dd.plan.jobs import Evaluation
from dd.plan.kinds import inputs, kind_of
from dd.report import fallbacks
from tests.support.tables import TABLES, fill, render

KEYS = ("method", "ipc", "iterations", "set", "protocol", "arch", "network")


@pytest.fixture
def plan(tmp_path):
    """Two sets of each method; network n of set s has 10 s + n percent; MLP 1 diverged."""
    made = fill(
        "cifar10-cpu", tmp_path, lambda job, arch, n: 10.0 * job.distillation.seed + n, seeds=[0, 3]
    )
    for job in made.of(Evaluation):
        rows = load_rows(path := job.file(made.run))
        for row in rows:
            number = int(row["network"])
            row["diverged"] = str(int(row["arch"] == "mlp" and number == 1))
            row["seconds"] = f"{1.25 + 2 * number}"
        save_rows(path, rows)
    return made


def test_every_network_has_a_row(plan):
    rows = render(plan, "evaluations")
    expected = {
        tuple(map(str, (*place, job.protocol, arch, number)))
        for job in plan.main.of(Evaluation)
        for made in [job.distillation]
        for place in [(made.method, made.ipc, job.iterations, made.seed)]
        for arch in job.archs
        for number in range(job.count(plan.run, arch))
    }
    found = [tuple(row[key] for key in KEYS) for row in rows]
    assert len(found) == len(set(found)) and set(found) == expected
    label = plan.run.datasets["cifar10"]["label"]
    for row in rows:
        assert row["dataset"] == label
        assert float(row["accuracy"]) == 10 * int(row["set"]) + int(row["network"])
        assert row["device"] == ""  # nothing says it here


def test_the_sheet_counts_them(plan):
    rows = render(plan, "evaluations")
    text = Path(plan.run.root, "tables/evaluations.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if "MLP" in line and "| hard" in line]
    (line,) = lines
    networks = [row for row in rows if row["arch"] == "mlp" and row["protocol"] == "hard"]
    sets = {tuple(row[key] for key in KEYS[:4]) for row in networks}
    each = len(networks) // len(sets)
    assert len(sets) * each == len(networks) and each == plan.run.networks
    median = 1.25 + (each - 1)
    counted = [str(len(sets)), str(len(networks)), str(len(sets)), f"{median:.1f}"]
    assert [part.strip() for part in line.strip("|").split("|")][-4:] == counted


def test_it_says_what_ran_with_the_settings_of_others():
    run = load_run("iadd-digits")
    exhibit = load_exhibit("table", str(TABLES / "evaluations.yaml"), run)
    assert fallbacks.of_exhibit(exhibit) == fallbacks.of_run(run) != []


def test_it_asks_for_no_job_of_its_own(plan):
    """It shows what the run evaluates, and waits for all of it."""
    exhibit = load_exhibit("table", str(TABLES / "evaluations.yaml"), plan.run)
    assert kind_of(exhibit).jobs(exhibit) == []
    files = inputs(exhibit, plan.main.jobs)
    assert {job.file(plan.run) for job in plan.main.of(Evaluation)} <= set(files)


@pytest.mark.parametrize(
    ("column", "word", "said"),
    [
        ("accuracy", "150", "accuracy '150' is no percentage"),
        ("accuracy", None, "has no column 'accuracy'"),
        ("seconds", "-1", "seconds is '-1'"),
        ("seconds", "soon", "seconds is 'soon'"),
    ],
)
def test_wrong_rows_are_one_line(plan, capsys, column, word, said):
    job = plan.main.of(Evaluation)[0]
    rows = load_rows(path := job.file(plan.run))
    save_rows(path, [row | {column: word} if word else without(row, column) for row in rows])
    out = f"{plan.run.root}/tables/evaluations.csv"
    words = ["--table", str(TABLES / "evaluations.yaml"), "--out", out]
    assert main(["table", "--config", f"{plan.run.root}/config.json", *words]) == 2
    told = capsys.readouterr().err.strip()
    assert told.count("\n") == 0 and path in told and said in told


def without(row, column):
    return {key: value for key, value in row.items() if key != column}
