"""Which claims of the papers hold in a run: a verdict for each, with the numbers behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from dd.plan.claims import PAIRS
from dd.plan.exhibits import Exhibit
from dd.report.captions import facts, imported, warnings
from dd.report.compare import FOR, contradiction, support
from dd.report.judging import Judged, facts_of, judged, pair_words, shared
from dd.report.labels import paper_label
from dd.report.numbers import counted, interval, number
from dd.report.read.claims import QUANTITIES, Compared
from dd.report.sheet import Sheet, Text
from dd.report.tables.pivot import Rows, rounded

HEADER = ("Paper", "Claim", "Dataset", "Verdict", "Cells", "Weakest cell", "Difference",
          "90 % interval", "Evidence")  # fmt: skip


def claims(exhibit: Exhibit) -> tuple[Rows, Sheet]:
    """One tidy row per difference that a claim is about; in the sheet, one row per claim."""
    verdicts = list(judged(exhibit.run))
    said = {one.claim.id: f"{one.claim.says} Source: {one.claim.source}" for one in verdicts}
    whose = dict.fromkeys(s for one in verdicts for s in imported(one.claim.exhibit))
    notes = [f"{name}: {text}." for name, text in said.items()]
    notes += [f"{one.claim.id}, {one.label}: {one.note}." for one in verdicts if one.note]
    notes += [
        f"{one.claim.id}, {one.label}: {one.diverged} of the networks diverged (their loss became "
        "NaN); they count with the accuracy of their constant answer."
        for one in verdicts
        if one.diverged
    ]
    sheet = Sheet(
        name=exhibit.name,
        title=exhibit.definition["title"],
        caption=" ".join([exhibit.definition["caption"], facts(exhibit, []), *whose]),
        header=HEADER,
        body=[_line(one) for one in verdicts],
        keys=2,
        notes=[*notes, *shared(verdicts), *warnings(exhibit)],
    )
    rows = [row for one in verdicts for row in _rows(exhibit, one)]
    return [rounded(row, points=_in_points(row)) for row in rows], sheet


def _in_points(row: Mapping[str, Any]) -> Sequence[str]:
    """The columns of a row that are differences of accuracies."""
    measured = ("difference", "low", "high", "published_difference")
    return measured if row["unit"] == "points" else ()


def _line(one: Judged) -> list[Text]:
    claim = one.claim
    head = [paper_label(claim.paper), claim.id, one.label]
    if not one.groups:
        return [*map(Text, head), Text(one.word, bold=True), *[Text("–")] * 5]
    weakest, quantity = one.weakest, QUANTITIES[claim.quantity]
    difference = weakest.difference
    shown = number(difference.estimate.value, quantity.digits, "+")
    return [
        *map(Text, head),
        Text(one.word, bold=True),
        Text(_cells(one)),
        Text(one.words(weakest) or "–"),
        Text(f"{shown} {quantity.unit}".strip()),
        Text(interval(difference.estimate.interval(), quantity.digits, "+")),
        Text(counted([difference.sets], difference.inner, difference.each)),
    ]


def _cells(one: Judged) -> str:
    """How many differences there are, and how many of them support the claim alone."""
    count, silent = len(one.groups), one.without_scatter()
    alone = sum(one.speaks(group) == FOR for group in one.groups)
    said = [f"{alone} for it"] if count > 1 else []
    said += [f"{silent} without scatter"] if silent else []
    return f"{count} ({', '.join(said)})" if said else str(count)


def _rows(exhibit: Exhibit, one: Judged) -> Rows:
    if not one.groups:
        return [{**facts_of(one), **_numbers(exhibit, one, None), "note": one.note}]
    return [
        {**facts_of(one), **_numbers(exhibit, one, group), "note": one.note} for group in one.groups
    ]


def _numbers(exhibit: Exhibit, one: Judged, group: Compared | None) -> dict[str, Any]:
    """The columns of a difference; None in each if the claim is not tested."""
    names = ("compared", "place", "cell", "weakest", "difference", "low", "high", "unit",
             "p_against", "p_for", "published_difference", "counted", "n_sets", "n_least",
             "n_networks", "each", "diverged_first", "diverged_second", "files")  # fmt: skip
    if group is None:
        return dict.fromkeys(names)
    claim, difference = one.claim, group.difference
    estimate, folder = difference.estimate, PurePath(exhibit.run.root)
    low, high = estimate.interval() or (None, None)
    pair = group.place.get(PAIRS)
    values = (
        pair_words(claim, pair) if pair else ", ".join(pair_words(claim, p) for p in claim.pairs),
        one.words(group),
        one.speaks(group),
        "yes" if group is one.weakest else "no",
        estimate.value,
        low,
        high,
        QUANTITIES[claim.quantity].unit,
        f"{contradiction(estimate, claim.expect, claim.margin):.3g}",
        f"{support(estimate, claim.expect, claim.margin):.3g}",
        group.published,
        difference.unit,
        difference.sets,
        *difference.inner,
        difference.each,
        sum(group.diverged(0).values()),
        sum(group.diverged(1).values()),
        " ".join(str(PurePath(file).relative_to(folder)) for file in group.files),
    )
    return dict(zip(names, values, strict=True))
