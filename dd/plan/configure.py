"""The stage ``configure``: resolve and check a run, and write it as JSON (``config.json``)."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from dd import plugins
from dd.artifacts.atomic import check_out
from dd.artifacts.text import save_json
from dd.config.documents import parse_yaml
from dd.config.run import load_run
from dd.errors import DDError
from dd.plan.jobs import Evaluation
from dd.plan.plan import Plan, made_sets
from dd.plan.validate import check_found, check_plan
from dd.runtime.say import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", required=True, help="a run's name or its YAML file")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides, as snakemake --config"
    )
    parser.add_argument("--workflow", default="workflow", help="folder of the workflow")
    parser.add_argument("--out", required=True, type=Path, help="the JSON file to write")


def run(arguments: argparse.Namespace) -> None:
    """Check the run, including names and values that only the stages know, and write it."""
    check_out(arguments.out, ".json")
    given = parse_overrides(arguments.set)
    run = load_run(arguments.run, given, arguments.workflow)
    # also those of --plugin: tables read the run from the file that is written here
    plan = Plan(replace(run, plugins=list(dict.fromkeys([*run.plugins, *plugins.added()]))))
    check_plan(plan, given)
    check_found(plan)
    save_json(arguments.out, plan.document())
    evaluations = f"{len(plan.of(Evaluation))} evaluations"
    say(f"{arguments.out}: run {plan.run.name}, {made_sets(plan)}, {evaluations}")


def parse_overrides(words: list[str]) -> dict[str, Any]:
    """``KEY=VALUE`` words as a mapping, values read as YAML."""
    overrides = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise DDError(f"--set: '{word}' must be KEY=VALUE")
        overrides[key] = parse_yaml(value, f"--set: '{word}'")
    return overrides
