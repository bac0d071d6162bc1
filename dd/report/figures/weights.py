"""IADD's weights W (arXiv:2401.15863): for each parameter tensor, and over the iterations."""

from __future__ import annotations

import numpy
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from dd.artifacts.fields import NUMBER, TEXT, list_of, missing
from dd.artifacts.headers import describe_tensors, read_header
from dd.errors import DDError
from dd.networks.build import create
from dd.plan.exhibits import Exhibit
from dd.report.captions import facts
from dd.report.figures.style import WIDTH, annotate, colors, place, title_facets
from dd.report.read.places import labels, places
from dd.report.read.vectors import sets, vectors

_FIELDS = {"classes": list_of(TEXT), "width_factor": NUMBER}  # of the header of a set
QUANTILES = (5, 25, 50, 75, 95)  # %
KINDS = {nn.Conv2d: "conv", nn.Linear: "linear"}  # other layers with parameters are norms


def draw(exhibit: Exhibit) -> Figure:
    """Facets by ``column`` and ``row``, each with two panels.

    The upper panel shows the weights of each tensor at the last ``x``, the lower one quantiles of
    all weights over ``x``. The sets of all seeds are pooled.
    """
    layout = exhibit.definition["layout"]
    facets: dict[tuple, dict[int, list[str]]] = {}
    spots = [labels(exhibit, cell) for cell in exhibit.cells()]
    for cell, at in zip(exhibit.cells(), spots, strict=True):
        spot = place(at, layout["row"]), place(at, layout["column"])
        facets.setdefault(spot, {})[cell.iterations] = sets(exhibit, cell)
    down, across = (places(exhibit, layout[part], spots) for part in ("row", "column"))
    tint = colors(across)
    size = (WIDTH, 0.5 + 3.9 * len(down))
    figure, panels = pyplot.subplots(
        2 * len(down), len(across), figsize=size, sharey="row", squeeze=False, layout="constrained"
    )
    for i, at_row in enumerate(down):
        for j, at_column in enumerate(across):
            upper, lower = panels[2 * i : 2 * i + 2, j]
            snapshots = facets.get((at_row, at_column), {})
            if snapshots:
                _draw_tensors(upper, pooled(snapshots[max(snapshots)]), tint[at_column])
                _draw_course(lower, snapshots, tint[at_column])
            lower.set_xlabel("Iterations")
        for panel in panels[2 * i : 2 * i + 2, 0]:
            panel.set_ylabel("Weight W")
    title_facets(exhibit, panels[::2], down, across)
    annotate(figure, exhibit, f"{exhibit.definition['caption']} {facts(exhibit, [])}")
    return figure


def _draw_tensors(panel: Axes, tensors: dict[str, numpy.ndarray], color: tuple) -> None:
    """Draw a box for each tensor."""
    boxes = []
    for name, values in tensors.items():
        at = numpy.percentile(values, QUANTILES)
        boxes.append(dict(zip(("whislo", "q1", "med", "q3", "whishi"), at, strict=True)))
        boxes[-1]["label"] = name
    thin = {"linewidth": 0.7, "color": "0.25"}
    panel.bxp(
        boxes, showfliers=False, patch_artist=True, widths=0.6, whiskerprops=thin, capprops=thin,
        boxprops={"facecolor": (*color, 0.35), "edgecolor": color, "linewidth": 0.8},
        medianprops={"color": color, "linewidth": 1.6},
    )  # fmt: skip
    panel.axhline(1, color="0.4", lw=0.7, ls=":")
    panel.tick_params(axis="x", rotation=90, labelsize=7)
    panel.grid(False, axis="x")


def _draw_course(panel: Axes, snapshots: dict[int, list[str]], color: tuple) -> None:
    """Draw bands of quantiles from the start, where all weights are 1, over the snapshots."""
    x = [0, *sorted(snapshots)]
    everything = [numpy.concatenate(list(pooled(snapshots[at]).values())) for at in x[1:]]
    start = numpy.ones(len(QUANTILES))
    least, low, middle, high, most = numpy.stack(
        [start, *(numpy.percentile(values, QUANTILES) for values in everything)], axis=1
    )
    panel.fill_between(x, least, most, color=color, alpha=0.18, lw=0)
    panel.fill_between(x, low, high, color=color, alpha=0.35, lw=0)
    panel.plot(x, middle, color=color, marker="o", ms=2.5, lw=1.2)
    panel.axhline(1, color="0.4", lw=0.7, ls=":")


def pooled(paths: list[str]) -> dict[str, numpy.ndarray]:
    """The weights in the sets at ``paths``, ``[n]`` for each tensor of the network.

    The sets are those of one distillation, one per seed.

    Raises:
        DDError: if a set has no learned weights, or weights of several networks; the message names
            it.
    """
    pieces: dict[str, list[numpy.ndarray]] = {}
    for path in paths:
        weights = vectors(path, "importance", "iadd with learned weights")
        if len(weights) > 1:
            raise DDError(f"{path}: has weights of {len(weights)} networks, only one can be shown")
        for name, part in by_tensor(path, *next(iter(weights.items()))).items():
            pieces.setdefault(name, []).append(part)
    return {name: numpy.concatenate(values) for name, values in pieces.items()}


def by_tensor(path: str, network: str, values: numpy.ndarray) -> dict[str, numpy.ndarray]:
    """Split ``values [P]``, one for each parameter of ``network``, by tensor.

    Raises:
        DDError: if the network has another number of parameters; the message names ``path``, the
            file of the values.
    """
    parts = tensors(_skeleton(path, network))
    if sum(count for _, count in parts) != len(values):
        raise DDError(
            f"{path}: has {len(values)} weights, {network} has "
            f"{sum(count for _, count in parts)} parameters"
        )
    ends = numpy.cumsum([count for _, count in parts])
    names = [name for name, _ in parts]
    return dict(zip(names, numpy.split(values, ends[:-1]), strict=True))


def _skeleton(path: str, network: str) -> nn.Module:
    """The network with which the set at ``path`` was distilled, without its parameter values."""
    header = read_header(path, _FIELDS)
    if key := missing(header, _FIELDS):
        raise DDError(f"{path}: its header has no '{key}'; make it by `python -m dd distill`")
    shape, _ = describe_tensors(path).get("images", ([], ""))
    if len(shape) != 4:
        raise DDError(f"{path}: 'images' is {shape}, it must be [M, C, H, W]")
    classes, factor = len(header["classes"]), header["width_factor"]
    size = shape[2], shape[3]
    try:
        return create(network, shape[1], size, classes, generator=None, width_factor=factor)
    except DDError as error:  # the name of a tensor in the file names the network
        raise DDError(f"{path}: {error}") from None


def tensors(network: nn.Module) -> list[tuple[str, int]]:
    """Readable names (``conv 2 weight``) and sizes of the parameters of ``network``.

    They are in the order of a flat vector. Layers have a number if there are several of a kind.
    """
    layers = [layer for layer in network.modules() if list(layer.parameters(recurse=False))]
    kinds = [KINDS.get(type(layer), "norm") for layer in layers]
    named = []
    for index, (layer, kind) in enumerate(zip(layers, kinds, strict=True)):
        number = f" {kinds[: index + 1].count(kind)}" if kinds.count(kind) > 1 else ""
        for name, values in layer.named_parameters(recurse=False):
            named.append((f"{kind}{number} {name}", values.numel()))
    return named
