"""A figure of a run, as PNG and PDF."""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib import pyplot

from dd.plan.exhibits import Exhibit
from dd.plan.kinds import check, kind_of
from dd.report.asked import asked
from dd.report.figures.style import save, use_style
from dd.runtime.say import say


def render(exhibit: Exhibit, out: Path) -> None:
    """Draw ``exhibit`` and write it to ``out`` (PNG) and to a PDF beside it."""
    use_style()
    check(exhibit)
    figure = kind_of(exhibit).render(exhibit)
    save(figure, out)
    pyplot.close(figure)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="config.json of the run, in its folder")
    parser.add_argument("--figure", required=True, help="the figure's definition (YAML)")
    parser.add_argument("--out", required=True, type=Path, help="PNG; a PDF is written beside it")


def run(arguments: argparse.Namespace) -> None:
    """Render a figure."""
    exhibit = asked("figure", arguments.figure, arguments.config, arguments.out)
    render(exhibit, arguments.out)
    say(f"{arguments.out}: written, .pdf beside it")
