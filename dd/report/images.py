"""Synthetic images in their pixel colours: a block a snapshot, a row a method, a column a class."""

from __future__ import annotations

import numpy
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure

from dd import synthetic
from dd.data.dataset import Dataset, load_dataset
from dd.errors import DDError
from dd.grid import Grid
from dd.plan import data_file, distillations, synthetic_file
from dd.report.results import facts
from dd.report.style import WIDTH, annotate, describe, facet, place

COLUMNS = 10  # classes shown, so that an image keeps a size at which it can be looked at


def draw(grid: Grid) -> Figure:
    """The first image of each class, of the first seed, in blocks and rows by the layout."""
    run, layout, cells = grid.run, grid.definition["layout"], grid.cells()
    datasets: dict[tuple[str, str], Dataset] = {}
    blocks: dict[tuple, dict[tuple, numpy.ndarray]] = {}
    names: dict[tuple, list[str]] = {}
    for cell in cells:
        labels = {**cell.labels, "dataset": run.datasets[cell.dataset]["label"]}
        block, row = place(labels, layout["block"]), place(labels, layout["row"])
        path = synthetic_file(run, distillations(cell, run)[0], cell.iterations)
        space = synthetic.whitening(path) or "none"
        if (cell.dataset, space) not in datasets:
            data = load_dataset(data_file(run, cell.dataset), whitening=space)
            datasets[cell.dataset, space] = data
        dataset = datasets[cell.dataset, space]
        blocks.setdefault(block, {})[row] = strip(path, dataset)
        names[block] = dataset.classes[:COLUMNS]
    heights = [sum(len(strip) for strip in rows.values()) for rows in blocks.values()]
    widest = max(strip.shape[1] for rows in blocks.values() for strip in rows.values())
    inches = sum(heights) * (WIDTH - 1.2) / widest + 0.5 * len(blocks) + 0.7
    figure, panels = pyplot.subplots(
        len(blocks), 1, figsize=(WIDTH, inches), height_ratios=heights, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for panel, (block, rows) in zip(panels[:, 0], blocks.items(), strict=True):
        picture = numpy.concatenate(list(rows.values()))
        panel.imshow(picture, interpolation="nearest", aspect="equal")
        tops = numpy.cumsum([0, *map(len, rows.values())])
        panel.set_yticks(
            (tops[:-1] + tops[1:]) / 2 - 0.5, [describe(layout["row"], r) for r in rows]
        )
        step = picture.shape[1] / len(names[block])
        middles = [(i + 0.5) * step - 0.5 for i in range(len(names[block]))]
        tilt = 30 if max(map(len, names[block])) > 11 else 0
        panel.xaxis.tick_top()
        panel.set_xticks(
            middles, names[block], fontsize=7, rotation=tilt, ha="left" if tilt else "center"
        )
        panel.tick_params(length=0)
        panel.grid(False)
        panel.set_frame_on(False)
        panel.set_title(facet(grid, (layout["block"], block)), fontsize=8.5, loc="left")
    said = ""
    for dataset in datasets.values():
        if len(dataset.classes) > COLUMNS:
            said = f" The first {COLUMNS} of {len(dataset.classes)} classes."
    caption = f"{grid.definition['caption']}{said} {_common(grid)}{facts(grid, [])}"
    annotate(figure, grid, caption)
    return figure


def strip(path: str, dataset: Dataset) -> numpy.ndarray:
    """The first image of each of the first classes side by side, RGB in [0, 1], ``[H, W', 3]``.

    Raises:
        DDError: if the set does not fit the dataset or lacks a class.
    """
    made = synthetic.load(path)
    pixels, labels = dataset.to_pixels(made.images_for(dataset)), made.hard_labels
    shown = []
    for label in range(min(len(dataset.classes), COLUMNS)):
        found = (labels == label).nonzero()
        if not len(found):
            raise DDError(f"{path}: has no image of class '{dataset.classes[label]}'")
        image = pixels[int(found[0])]
        shown.append(torch.nn.functional.pad(image, (1, 1, 1, 1), value=1.0))
    row = torch.cat(shown, dim=2).permute(1, 2, 0)
    return row.expand(-1, -1, 3).numpy() if row.shape[2] == 1 else row.numpy()


def _common(grid: Grid) -> str:
    """What all images share, where it is not drawn: ``IPC 1. ``"""
    drawn = {axis for axes in grid.definition["layout"].values() for axis in axes}
    shared = [axis for axis in grid.axes if axis not in drawn]
    return f"{describe(shared, place(grid.cells()[0].labels, shared))}. " if shared else ""
