"""A figure of a run, as PNG and PDF."""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib import pyplot

from dd.errors import DDError
from dd.plan.exhibits import Exhibit
from dd.plan.kinds import kind_of
from dd.report.asked import asked
from dd.report.figures.style import save, use_style
from dd.runtime.say import say


def check_layout(exhibit: Exhibit, parts: tuple[str, ...]) -> None:
    """Check that the layout has every part of the figure's kind and every axis.

    Only axes with several values need a part.

    Raises:
        DDError: if something is missing; the message names it and the file.
    """
    layout = exhibit.definition["layout"]
    for part in parts:
        if part not in layout:
            raise DDError(f"{exhibit.path}: layout has no '{part}'; it needs {', '.join(parts)}")
    drawn = {axis for axes in layout.values() for axis in axes}
    for axis in exhibit.axes:
        if axis not in drawn and len(exhibit.values(axis)) > 1:
            raise DDError(f"{exhibit.path}: axis '{axis}' has several values but no part in layout")


def render(exhibit: Exhibit, out: Path) -> None:
    """Draw ``exhibit`` and write it to ``out`` (PNG) and to a PDF beside it."""
    use_style()
    kind = kind_of(exhibit)
    if kind.parts:
        check_layout(exhibit, kind.parts)
    figure = kind.render(exhibit)
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
