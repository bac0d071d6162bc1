"""Accuracy lost when regions of the test images are erased (MetaDD, arXiv:2410.05103, Fig. 4)."""

from __future__ import annotations

from typing import Any

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dd.analyse.regions import ERASED, NOTHING
from dd.plan.exhibits import Exhibit
from dd.plan.jobs import Erasing
from dd.plan.needs import cam_rectify
from dd.report import escape
from dd.report.captions import facts, warnings
from dd.report.figures.style import WIDTH, annotate, colors
from dd.report.labels import value_label
from dd.report.read.erased import read
from dd.report.read.maps import convention

BAR = 0.26  # width of a bar; two networks are 1 apart
HATCHES = dict(zip(ERASED, ("", "////", "...."), strict=True))
FIRST = "region network"  # the role of networks that define the regions; they are shown first


def draw(exhibit: Exhibit) -> Figure:
    """A panel per dataset, with a bar for each network and each kind of region.

    A bar shows the change of the network's test accuracy when the region is erased. The networks
    that define the regions come first.
    """
    run = exhibit.run
    by_dataset = {
        name: read(Erasing(name).file(run), cam_rectify(run)) for name in exhibit.datasets
    }
    count = len(by_dataset)
    figure, panels = pyplot.subplots(
        count, 1, figsize=(WIDTH, 0.9 + 2.6 * count), squeeze=False, layout="constrained"
    )
    tint, sentences = colors(ERASED), []
    for panel, (name, rows) in zip(panels[:, 0], by_dataset.items(), strict=True):
        label = run.datasets[name]["label"]
        _draw(panel, rows, tint)
        panel.set_title(escape.figure(label) if count > 1 else "", pad=18)
        area = {row["area"] for row in rows if row["erased"] != NOTHING}
        span = " to ".join(f"{value:.1f}" for value in sorted({min(area), max(area)}))
        where = f"{label}: " if count > 1 else ""
        sentences.append(
            f"{where}{span} % of an image is erased on average, over {rows[0]['images']:.0f} test "
            f"images; a network looks where its normalised map is at least "
            f"{rows[0]['threshold']:g}."
        )
    handles = [
        pyplot.Rectangle(
            (0, 0), 1, 1, facecolor=color, hatch=HATCHES[kind], edgecolor="white", label=kind
        )
        for kind, color in tint.items()
    ]
    figure.legend(handles=handles, title="Erased", loc="outside right center")
    sentences.append(convention(exhibit))
    caption = [exhibit.definition["caption"], *sentences, facts(exhibit, []), *warnings(exhibit)]
    annotate(figure, exhibit, " ".join(caption))
    return figure


def _draw(panel: Axes, rows: list[dict[str, Any]], tint: dict[str, Any]) -> None:
    by_network: dict[str, dict[str, dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["role"] != FIRST):
        by_network.setdefault(row["network"], {})[row["erased"]] = row
    own = sum(kinds[NOTHING]["role"] == FIRST for kinds in by_network.values())
    for n, kinds in enumerate(by_network.values()):
        for i, (kind, color) in enumerate(tint.items()):
            row = kinds[kind]
            panel.bar(
                n + (i - 1) * BAR, row["difference"], BAR, yerr=row["standard_error"],
                color=color, hatch=HATCHES[kind], edgecolor="white", linewidth=0.5,
                error_kw={"elinewidth": 0.8, "ecolor": "0.2"},
            )  # fmt: skip
    names = [
        f"{escape.figure(value_label('arch', name))}\n{kinds[NOTHING]['accuracy']:.1f} %"
        for name, kinds in by_network.items()
    ]
    panel.set_xticks(range(len(names)), names)
    panel.set_xlim(-0.5, len(names) - 0.5)
    panel.axhline(0, color="0.3", lw=0.8)
    panel.grid(False, axis="x")
    panel.set_ylabel("Change of test accuracy\n(points)")
    sides = [(own, "define the regions"), (len(names) - own, "others")]
    start = 0
    for count, text in sides:
        if count:
            panel.text(
                start + (count - 1) / 2, 1.02, text, ha="center", va="bottom", fontsize=8,
                color="0.3", transform=panel.get_xaxis_transform(),
            )  # fmt: skip
        start += count
    if 0 < own < len(names):
        panel.axvline(own - 0.5, color="0.3", lw=0.8, ls=":")
