"""What the commands of a finished run refuse in one line, and leave as it is."""

from pathlib import Path

import pytest

from dd.command import main
from dd.plan.jobs import Evaluation
from tests.support.runs import ROOT
from tests.support.tables import fill


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    return fill("smoke", tmp_path_factory.mktemp("results"), lambda job, arch, n: 50.0 + n)


@pytest.fixture
def run(plan):
    return Path(plan.run.root)


def refused(capsys, *words):
    assert main([*map(str, words)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize("kind", ["table", "figure"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("claims", "did you mean workflow/config/{kind}s/claims.yaml? it must be a YAML file"),
        ("x", "is no file; it must be a YAML file, as in workflow/config/{kind}s"),
    ],
)
def test_a_table_or_figure_is_named_by_its_file(run, tmp_path, capsys, kind, given, message):
    out = tmp_path / ("x.csv" if kind == "table" else "x.png")
    words = ["--config", run / "config.json", f"--{kind}", given, "--out", out]
    said = refused(capsys, kind, *words)
    assert f"--{kind}: {given} is no file" in said and message.format(kind=kind) in said


def test_a_table_is_not_written_over_what_it_is_made_from(plan, run, capsys):
    path = Path(plan.of(Evaluation)[0].file(plan.run))
    before = path.read_bytes()
    words = ["--config", run / "config.json", "--out", path]
    table = ROOT / "workflow/config/tables/evaluations.yaml"
    said = refused(capsys, "table", *words, "--table", table)
    assert f"--out: {path} is read by this command" in said and path.read_bytes() == before


def test_a_table_is_not_written_over_another_file_of_the_run(plan, run, capsys):
    """A set that it does not read, and the CSV of another table; its own is made anew."""
    tables = ROOT / "workflow/config/tables"
    words = [
        "table",
        "--config",
        run / "config.json",
        "--table",
        tables / "iadd_hyperparameters.yaml",
    ]
    (run / "tables").mkdir()
    for path in (Path(plan.of(Evaluation)[0].file(plan.run)), run / "tables/cost.csv"):
        path.touch()
        before = path.read_bytes()
        said = refused(capsys, *words, "--out", path)
        assert f"--out: {path} is another file of the run; choose another file" in said
        assert path.read_bytes() == before
    for _ in range(2):
        assert main([*map(str, words), "--out", str(run / "tables/iadd_hyperparameters.csv")]) == 0


def test_what_is_written_beside_a_table_is_no_input_either(run, tmp_path, capsys):
    """A Markdown file that leads to the definition."""
    table = ROOT / "workflow/config/tables/modelpool_taxonomy.yaml"
    (tmp_path / "x.md").symlink_to(table)
    words = ["--config", run / "config.json", "--out", tmp_path / "x.csv"]
    said = refused(capsys, "table", *words, "--table", table)
    assert f"{tmp_path / 'x.md'} is read by this command" in said


@pytest.mark.parametrize("name", ["ro-crate-metadata.json", "config.json"])
def test_a_record_is_not_written_over_another_file(run, capsys, name):
    before = (run / "config.json").read_bytes()
    said = refused(capsys, "record", "--config", run / "config.json", "--out", run / name)
    assert f"--out: {run / name} is " in said and "choose another" in said
    assert (run / "config.json").read_bytes() == before


def test_a_crate_is_not_written_over_the_configuration(run, tmp_path, capsys):
    config = tmp_path / "ro-crate-metadata.json"
    config.write_bytes((run / "config.json").read_bytes())
    said = refused(capsys, "record", "--config", config, "--out", tmp_path / "run.json")
    assert f"{config} is read by this command" in said


@pytest.mark.parametrize("command", ["verify", "evidence"])
def test_a_run_is_named_by_its_folder(run, tmp_path, capsys, command):
    more = ["--out", tmp_path / "x.md"] if command == "evidence" else []
    said = refused(capsys, command, run / "config.json", *more)
    assert f"config.json: is no folder; give the folder of the run: {run}\n" in said
    said = refused(capsys, command, run / "nothing", *more)
    assert "nothing: is no folder; give the folder of the run: such as results/NAME\n" in said


def test_a_run_away_from_its_workflow_asks_for_the_checkout(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, "verify", run)
    assert "config.json: its workflow 'workflow' is neither here" in said
    assert "start in the checkout" in said
