"""What is behind a verdict: its numbers, and the files and rows from which they come."""

from __future__ import annotations

from collections.abc import Iterator

from dd.config.run import Run
from dd.errors import DDError, unknown
from dd.plan.claims import PAIRS, Claim, load_claims
from dd.report.judging import Judged, judged_claim, pair_words
from dd.report.numbers import counted, interval, number
from dd.report.read.claims import QUANTITIES, Compared


def claim_of(run: Run, name: str) -> Claim:
    """The claim called ``name``, on whose table or figure ``run`` judges it.

    Raises:
        DDError: if the run judges no such claim; the message names those that it judges.
    """
    known = {claim.id: claim for claim in load_claims(run)}
    if not known:
        raise DDError(f"--claim: {run.root} makes no table or figure that a claim is about")
    if name not in known:
        raise unknown(f"claim of {run.root}", name, known)
    return known[name]


def behind(claim: Claim) -> Iterator[str]:
    """Lines about a claim: on each dataset its verdict, and what it lacks or why it is not tested;
    each difference with its interval; of each of its cells which rows count, and the files."""
    yield f"{claim.id}: {claim.says} ({claim.source})"
    for one in judged_claim(claim):
        note = f" ({one.note})" if one.note else ""
        yield f"  {one.label}: {one.word}{note}"
        for group in one.groups:
            yield f"    {_said(one, group)}"
            for source in group.sources:
                yield f"      {source.cell}: {source.rows}"
                yield from (f"        {file}" for file in source.files)


def _said(one: Judged, group: Compared) -> str:
    """A difference in words: pairs and place, value, interval, what it rests on, how it leans."""
    quantity, difference = QUANTITIES[one.claim.quantity], group.difference
    place = one.words(group)
    if PAIRS not in group.place or len(one.claim.pairs) == 1:  # the place does not name the pair
        pairs = ", ".join(pair_words(one.claim, pair) for pair in one.claim.pairs)
        place = ", ".join(filter(None, (pairs, place)))
    value = number(difference.estimate.value, quantity.digits, "+")
    bounds = difference.estimate.interval()
    spread = f"90 % interval {interval(bounds, quantity.digits, '+')}" if bounds else "no interval"
    rests = counted([difference.sets], difference.inner, difference.each)
    size = f"{value} {quantity.unit}".strip()
    return f"{place}: {size}, {spread}, {rests}; alone: {one.speaks(group)}"
