"""Claims of the papers: what is compared with what, over which cells of a table or figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dd.analyse.regions import ERASED
from dd.config.documents import load_config
from dd.config.run import Run, stems
from dd.errors import DDError, unknown
from dd.plan.exhibits import Exhibit, load_exhibit, unknown_value

ALL = "all"  # average_over: all axes
GENERATOR = "given generator"  # a requirement: weights of a generator, not the suite's own
ERASED_ACCURACY = "erased_accuracy"
PAIRS = "pair"  # the name of the axis of pairs in groups of cells


@dataclass(frozen=True)
class Claim:
    """A claim (``workflow/config/claims``; see docs/claims.md).

    Attributes:
        id: its name, the same in all runs.
        paper: the stem of its file.
        path: its file.
        says: the claim, one sentence.
        source: where the paper makes it.
        exhibit: the table or figure of a run whose numbers it is about.
        quantity: what is compared.
        axis: the axis whose values are compared.
        pairs: pairs of these values; differences are the first minus the second.
        cells: by axis, the values of the cells that it is about; other axes: all.
        unseen: whether it is only about networks that neither method used in its distillation.
        average_over: the axes over which differences are averaged before they are judged.
        expect: ``higher``, ``lower``, ``not lower``, ``not higher`` or ``equal``.
        margin: the least difference that matters (higher, lower), or the largest that does not.
        requires: what a run must have for a test.
    """

    id: str
    paper: str
    path: str
    says: str
    source: str
    exhibit: Exhibit
    quantity: str
    axis: str
    pairs: tuple[tuple[Any, Any], ...]
    cells: Mapping[str, list[Any]]
    unseen: bool
    average_over: tuple[str, ...]
    expect: str
    margin: float
    requires: tuple[str, ...]

    def includes(self, labels: Mapping[str, Any]) -> bool:
        """Whether the claim is about the cell with these ``labels``, as far as ``cells`` says."""
        return all(labels[axis] in values for axis, values in self.cells.items())

    def group(self, labels: Mapping[str, Any], pair: tuple[Any, Any]) -> dict[str, Any]:
        """What identifies the group of cells that are averaged: the axes that remain."""
        place = {PAIRS: pair} | {a: v for a, v in labels.items() if a != self.axis}
        return {axis: value for axis, value in place.items() if axis not in self.average_over}

    def untested(self, dataset: str) -> str:
        """Why a run cannot test the claim on ``dataset``, from what it requires; "" if it can."""
        if GENERATOR in self.requires and dataset not in self.exhibit.run.generators:
            return "the run uses the suite's own generator, not that of GLaD"
        return ""


def claim_files(run: Run) -> list[str]:
    """The files of claims."""
    return [run.path("claims", f"{stem}.yaml") for stem in stems(run.path("claims"))]


def load_claims(run: Run) -> list[Claim]:
    """The claims whose table or figure the run makes (not only on request).

    Raises:
        DDError: for a file that does not fit its schema, or names an axis, value, table or figure
            that does not exist.
    """
    claims: dict[str, Claim] = {}
    for path in claim_files(run):
        for entry in load_config(path, run.schema("claims")):
            try:
                claim = _claim(path, entry, run)
            except DDError as error:
                raise DDError(f"{path}: {entry['id']}: {error}") from None
            if claim is None:
                continue
            if claim.id in claims:
                raise DDError(f"{path}: {claim.id}: is also in {claims[claim.id].path}")
            claims[claim.id] = claim
    return list(claims.values())


def _claim(path: str, entry: Mapping[str, Any], run: Run) -> Claim | None:
    kind = "table" if "table" in entry else "figure"
    name = entry[kind]
    known = stems(run.path(f"{kind}s"))
    if name not in known:
        raise unknown(kind, name, known)
    if name not in (run.tables if kind == "table" else run.figures):
        return None
    exhibit = load_exhibit(kind, run.path(f"{kind}s", f"{name}.yaml"), run)
    if not exhibit.is_shown:
        return None
    ((axis, pairs),) = entry["compare"].items()
    cells, over = entry.get("cells", {}), entry.get("average_over", [])
    axes: Mapping[str, Any] = exhibit.definition.get("axes", {})
    if entry.get("quantity") == ERASED_ACCURACY:  # its figure has no axes of its own
        axes = {"arch": None, "erased": list(ERASED)}
        if entry.get("unseen"):
            raise DDError("unseen is about distillations, of which erasing has none")
    named = {axis: [value for pair in pairs for value in pair], **cells}
    listed = () if over == ALL else over
    _check_meaning(axis, pairs, cells, listed)
    _check(exhibit.name, {"dataset": None, **axes}, named, listed)
    if over == ALL:
        over = [PAIRS, *(name for name in axes if name != "dataset")]
    return Claim(
        id=entry["id"],
        paper=Path(path).stem,
        path=path,
        says=entry["says"],
        source=entry["source"],
        exhibit=exhibit,
        quantity=entry.get("quantity", "accuracy"),
        axis=axis,
        pairs=tuple((first, second) for first, second in pairs),
        cells=cells,
        unseen=entry.get("unseen", False),
        average_over=tuple(over),
        expect=entry.get("expect", "higher"),
        margin=float(entry.get("margin", 0.0)),
        requires=tuple(entry.get("requires", ())),
    )


def _check_meaning(
    axis: str,
    pairs: Sequence[Sequence[Any]],
    cells: Mapping[str, list[Any]],
    over: Sequence[str],
) -> None:
    """Raise a :class:`DDError` for a comparison that says nothing, or says it twice."""
    for number, (first, second) in enumerate(pairs):
        if first == second:
            raise DDError(f"compare.{axis}: compares {first!r} with itself")
        if [first, second] in pairs[:number] or [second, first] in pairs[:number]:
            raise DDError(f"compare.{axis}: compares {first!r} and {second!r} twice")
    if axis in cells:
        raise DDError(
            f"cells: '{axis}' is the axis that is compared, compare names its values; leave it out"
        )
    if axis in over:
        raise DDError(
            f"average_over: '{axis}' is the axis that is compared; name others, or leave it out"
        )
    if "dataset" in over:
        raise DDError("average_over: each dataset has a verdict of its own; leave 'dataset' out")


def _check(
    owner: str, axes: Mapping[str, Any], named: Mapping[str, list[Any]], over: Sequence[str]
) -> None:
    """Raise a :class:`DDError` for an axis or a value that a table or figure does not have.

    Args:
        owner: the name of the table or figure.
        axes: its axes, with their values as far as they are known.
        named: by axis, the values that a claim names.
        over: further axes that it names.
    """
    for axis in (*named, *over):
        if axis not in axes:
            raise unknown(f"axis of {owner}", axis, axes)
    for axis, values in named.items():
        known = axes[axis]
        for value in values:
            if isinstance(known, list | Mapping) and value not in list(known):
                raise unknown_value(f"axis '{axis}' of {owner}", value, known)
