"""A figure of a run, as PNG and PDF."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from matplotlib import pyplot
from matplotlib.figure import Figure

from dd.errors import DDError
from dd.grid import Grid, load_grid
from dd.plan import read_run
from dd.report import (
    bars,
    cams,
    curve,
    curves,
    difference,
    erasing,
    images,
    stages,
    variance,
    weights,
)
from dd.report.style import save, use_style

KINDS: dict[str, tuple[Callable[[Grid], Figure], tuple[str, ...]]] = {
    "curve": (curve.draw, ("x", "color", "style", "column", "row")),
    "bars": (bars.draw, ("x", "color", "column", "row")),
    "images": (images.draw, ("block", "row")),
    "curves": (curves.draw, ("x", "color", "column", "row")),
    "difference": (difference.draw, ("color", "column", "row")),
    "weights": (weights.draw, ("x", "column", "row")),
    "cams": (cams.draw, ("block", "row")),
    "variance": (variance.draw, ("x", "color", "column", "row")),
    "erasing": (erasing.draw, ()),  # these have no cells: panels a dataset
    "stages": (stages.draw, ()),
}


def check_layout(grid: Grid, parts: tuple[str, ...]) -> None:
    """Every part of the figure's kind must have its axes, and every axis of several values a part.

    Raises:
        DDError: naming the file and what is missing.
    """
    layout = grid.definition["layout"]
    for part in parts:
        if part not in layout:
            raise DDError(f"{grid.path}: layout has no '{part}'; it needs {', '.join(parts)}")
    drawn = {axis for axes in layout.values() for axis in axes}
    for axis in grid.axes:
        if axis not in drawn and len(grid.values(axis)) > 1:
            raise DDError(f"{grid.path}: axis '{axis}' has several values but no part in layout")


def render(grid: Grid, out: Path) -> None:
    """Draw ``grid`` into ``out`` (PNG) and the PDF beside it."""
    use_style()
    draw, parts = KINDS[grid.definition["kind"]]
    if parts:
        check_layout(grid, parts)
    figure = draw(grid)
    save(figure, out)
    pyplot.close(figure)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="config.json of the run, in its folder")
    parser.add_argument("--figure", required=True, help="the figure's definition (YAML)")
    parser.add_argument("--out", required=True, type=Path, help="PNG; the .pdf goes beside")


def run(arguments: argparse.Namespace) -> None:
    """Render a figure."""
    if arguments.out.suffix != ".png":
        raise DDError(f"--out: {arguments.out} must end in .png")
    grid = load_grid("figure", arguments.figure, read_run(arguments.config))
    render(grid, arguments.out)
    print(f"{arguments.out}: written, .pdf beside it")
