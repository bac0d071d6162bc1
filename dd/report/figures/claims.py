"""A forest plot of claims: the difference and the interval of each cell."""

from __future__ import annotations

from typing import Any

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dd.plan.exhibits import Exhibit
from dd.report import escape
from dd.report.captions import facts, imported, warnings
from dd.report.compare import AGAINST, FOR, NEITHER, claimed_side
from dd.report.figures.style import PUBLISHED, WIDTH, annotate, published_handle
from dd.report.judging import Judged, judged, pair_words, shared
from dd.report.read.claims import QUANTITIES

ROW = 0.17  # inches of a row
COLORS = {FOR: "#0173b2", AGAINST: "#d55e00", NEITHER: "0.45"}
MARKERS = {FOR: "o", AGAINST: "s", NEITHER: "d"}
MEANING = {
    FOR: "speaks for the claim",
    AGAINST: "speaks against it",
    NEITHER: "neither (5 %, one-sided)",
}
ARROW = "Arrow: the interval goes on."
HOLLOW = "Hollow: the difference of the published values, where both can be compared."
SIDE: dict[str, Any] = {"facecolor": "#0173b2", "alpha": 0.08, "linewidth": 0}


def draw(exhibit: Exhibit) -> Figure:
    """A panel for each quantity, in it a block for each claim and a row for each difference."""
    verdicts = [one for one in judged(exhibit.run) if one.groups]
    panels: dict[tuple[str, str], list[Judged]] = {}
    for one in verdicts:
        quantity = QUANTITIES[one.claim.quantity]
        panels.setdefault((quantity.label, quantity.unit), []).append(one)
    lines = [sum(2 + len(one.groups) for one in members) for members in panels.values()]
    height = 1.2 + ROW * sum(lines) + 0.5 * len(panels)
    figure, axes = pyplot.subplots(
        max(1, len(panels)), 1, figsize=(WIDTH + 1, height), squeeze=False,
        height_ratios=lines or None, layout="constrained",
    )  # fmt: skip
    cut = False
    for panel, ((label, unit), members) in zip(axes[:, 0], panels.items(), strict=False):
        cut |= _draw(panel, members)
        panel.set_xlabel(escape.figure(f"{label} ({unit})" if unit else label))
    if not panels:
        axes[0, 0].set_axis_off()
        axes[0, 0].text(0.5, 0.5, "No claim could be tested.", ha="center", va="center")
    else:
        axes[0, 0].legend(
            handles=_handles(verdicts), loc="lower right", bbox_to_anchor=(1, 1), ncols=4
        )
    whose = dict.fromkeys(s for one in verdicts for s in imported(one.claim.exhibit))
    caption = [exhibit.definition["caption"], *[ARROW] * cut, *[HOLLOW] * _published(verdicts)]
    caption += [facts(exhibit, []), *whose, *shared(verdicts), *warnings(exhibit)]
    annotate(figure, exhibit, " ".join(caption))
    return figure


def _draw(panel: Axes, members: list[Judged]) -> bool:
    """Draw the claims ``members`` from top to bottom. Say whether an interval is cut off."""
    ticks, names, y, cut = [], [], 0.0, False
    reach = _reach(members)
    panel.set_xlim(-reach, reach)
    for one in members:
        pairs = {pair_words(one.claim, pair) for group in one.groups for pair in group.pairs}
        what = pairs.pop() if len(pairs) == 1 else "several pairs"
        if len(one.claim.exhibit.datasets) > 1:
            what += f", {one.label}"
        heading = f"{one.claim.id}: {what}: {one.word}"
        panel.text(
            0.0, y, escape.figure(heading), transform=panel.get_yaxis_transform(), fontsize=7.5,
            weight="bold", va="center", clip_on=False, in_layout=False,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )  # fmt: skip
        least, most = (
            min(max(s, -reach), reach) for s in claimed_side(one.claim.expect, one.claim.margin)
        )
        end = y + len(one.groups) + 0.5
        panel.fill_betweenx([y + 0.5, end], least, most, **SIDE)
        for group in one.groups:
            y += 1
            state = one.speaks(group)
            estimate = group.difference.estimate
            look: dict[str, Any] = {"color": COLORS[state], "zorder": 3}
            if bounds := estimate.interval():
                panel.plot(bounds, (y, y), lw=1.1, **look)
                for bound, arrow in zip(bounds, ("<", ">"), strict=True):
                    if abs(bound) > reach:
                        cut = True
                        edge = reach if bound > 0 else -reach
                        panel.plot([edge], [y], marker=arrow, markersize=3.5, clip_on=False, **look)
            panel.plot([estimate.value], [y], marker=MARKERS[state], markersize=3.5, ls="", **look)
            if group.published is not None:
                panel.plot([group.published], [y], color="black", **PUBLISHED)
            ticks.append(y)
            names.append(escape.figure(one.words(group)))
        y += 2
    panel.axvline(0, color="0.3", lw=0.8)
    panel.set_yticks(ticks, names, fontsize=7)
    panel.set_ylim(y - 0.8, -0.8)
    panel.grid(False, axis="y")
    return cut


def _published(verdicts: list[Judged]) -> bool:
    """Whether a difference of published values is drawn."""
    return any(group.published is not None for one in verdicts for group in one.groups)


def _reach(members: list[Judged]) -> float:
    """How far a panel reaches on both sides of 0.

    All differences are inside, and most of the intervals: those of a few networks may be so wide
    that they would hide the rest.
    """
    estimates = [estimate for one in members for estimate in one.estimates]
    values = [abs(estimate.value) for estimate in estimates]
    values += [abs(g.published) for one in members for g in one.groups if g.published is not None]
    ends = sorted(max(map(abs, e.interval() or (e.value,))) for e in estimates)
    return 1.1 * max(*values, ends[int(0.75 * (len(ends) - 1))]) or 1.0


def _handles(verdicts: list[Judged]) -> list[Line2D]:
    shown = {one.speaks(group) for one in verdicts for group in one.groups}
    handles = [
        Line2D([], [], color=COLORS[state], marker=MARKERS[state], markersize=4, label=text)
        for state, text in MEANING.items()
        if state in shown
    ]
    if _published(verdicts):
        handles.append(published_handle())
    return handles
