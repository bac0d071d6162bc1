"""The command line: help that explains, one command a stage from anywhere, progress in a log."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import shlex
import subprocess
import sys

import pytest

from dd import __version__
from dd.artifacts.headers import read_header
from dd.artifacts.text import load_rows
from dd.command import STAGES, Parser, main
from dd.runtime import progress
from dd.runtime.progress import Progress


def parser_of(stage):
    """The stage's parser, as ``main`` makes it."""
    parser = Parser(prog=f"python -m dd {stage}")
    importlib.import_module(STAGES[stage][0]).add_arguments(parser)
    return parser


def options_of(stage):
    """Every option and argument of a stage but -h."""
    actions = parser_of(stage)._actions
    return [action for action in actions if not isinstance(action, argparse._HelpAction)]


def help_of(stage, capsys):
    with pytest.raises(SystemExit) as leaving:
        main([stage, "--help"])
    assert leaving.value.code == 0
    return capsys.readouterr().out


def spaced(text):
    """Text with its line breaks undone, words broken at hyphens joined again."""
    return " ".join(re.sub(r"-\n\s+", "-", text).split())


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_overview(argv, capsys):
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: python -m dd STAGE")
    for stage, (_, text) in STAGES.items():
        assert re.search(rf"^  {stage} +{re.escape(text)}$", out, flags=re.MULTILINE)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize("stage", STAGES)
def test_help_explains_every_option(stage, capsys):
    text = spaced(help_of(stage, capsys))
    assert text.startswith(f"usage: python -m dd {stage}")
    for action in options_of(stage):
        name = action.option_strings[0] if action.option_strings else action.metavar
        assert action.help and len(action.help) > 3, name
        shown = spaced(action.help % {"default": action.default})
        assert shown in text, name


@pytest.mark.parametrize("stage", STAGES)
def test_help_tells_every_default(stage, capsys):
    """Shown, or said by the option or the heading that it stands under; never 'None'."""
    text = help_of(stage, capsys)
    assert "None" not in text and "SUPPRESS" not in text
    parser = parser_of(stage)
    for group in parser._action_groups:
        for action in group._group_actions:
            if isinstance(action, argparse._HelpAction) or action.required:
                continue
            helped = parser.formatter_class("")._get_help_string(action)
            assert "default" in helped or "(default:" in group.title, action.option_strings


@pytest.mark.parametrize("stage", STAGES)
def test_required_options_show_no_default(stage, capsys):
    for action in options_of(stage):
        if action.required:
            assert action.default is None
            assert "default" not in parser_of(stage).formatter_class("")._get_help_string(action)


def test_defaults_that_are_shown(capsys):
    text = spaced(help_of("evaluate", capsys))
    assert "networks per architecture (default: 5)" in text
    assert "[kd, default 3.0]" in text


def test_a_shared_setting_says_what_it_means_to_whom(capsys):
    text = spaced(help_of("distill", capsys))
    wanted = (
        "matched network [dc, dsa]; learning rate of the online networks (Adam) [frepo]; learning "
        "rate of the feature network [herding, kcenter]"
    )
    assert wanted in text


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A folder outside the repository, with a space, where three stages ran as processes."""
    folder = tmp_path_factory.mktemp("else where")
    runs = {}
    for name, command in {
        "prepare": "prepare --source digits --out 'my digits.safetensors'",
        "distill": "distill --data 'my digits.safetensors' --objective dm --ipc 1 --network mlp "
        "--snapshots 3 --out made --threads 1 --device cpu",
        "evaluate": "evaluate --synthetic made/it3.safetensors --data 'my digits.safetensors' "
        "--arch mlp --networks 2 --epochs 2 --out out.csv --threads 1 --device cpu",
    }.items():
        argv = shlex.split(command)
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        runs[name] = subprocess.run(
            [sys.executable, "-m", "dd", *argv],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        runs[name].argv = argv
    return folder, runs


@pytest.mark.slow
def test_every_stage_runs_anywhere(elsewhere):
    """No stage needs the repository as working directory."""
    folder, runs = elsewhere
    for run in runs.values():
        assert run.returncode == 0, run.stderr
    assert len(load_rows(folder / "out.csv")) == 2
    made = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert made == {
        "my digits.safetensors",
        "made/it3.safetensors",
        "made/metrics.jsonl",
        "out.csv",
    }


@pytest.mark.slow
def test_each_stage_says_what_it_made(elsewhere):
    _, runs = elsewhere
    assert runs["prepare"].stdout.startswith("my digits.safetensors: digits (scikit-learn, 8x8)")
    assert runs["distill"].stdout == (
        "distill: dm has no settings of its own for digits; unless an option sets them, it "
        "takes those for CIFAR-10 up to IPC 50\n"
        "distill: it3 of dm in made\n"
    )
    assert re.fullmatch(
        r"evaluate: mlp \d+\.\d\d ± \d+\.\d\d % on digits \(scikit-learn, 8x8\) \(n=2\)\n",
        runs["evaluate"].stdout,
    )


@pytest.mark.slow
def test_provenance_holds_a_command_to_copy(elsewhere):
    folder, runs = elsewhere
    for name, path in (("prepare", "my digits.safetensors"), ("distill", "made/it3.safetensors")):
        command = read_header(folder / path)["provenance"]["command"]
        assert shlex.split(command) == ["python", "-m", "dd", *runs[name].argv]


@pytest.mark.slow
def test_a_log_gets_lines(elsewhere):
    """Standard error is no terminal: whole lines, no bar, the last one complete."""
    _, runs = elsewhere
    for name, last in (("distill", "3/3 it"), ("evaluate", "2/2 networks")):
        lines = runs[name].stderr.splitlines()
        assert lines, name
        assert "\r" not in runs[name].stderr
        for line in lines:
            assert re.match(
                rf"{name}: \d+/\d+ (it|networks), [\d.e+]+ \w+/s, \d+ s left \w+=", line
            )
        assert lines[-1].startswith(f"{name}: {last}")


@pytest.mark.slow
def test_metrics_are_json_lines(elsewhere):
    folder, _ = elsewhere
    rows = [json.loads(line) for line in (folder / "made/metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [1, 2, 3]
    assert all(row["loss"] > 0 and row["network"] == "mlp" for row in rows)
    assert rows == sorted(rows, key=lambda row: row["seconds"])


def test_lines_come_at_intervals(capsys, monkeypatch):
    """A line every 30 s and one at the end; rate and rest count from where a resumed job began."""
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with Progress("work", 100, "it", initial=20, every=30) as bar:
        for _ in range(80):
            now += 2.0
            bar.update(loss=0.5)
    lines = capsys.readouterr().err.splitlines()
    counts = [line.split(",")[0] for line in lines]
    # 15 steps take 30 s
    assert counts == [f"work: {n}/100 it" for n in (35, 50, 65, 80, 95, 100)]
    assert lines[0] == "work: 35/100 it, 0.5 it/s, 130 s left loss=0.5"
    assert lines[-1] == "work: 100/100 it, 0.5 it/s, 0 s left loss=0.5"


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress("work", 4, "it") as bar:
        for _ in range(4):
            bar.update(loss=0.25)
    err = capsys.readouterr().err
    assert "\r" in err and "4/4" in err and "loss=0.25" in err
