"""The verdicts of a run on the claims of the papers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dd.config.methods import KD, parse_protocol
from dd.config.recipes import uses_pretrained
from dd.config.run import Run
from dd.plan.claims import ERASED_ACCURACY, PAIRS, Claim, load_claims
from dd.plan.exhibits import Cell
from dd.plan.needs import auxiliary_networks
from dd.report.captions import whose
from dd.report.compare import (
    AGAINST,
    FOR,
    NEITHER,
    NOT_TESTED,
    SETS,
    contradiction,
    support,
    verdict,
    weakest,
    worded,
)
from dd.report.intervals import ALPHA, Estimate
from dd.report.labels import in_rule, in_words, value_label
from dd.report.read.claims import QUANTITIES, Compared, found, planned

THIS_SET, THESE_NETWORKS = "for this set", "for these networks"


@dataclass(frozen=True)
class Judged:
    """A claim on a dataset, and what a run says about it.

    Attributes:
        claim: the claim.
        dataset: the name of the dataset.
        groups: the differences that it is about; empty if it is not tested.
        verdict: ``holds``, ``refuted``, ``undecided`` or ``not tested``.
        note: what was not compared, and why.
    """

    claim: Claim
    dataset: str
    groups: Sequence[Compared]
    verdict: str
    note: str

    @property
    def label(self) -> str:
        """The name of the dataset in tables."""
        return str(self.claim.exhibit.run.datasets[self.dataset]["label"])

    @property
    def estimates(self) -> list[Estimate]:
        """The differences."""
        return [group.difference.estimate for group in self.groups]

    @property
    def limit(self) -> str:
        """To what the verdict is limited besides the dataset; "" for several synthetic sets."""
        if not self.groups or all(group.difference.unit == SETS for group in self.groups):
            return ""
        return THESE_NETWORKS if self.claim.quantity == ERASED_ACCURACY else THIS_SET

    @property
    def word(self) -> str:
        """The verdict with its limit."""
        return worded(self.verdict, self.limit, self.note)

    @property
    def scale(self) -> str:
        """At what scale, and on whose sets, the run tests the claim."""
        claim, run = self.claim, self.claim.exhibit.run
        there = {key for group in self.groups for key in group.members}
        cells = [
            cell
            for one in planned(claim)
            for cell in one.cells
            if cell.dataset == self.dataset and (not there or (one.pair, one.place) in there)
        ]
        iterations = sorted({cell.iterations for cell in cells} - {0})
        parts = [
            f"IPC {_listed({cell.ipc for cell in cells})}" if cells else "",
            f"{_listed(iterations)} iterations" if iterations else "",
            f"widths × {run.width_factor:g}" if run.width_factor != 1 else "",
            run.precision if run.precision != "float32" else "",
            *_temperatures(run, cells),
            *whose(claim.exhibit),
        ]
        return "; ".join(filter(None, parts))

    @property
    def weakest(self) -> Compared:
        """The difference that supports the claim the least."""
        claim = self.claim
        return self.groups[weakest(self.estimates, claim.expect, claim.margin)]

    def without_scatter(self) -> int:
        """How many of the differences say nothing about their scatter, and so decide nothing."""
        return sum(estimate.interval() is None for estimate in self.estimates)

    def speaks(self, group: Compared) -> str:
        """Whether a difference alone speaks for the claim, against it, or neither."""
        claim, estimate = self.claim, group.difference.estimate
        if support(estimate, claim.expect, claim.margin) < ALPHA:
            return FOR
        if contradiction(estimate, claim.expect, claim.margin) < ALPHA:
            return AGAINST
        return NEITHER

    def words(self, group: Compared) -> str:
        """The place of a difference: its pair, if the claim has several, and its axes, as far as
        the differences have several values on them."""
        shown = []
        for axis, value in group.place.items():
            if axis == PAIRS:
                shown += [pair_words(self.claim, value)] if len(self.claim.pairs) > 1 else []
            elif axis != "dataset" and len({str(one.place[axis]) for one in self.groups}) > 1:
                shown.append(in_words([axis], [value]))
        return ", ".join(shown)

    @property
    def diverged(self) -> int:
        """How many networks behind the differences diverged; each counts once."""
        cells: dict[Any, int] = {}
        for group in self.groups:
            cells |= group.diverged(0, 1)
        return sum(cells.values())

    @property
    def shares(self) -> list[str]:
        """What the synthetic sets share, besides the real data; empty for a single set."""
        if not any(group.difference.sets > 1 for group in self.groups):
            return []
        run = self.claim.exhibit.run
        cells = [
            cell
            for one in planned(self.claim)
            for cell in one.cells
            if cell.dataset == self.dataset and not run.is_imported(cell.dataset, cell.method)
        ]
        found = {
            "one buffer of experts": any(
                "experts" in run.distillation(cell.method, cell.dataset, cell.ipc) for cell in cells
            ),
            "one set of frozen networks": any(
                auxiliary_networks(run, cell.method, cell.dataset, cell.ipc)
                or uses_pretrained(run.parse(cell.method).objective)
                for cell in cells
            ),
        }
        return [what for what, used in found.items() if used]


def _listed(values: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(values)))


def _temperatures(run: Run, cells: Iterable[Cell]) -> list[str]:
    """At which temperatures networks of ``cells`` learn from a teacher, or who chose them."""
    said = []
    for cell in cells:
        for text in cell.protocols:
            protocol = parse_protocol(text, run.protocols)
            if protocol.options["protocol"] == KD:
                name = text.partition("@")[0]
                chosen = f"temperature {protocol.options['temperature']:g}"
                if cell.selected:
                    chosen = f"the best {cell.selected} on test data"
                said.append(f"{name} at {chosen}")
    return list(dict.fromkeys(said))


def pair_words(claim: Claim, pair: Sequence[Any]) -> str:
    """A pair of compared values: ``IADD − MTT``."""
    return " − ".join(value_label(claim.axis, value) for value in pair)


def judged(run: Run) -> Iterator[Judged]:
    """The verdict of ``run`` on each claim whose table or figure it makes, for each dataset."""
    for claim in load_claims(run):
        yield from judged_claim(claim)


def judged_claim(claim: Claim) -> Iterator[Judged]:
    """The verdict of its run on a claim, for each dataset."""
    every = found(claim)
    for dataset in claim.exhibit.datasets:
        groups = [group for group in every if group.dataset == dataset]
        if reason := claim.untested(dataset):
            yield Judged(claim, dataset, [], NOT_TESTED, reason)
            continue
        word = verdict([group.difference.estimate for group in groups], claim.expect, claim.margin)
        yield Judged(claim, dataset, groups, word, _missing(claim, dataset, groups))


def _missing(claim: Claim, dataset: str, groups: Sequence[Compared]) -> str:
    """What the claim compares and the run does not have on a dataset; "" if it has everything."""
    cells = [one for one in planned(claim) if one.cells[0].dataset == dataset]
    why = QUANTITIES[claim.quantity].lacking
    if not groups:
        return why if cells else "this run has no such cells"
    there = {key for group in groups for key in group.members}
    pairs = {pair for group in groups for pair in group.pairs}
    gone = [pair_words(claim, pair) for pair in claim.pairs if pair not in pairs]
    lacking = sum((one.pair, one.place) not in there for one in cells if one.pair in pairs)
    rules = [in_rule(rule) for rule in claim.exhibit.left_out() if _hits(claim, dataset, rule)]
    parts = [
        f"not in this run: {', '.join(gone)}" if gone else "",
        f"left out in this run: {'; '.join(rules)}" if rules else "",
        f"{why} ({lacking} of {len(cells)} comparisons)" if lacking else "",
    ]
    return "; ".join(filter(None, parts))


def _hits(claim: Claim, dataset: str, rule: Mapping[str, Sequence[Any]]) -> bool:
    """Whether a rule that leaves out cells leaves out some that the claim is about."""
    compared = {value for pair in claim.pairs for value in pair}
    asked = {**claim.cells, claim.axis: compared, "dataset": [dataset]}
    return all(any(v in asked.get(axis, values) for v in values) for axis, values in rule.items())


def shared(judgements: Iterable[Judged]) -> list[str]:
    """Sentences about what the synthetic sets of claims share, besides the real data."""
    shares: dict[str, dict[str, None]] = {}
    for one in judgements:
        for what in one.shares:
            shares.setdefault(what, {})[one.claim.id] = None
    return [
        f"The synthetic sets behind {', '.join(ids)} share {what}." for what, ids in shares.items()
    ]


def facts_of(one: Judged) -> Mapping[str, Any]:
    """What identifies a claim and its verdict, for a CSV."""
    claim = one.claim
    return {
        "claim": claim.id,
        "paper": claim.paper,
        "says": claim.says,
        "source": claim.source,
        "dataset": one.label,
        "verdict": one.verdict,
        "limit": one.limit,
        "scale": one.scale,
        "shared": "; ".join(one.shares),
        "quantity": claim.quantity,
        "expect": claim.expect,
        "margin": claim.margin,
    }
