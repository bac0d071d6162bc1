"""What a run has to say about a claim: the differences that the claim is about, cell by cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeAlias

from dd.networks.options import canonical
from dd.plan.claims import PAIRS, Claim
from dd.plan.exhibits import Cell, Exhibit
from dd.plan.jobs import ActivationMaps, Erasing, Snapshot, distillations, evaluations
from dd.plan.needs import cam_rectify, seen
from dd.report import intervals
from dd.report.compare import Difference, average, compare
from dd.report.labels import in_words
from dd.report.read import erased
from dd.report.read.accuracies import NO_SET, BySet, collect
from dd.report.read.costs import origin
from dd.report.read.maps import AUXILIARY, UNSEEN, VARIANCE, groups, pooled

NETWORKS, IMAGES, JOBS = "networks", "images", "jobs"


@dataclass(frozen=True)
class Sample:
    """The values of a cell.

    Attributes:
        cell: the cell.
        by_set: the values of each of its synthetic sets.
        published: the published value, if it can be compared.
        diverged: how many of its networks diverged.
        files: the files that hold the values.
        rows: in words, what of these files counts.
    """

    cell: Cell
    by_set: BySet
    files: Sequence[str]
    rows: str
    published: float | None = None
    diverged: int = 0


Place: TypeAlias = tuple[tuple[str, Any], ...]
"""Where a pair of cells is: the axes besides that of the compared values, each with its value."""


@dataclass(frozen=True)
class Planned:
    """A pair of cells that a claim is about and that its table has.

    Attributes:
        pair: the compared values.
        place: where they are.
        cells: the two cells.
    """

    pair: tuple[Any, Any]
    place: Place
    cells: tuple[Cell, Cell]


@dataclass(frozen=True)
class Source:
    """From where the values of a compared cell come.

    Attributes:
        cell: what it is, in words.
        rows: what of the files counts, in words.
        files: the files that hold the values.
    """

    cell: str
    rows: str
    files: Sequence[str]


@dataclass(frozen=True)
class Compared:
    """Two compared cells, or several such pairs that are judged by their mean difference.

    Attributes:
        dataset: the name of the dataset.
        place: the axes that identify it, the pair of compared values among them.
        difference: the first minus the second.
        published: the same of the published values; None unless all cells have one.
        sources: of the values, for each cell.
        members: the pairs of cells, each with how many networks of both diverged.
    """

    dataset: str
    place: Mapping[str, Any]
    difference: Difference
    published: float | None
    sources: Sequence[Source]
    members: Mapping[tuple[tuple[Any, Any], Place], tuple[int, int]]

    @property
    def files(self) -> list[str]:
        """The files that hold the values, each once."""
        return list(dict.fromkeys(file for source in self.sources for file in source.files))

    @property
    def pairs(self) -> set[tuple[Any, Any]]:
        """The pairs of values that were compared."""
        return {pair for pair, _ in self.members}

    def diverged(self, *sides: int) -> dict[tuple[Any, Place], int]:
        """How many networks diverged in each of the first (0) or second (1) cells, or in both."""
        return {
            (pair[side], place): both[side]
            for (pair, place), both in self.members.items()
            for side in sides
        }


@dataclass(frozen=True)
class Quantity:
    """What a claim may be about.

    Attributes:
        label: a difference of it, for figures.
        unit: of a difference; "" if it has none.
        digits: shown after the point.
        lacking: why a cell of a table may have no values.
        pairs: the pairs of cells of a claim.
        behind: what the values of a cell depend on. Cells that agree in it have the same values.
    """

    label: str
    unit: str
    digits: int
    lacking: str
    pairs: Callable[[Claim], Iterator[Compared]]
    behind: Callable[[Cell], tuple[Any, ...]]


def found(claim: Claim) -> list[Compared]:
    """The groups of cells of ``claim`` in its run, in the order of the table.

    Raises:
        DDError: if a file behind the table is missing or malformed; the message names it.
    """
    grouped: dict[tuple[Any, ...], list[Compared]] = {}
    for pair in QUANTITIES[claim.quantity].pairs(claim):
        grouped.setdefault((pair.dataset, *pair.place.items()), []).append(pair)
    groups = [_joined(members) for members in grouped.values()]
    return sorted(groups, key=lambda group: _position(claim, group))


def _position(claim: Claim, group: Compared) -> int:
    """The position of the pair of a group among those of its claim: the pairs are kept together."""
    return claim.pairs.index(group.place[PAIRS]) if PAIRS in group.place else 0


def _joined(members: Sequence[Compared]) -> Compared:
    values = [pair.published for pair in members if pair.published is not None]
    return Compared(
        members[0].dataset,
        members[0].place,
        average([pair.difference for pair in members]),
        fmean(values) if len(values) == len(members) else None,
        [source for pair in members for source in pair.sources],
        {key: both for pair in members for key, both in pair.members.items()},
    )


def planned(claim: Claim) -> list[Planned]:
    """The pairs of cells of the claim's table that it is about, whether they have values or not.

    Several cells may show the same values: the memory of a distillation stands beside each network
    that is evaluated. Of pairs of such cells one counts, that with the most iterations.
    """
    behind = QUANTITIES[claim.quantity].behind
    places: dict[Place, dict[Any, Cell]] = {}
    for cell in claim.exhibit.cells():
        if claim.includes(cell.labels):
            place = _place(claim, cell)
            places.setdefault(place, {})[cell.labels[claim.axis]] = cell
    listed = [
        Planned(pair, place, (by_value[pair[0]], by_value[pair[1]]))
        for place, by_value in places.items()
        for pair in claim.pairs
        if by_value.keys() >= set(pair)
        and not (claim.unseen and _seen(claim.exhibit, *(by_value[value] for value in pair)))
    ]
    by_iterations = sorted(listed, key=lambda one: max(cell.iterations for cell in one.cells))
    counted = {(one.pair, *map(behind, one.cells)): one for one in by_iterations}
    kept = {id(one) for one in counted.values()}
    return [one for one in listed if id(one) in kept]


def _place(claim: Claim, cell: Cell) -> Place:
    return tuple((axis, value) for axis, value in cell.labels.items() if axis != claim.axis)


def _words(labels: Mapping[str, Any]) -> str:
    """A cell in words, without its dataset."""
    axes = [axis for axis in labels if axis != "dataset"]
    return in_words(axes, [labels[axis] for axis in axes])


def _of_cells(
    samples: Callable[[Exhibit], Iterator[Sample]], inner: str, exact: bool = False
) -> Callable[[Claim], Iterator[Compared]]:
    """Pairs of cells of a table.

    Args:
        samples: reads the values of its cells.
        inner: what a synthetic set has several values of, in the plural.
        exact: whether a value is known without error.
    """

    def pairs(claim: Claim) -> Iterator[Compared]:
        known = {
            (_place(claim, sample.cell), sample.cell.labels[claim.axis]): sample
            for sample in samples(claim.exhibit)
            if sample.by_set
        }
        for one in planned(claim):
            keys = [(one.place, value) for value in one.pair]
            if not all(key in known for key in keys):
                continue
            first, second = (known[key] for key in keys)
            published = None
            if first.published is not None and second.published is not None:
                published = first.published - second.published
            yield Compared(
                first.cell.dataset,
                claim.group(dict(one.place), one.pair),
                compare(first.by_set, second.by_set, inner, exact),
                published,
                [Source(_words(s.cell.labels), s.rows, s.files) for s in (first, second)],
                {(one.pair, one.place): (first.diverged, second.diverged)},
            )

    return pairs


def _seen(exhibit: Exhibit, *cells: Cell) -> bool:
    """Whether the network of the cells was used in the distillation of one of them."""
    return any(
        canonical(str(cell.arch)) in seen(exhibit.run, cell.method, cell.dataset, cell.ipc)
        for cell in cells
    )


def _erasings(claim: Claim) -> Iterator[Compared]:
    """Pairs of kinds of erased regions, for each dataset and network; the unit is a test image."""
    run = claim.exhibit.run
    for dataset in claim.exhibit.datasets:
        path = Erasing(dataset).file(run)
        columns = tuple(f"beyond_{kind}" for kind in erased.KINDS)
        rows = {
            (row["network"], row["erased"]): row
            for row in erased.read(path, cam_rectify(run), columns)
        }
        for network in dict.fromkeys(name for name, _ in rows):
            if not claim.includes({"dataset": dataset, "arch": network}):
                continue
            for first, second in claim.pairs:
                one, other = rows[network, first], rows[network, second]
                images = int(one["images"])
                estimate = intervals.of_pairs(
                    int(one[f"beyond_{second}"]), int(other[f"beyond_{first}"]), images
                )
                place = {"dataset": dataset, "arch": network}
                difference = Difference(estimate, IMAGES, 0, (images, images), IMAGES)
                pair = (first, second)
                key = (pair, tuple(place.items()))
                sources = [
                    Source(
                        _words({"arch": network, claim.axis: kind}),
                        f"row network={network}, erased={kind}: beyond_{beyond} of its images",
                        [path],
                    )
                    for kind, beyond in (pair, reversed(pair))
                ]
                yield Compared(
                    dataset, claim.group(place, pair), difference, None, sources, {key: (0, 0)}
                )


def _distillation(cell: Cell) -> tuple[Any, ...]:
    return cell.dataset, cell.method, cell.ipc


def _set(cell: Cell) -> tuple[Any, ...]:
    return *_distillation(cell), cell.iterations


def _evaluated(cell: Cell) -> tuple[Any, ...]:
    return *_set(cell), cell.protocols, cell.arch


def _accuracies(exhibit: Exhibit) -> Iterator[Sample]:
    for cell, row in zip(exhibit.cells(), collect(exhibit), strict=True):
        files = [job.file(exhibit.run) for job in evaluations(cell, exhibit.run)]
        counts = sorted({len(values) for values in row["accuracies"].values()})
        rows = (
            f"rows arch={canonical(str(cell.arch))}, protocol={' or '.join(cell.protocols)}, "
            f"{' or '.join(map(str, counts))} networks of each set"
        )
        rows += f"; {row['note']}" if row["note"] else ""
        yield Sample(cell, row["accuracies"], files, rows, row["published"], row["diverged"])


def _variances(group: str) -> Callable[[Exhibit], Iterator[Sample]]:
    """The variance of the maps of each image, over the networks of ``group``."""

    def samples(exhibit: Exhibit) -> Iterator[Sample]:
        rectify = cam_rectify(exhibit.run)
        for cell in exhibit.cells():
            members = groups(exhibit, cell.dataset).get(group)
            if members is None or not distillations(cell, exhibit.run):
                continue
            files = {
                job.seed: ActivationMaps(Snapshot(job, cell.iterations)).file(exhibit.run)
                for job in distillations(cell, exhibit.run)
            }
            by_set = {
                seed: pooled([path], members, rectify)[0][VARIANCE].tolist()
                for seed, path in files.items()
            }
            rows = f"maps of {', '.join(members)}: {VARIANCE} across them, of each image"
            yield Sample(cell, by_set, list(files.values()), rows)

    return samples


def _memory(exhibit: Exhibit) -> Iterator[Sample]:
    """The peak memory of each distillation: on the GPU, if all of them ran on one."""
    found = []
    for cell in exhibit.cells():
        if exhibit.run.is_imported(cell.dataset, cell.method):
            continue  # nobody says what others' distillations took
        files = {
            job.seed: Snapshot(job, cell.iterations).file(exhibit.run)
            for job in distillations(cell, exhibit.run)
        }
        peaks = {seed: origin(path)["peak_memory_mb"] for seed, path in files.items()}
        found.append((cell, peaks, list(files.values())))
    on_gpu = all("gpu" in one for _, peaks, _ in found for one in peaks.values())
    for cell, peaks, paths in found:
        where = "gpu" if on_gpu else "host"
        by_set = {seed: [float(one[where])] for seed, one in peaks.items()}
        yield Sample(cell, by_set, paths, f"header: provenance.peak_memory_mb.{where}")


_FEW_MAPS = "fewer than two of its networks have maps"

QUANTITIES = {
    "accuracy": Quantity(
        "Difference of test accuracy",
        "points",
        2,
        NO_SET,
        _of_cells(_accuracies, NETWORKS),
        _evaluated,
    ),
    "auxiliary_variance": Quantity(
        "Difference of CAM variance",
        "",
        4,
        _FEW_MAPS,
        _of_cells(_variances(AUXILIARY), IMAGES),
        _set,
    ),
    "unseen_variance": Quantity(
        "Difference of CAM variance",
        "",
        4,
        _FEW_MAPS,
        _of_cells(_variances(UNSEEN), IMAGES),
        _set,
    ),
    "memory": Quantity(
        "Difference of peak memory",
        "MB",
        0,
        "nobody says what the distillations of others took",
        _of_cells(_memory, JOBS, exact=True),
        _distillation,
    ),
    "erased_accuracy": Quantity(
        "Difference of test accuracy", "points", 2, "nothing was erased", _erasings, _evaluated
    ),
}
