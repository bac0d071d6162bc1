"""Synthetic images in their pixel colours, one block per snapshot.

With one image of each class, a method is a row and a class is a column. With several images, a
method is a grid with a row for each class.
"""

from __future__ import annotations

import numpy
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dd.data import synthetic
from dd.data.dataset import Dataset, load_dataset
from dd.data.fit import fit
from dd.plan.exhibits import Exhibit
from dd.plan.jobs import Preparation, snapshots
from dd.report import escape
from dd.report.captions import facts, first_sets
from dd.report.figures.style import WIDTH, annotate, describe, facet, in_words, place
from dd.report.read.places import labels, places

COLUMNS = 10  # most classes shown, so that images stay large enough to see
NAMES = 1.2  # inches for names beside the images
LARGEST = 0.9  # greatest size of an image in inches
TALLEST = 4.5  # greatest height of a block of grids in inches
TITLES = 0.5  # inches above the images of a block


def draw(exhibit: Exhibit) -> Figure:
    """The first images of each class in the first seed's set, in blocks and rows of the layout."""
    run, layout, cells = exhibit.run, exhibit.definition["layout"], exhibit.cells()
    count = exhibit.definition.get("images_per_class", 1)
    datasets: dict[tuple[str, str], Dataset] = {}
    blocks: dict[tuple, dict[str, numpy.ndarray]] = {}
    names: dict[tuple, list[str]] = {}
    shown = []
    lacking = False
    for cell in cells:
        made = snapshots(cell, run)
        if not made:  # others did not publish the set
            continue
        at = labels(exhibit, cell)
        block, row_at = place(at, layout["block"]), place(at, layout["row"])
        path = made[0].file(run)
        space = synthetic.whitening(path) or "none"
        if (cell.dataset, space) not in datasets:
            data = load_dataset(Preparation(cell.dataset, space).file(run), whitening=space)
            datasets[cell.dataset, space] = data
        dataset = datasets[cell.dataset, space]
        shown.append(at)
        row = describe(layout["row"], row_at)
        blocks.setdefault(block, {})[row], lacks = tiles(path, dataset, count)
        lacking |= lacks
        names[block] = [escape.figure(name) for name in dataset.classes[:COLUMNS]]
    blocks = {block: blocks[block] for block in places(exhibit, layout["block"], shown)}
    inches = [_inches(rows) + TITLES for rows in blocks.values()]
    figure = pyplot.figure(figsize=(WIDTH, sum(inches) + 0.7), layout="constrained")
    grid = figure.add_gridspec(len(blocks), 1, height_ratios=inches)
    for index, (block, rows) in enumerate(blocks.items()):
        spot = grid[index, 0]
        if _single(rows):
            panels = [figure.add_subplot(spot)]
            _draw_rows(panels[0], rows, names[block])
        else:
            stacked, _ = _arrangement(rows)
            shape = (len(rows), 1) if stacked else (1, len(rows))
            panels = list(spot.subgridspec(*shape).subplots(squeeze=False).flat)
            for panel, (row, images) in zip(panels, rows.items(), strict=True):
                classes = names[block] if stacked or panel is panels[0] else []
                _draw_grid(panel, row, images, classes, stacked)
        panels[0].set_title(facet(exhibit, (layout["block"], block)), fontsize=8.5, loc="left")
    chosen = ""
    for dataset in datasets.values():
        if len(dataset.classes) > COLUMNS:
            chosen = f" The first {COLUMNS} of {len(dataset.classes)} classes."
    if lacking:
        chosen += " An empty place: the set has no image of the class."
    caption = f"{exhibit.definition['caption']}{chosen} {_common(exhibit)}{facts(exhibit, [])}"
    annotate(figure, exhibit, caption)
    return figure


def tiles(path: str, dataset: Dataset, count: int) -> tuple[numpy.ndarray, bool]:
    """The first ``count`` images of each of the first classes.

    If the set has fewer images of a class, fewer images of all classes. A class that it lacks has
    white places: sets of others may be for some classes, and learned labels may leave their class.

    Returns:
        RGB in [0, 1], with a white edge of one pixel around each image,
        ``[classes, count, H + 2, W + 2, 3]``, and whether the set lacks a class.

    Raises:
        DDError: if the set does not fit the dataset.
    """
    made = fit(synthetic.load(path), dataset).synthetic
    pixels, labels = dataset.to_pixels(made.images_for(dataset)), made.hard_labels
    by_class = [(labels == k).nonzero()[:, 0] for k in range(len(dataset.classes))][:COLUMNS]
    count = min([count, *(len(indices) for indices in by_class if len(indices))])
    shown = pixels.new_ones(len(by_class), count, *pixels.shape[1:])
    for row, indices in zip(shown, by_class, strict=True):
        row[: len(indices)] = pixels[indices[:count]]
    edged = torch.nn.functional.pad(shown, (1, 1, 1, 1), value=1.0).movedim(2, -1)
    lacks = not all(map(len, by_class))
    return edged.expand(*edged.shape[:-1], 3).numpy(), lacks


def joined(images: numpy.ndarray) -> numpy.ndarray:
    """``[rows, columns, H, W, 3]`` as one picture ``[rows * H, columns * W, 3]``."""
    rows, columns, height, width, _ = images.shape
    return images.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 3)


def _single(rows: dict[str, numpy.ndarray]) -> bool:
    """Whether a block shows one image of each class."""
    return all(images.shape[1] == 1 for images in rows.values())


def _inches(rows: dict[str, numpy.ndarray]) -> float:
    """The height of a block's images."""
    classes, _, height, width, _ = next(iter(rows.values())).shape
    if _single(rows):
        return len(rows) * min((WIDTH - NAMES) / classes, LARGEST) * height / width
    stacked, size = _arrangement(rows)
    return (len(rows) if stacked else 1) * classes * size * height / width


def _arrangement(rows: dict[str, numpy.ndarray]) -> tuple[bool, float]:
    """Whether the grids of a block are stacked, and the size of an image in inches.

    They are stacked if this makes the images much larger than side by side.
    """
    classes = len(next(iter(rows.values())))
    counts = [images.shape[1] for images in rows.values()]
    below = min((WIDTH - NAMES) / max(counts), TALLEST / (classes * len(rows)), LARGEST)
    beside = min((WIDTH - NAMES) / sum(counts), TALLEST / classes, LARGEST)
    stacked = below > 1.5 * beside
    return stacked, below if stacked else beside


def _draw_rows(panel: Axes, rows: dict[str, numpy.ndarray], classes: list[str]) -> None:
    """Draw a row per method and a column per class."""
    stacked = numpy.concatenate([images.swapaxes(0, 1) for images in rows.values()])
    _show(panel, stacked, list(rows))
    tilt = 30 if max(map(len, classes)) > 11 else 0
    panel.set_xticks(
        _middles(stacked.shape[3], len(classes)), classes, fontsize=7, rotation=tilt,
        ha="left" if tilt else "center",
    )  # fmt: skip


def _draw_grid(
    panel: Axes, method: str, images: numpy.ndarray, classes: list[str], stacked: bool
) -> None:
    """Draw a row per class and a column per image, with the name of the method.

    The name is beside the grid if grids are ``stacked``, otherwise above it.
    """
    _show(panel, images, classes)
    if stacked:
        panel.set_ylabel(method)
        panel.set_xticks([])
    else:
        panel.set_xticks(_middles(images.shape[1] * images.shape[3], 1), [method])


def _show(panel: Axes, images: numpy.ndarray, names: list[str]) -> None:
    """Draw ``images [rows, columns, H, W, 3]`` without a frame, with ``names`` beside the rows."""
    panel.imshow(joined(images), interpolation="nearest", aspect="equal")
    panel.set_yticks(_middles(images.shape[2], len(names)), names)
    panel.xaxis.tick_top()
    panel.tick_params(length=0)
    panel.grid(False)
    panel.set_frame_on(False)


def _middles(step: int, count: int) -> list[float]:
    """The middles of ``count`` adjacent pieces of ``step`` pixels; the first piece starts at 0."""
    return [(index + 0.5) * step - 0.5 for index in range(count)]


def _common(exhibit: Exhibit) -> str:
    """What all images have in common and nothing else shows: ``IPC 1. ``"""
    told = {axis for axes in exhibit.definition["layout"].values() for axis in axes} | {"dataset"}
    shared = [axis for axis in exhibit.axes if axis not in told]
    words = [in_words(shared, place(exhibit.cells()[0].labels, shared))] if shared else []
    return "".join(f"{s} " for s in (*(f"{text}." for text in words), *first_sets(exhibit)))
