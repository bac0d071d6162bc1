"""Images of synthetic sets, and where networks look in them (MetaDD, arXiv:2410.05103, Fig. 2).

A network looks where its class activation map is at least the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from dd.analyse.regions import regions
from dd.data import synthetic
from dd.data.dataset import load_dataset
from dd.data.fit import fit
from dd.errors import DDError
from dd.plan.exhibits import Cell, Exhibit
from dd.plan.jobs import (
    ActivationMaps,
    Preparation,
    Snapshot,
    distillations,
)
from dd.plan.needs import cam_rectify
from dd.report import escape
from dd.report.captions import facts, first_sets, warnings
from dd.report.figures.style import WIDTH, annotate, describe, facet, place
from dd.report.labels import value_label
from dd.report.read.maps import convention, groups, read
from dd.report.read.places import labels, places

CLASSES = 3  # classes shown of each set, unless the definition says how many
MAP = "viridis"  # from dark to light, also when printed in grey
FADED = 0.85  # share of white in an image outside a region
TALLEST = 1.0  # greatest size of an image in inches


@dataclass(frozen=True)
class Looked:
    """An image, its maps and its regions.

    Attributes:
        name: the label of its row: method and class.
        pixels: ``[H, W, 3]`` RGB in [0, 1].
        maps: ``[M, h, w]``, normalised.
        meta, heterogeneous: ``[h, w]`` bool, where all networks look and where only some look.
    """

    name: str
    pixels: numpy.ndarray
    maps: numpy.ndarray
    meta: numpy.ndarray
    heterogeneous: numpy.ndarray


def draw(exhibit: Exhibit) -> Figure:
    """Blocks by ``block``, each with rows by ``row`` and class.

    A row shows the first image of a class in the first seed's set, its map for each network, and
    the image with everything outside a region faded, for both regions.
    """
    layout = exhibit.definition["layout"]
    blocks: dict[tuple, list[Looked]] = {}
    members: dict[tuple, list[str]] = {}
    shown = []
    thresholds: set[float] = set()
    for cell in exhibit.cells():
        if not distillations(cell, exhibit.run):  # others did not publish the set
            continue
        at = labels(exhibit, cell)
        shown.append(at)
        block = place(at, layout["block"])
        # the auxiliary networks, or the unseen ones if there is no group of auxiliary networks
        members[block] = next(iter(groups(exhibit, cell.dataset).values()))
        name = describe(layout["row"], place(at, layout["row"]))
        images, threshold = _looked(exhibit, cell, name, members[block])
        blocks.setdefault(block, []).extend(images)
        thresholds.add(threshold)
    blocks = {block: blocks[block] for block in places(exhibit, layout["block"], shown)}
    inches = [
        len(rows) * min((WIDTH - 1.6) / (len(members[b]) + 3), TALLEST) + 0.45
        for b, rows in blocks.items()
    ]
    figure = pyplot.figure(figsize=(WIDTH, sum(inches) + 0.6), layout="constrained")
    parts = figure.subfigures(len(blocks), 1, height_ratios=inches, squeeze=False)[:, 0]
    for part, (block, rows) in zip(parts, blocks.items(), strict=True):
        title = facet(exhibit, (layout["block"], block))
        _draw_block(part, rows, members[block], title, thresholds)
    least = " or ".join(f"{value:g}" for value in sorted(thresholds))
    looks = (
        f"A network looks where its map is at least {least} (line on the colour bar). Meta: the "
        "region where all of these networks look; heterogeneous: where only some of them look; the "
        "rest of the image is faded."
    )
    caption = [
        exhibit.definition["caption"],
        looks,
        convention(exhibit),
        *first_sets(exhibit),
        facts(exhibit, []),
        *warnings(exhibit),
    ]
    annotate(figure, exhibit, " ".join(caption))
    return figure


def _looked(
    exhibit: Exhibit, cell: Cell, name: str, networks: list[str]
) -> tuple[list[Looked], float]:
    """The first image of each of the first classes that a cell's first set has images of, and the
    threshold."""
    run, job = exhibit.run, distillations(cell, exhibit.run)[0]
    path = Snapshot(job, cell.iterations).file(run)
    made = synthetic.load(path)
    maps = read(ActivationMaps(Snapshot(job, cell.iterations)).file(run), cam_rectify(run))
    space = made.whitening or "none"
    dataset = load_dataset(Preparation(cell.dataset, space).file(run), whitening=space)
    if int(maps.images.max()) >= len(made):
        raise DDError(f"{maps.path}: has maps of images that {path} does not have; make it again")
    made = fit(made, dataset).synthetic
    classes = made.hard_labels.numpy()[maps.images]
    images = made.images_for(dataset)
    meta, own = regions(maps.of(networks), maps.threshold)
    rows = []
    for label in numpy.unique(classes)[: exhibit.definition.get("classes", CLASSES)]:
        first = int((classes == label).argmax())
        pixels = dataset.to_pixels(images[maps.images[first]][None])[0].movedim(0, -1)
        rows.append(
            Looked(
                name=f"{name}\n{escape.figure(f'class {dataset.classes[label]}')}",
                pixels=pixels.expand(*pixels.shape[:2], 3).numpy(),
                maps=maps.of(networks)[:, first],
                meta=meta[first],
                heterogeneous=numpy.logical_or.reduce(own[:, first]),
            )
        )
    return rows, maps.threshold


def _draw_block(
    part: SubFigure, rows: list[Looked], networks: list[str], title: str, thresholds: set[float]
) -> None:
    heads = [
        "Image",
        *(escape.figure(value_label("arch", n)) for n in networks),
        "Meta",
        "Heterogeneous",
    ]
    panels = part.subplots(len(rows), len(heads), squeeze=False)
    for line, row in zip(panels, rows, strict=True):
        height, width = row.pixels.shape[:2]
        _show(line[0], row.pixels)
        for panel, values in zip(line[1:-2], row.maps, strict=True):
            shown = panel.imshow(
                values, cmap=MAP, vmin=0, vmax=1, extent=(0, width, height, 0),
                interpolation="nearest",
            )  # fmt: skip
            _bare(panel)
        _show(line[-2], inside(row.pixels, row.meta))
        _show(line[-1], inside(row.pixels, row.heterogeneous))
        line[0].set_ylabel(row.name, rotation=0, ha="right", va="center", fontsize=7.5)
    for panel, head in zip(panels[0], heads, strict=True):
        panel.set_title(head, fontsize=7.5)
    bar = part.colorbar(shown, ax=panels, fraction=0.025, pad=0.015, aspect=30)
    bar.set_label("CAM, normalised", fontsize=7.5)
    bar.ax.tick_params(labelsize=7)
    for value in thresholds:
        bar.ax.axhline(value, color="white", lw=1.5)
    if title:
        part.suptitle(title, fontsize=8.5, fontweight="normal", x=0.01, ha="left")


def inside(pixels: numpy.ndarray, region: numpy.ndarray) -> numpy.ndarray:
    """``pixels [H, W, 3]``, faded towards white outside ``region [h, w]``."""
    size = pixels.shape[:2]
    mask = torch.from_numpy(region)[None, None].float()
    within = torch.nn.functional.interpolate(mask, size, mode="nearest")[0, 0, :, :, None].numpy()
    return within * pixels + (1 - within) * (FADED + (1 - FADED) * pixels)


def _show(panel: Axes, pixels: numpy.ndarray) -> None:
    panel.imshow(pixels, interpolation="nearest")
    _bare(panel)


def _bare(panel: Axes) -> None:
    """Remove the ticks and draw a thin frame."""
    panel.set(xticks=[], yticks=[])
    panel.grid(False)
    for spine in panel.spines.values():
        spine.set(linewidth=0.5, color="0.6")
