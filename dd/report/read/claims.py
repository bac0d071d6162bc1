"""What a run has to say about a claim: the differences that the claim is about, cell by cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from dd.networks.options import canonical
from dd.plan.claims import PAIRS, Claim
from dd.plan.exhibits import Cell, Exhibit
from dd.plan.jobs import ActivationMaps, Erasing, Snapshot, distillations, evaluations
from dd.plan.needs import cam_rectify, seen
from dd.report import intervals
from dd.report.compare import Difference, average, compare
from dd.report.read import erased
from dd.report.read.accuracies import BySet, collect
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
        files: the files that hold the values.
    """

    cell: Cell
    by_set: BySet
    files: Sequence[str]
    published: float | None = None


@dataclass(frozen=True)
class Compared:
    """Two compared cells, or several such pairs that are judged by their mean difference.

    Attributes:
        dataset: the name of the dataset.
        place: the axes that identify it, the pair of compared values among them.
        difference: the first minus the second.
        published: the same of the published values; None unless all cells have one.
        files: the files that hold the values.
    """

    dataset: str
    place: Mapping[str, Any]
    difference: Difference
    published: float | None
    files: Sequence[str]


@dataclass(frozen=True)
class Quantity:
    """What a claim may be about.

    Attributes:
        label: a difference of it, for figures.
        unit: of a difference; "" if it has none.
        digits: shown after the point.
        pairs: the pairs of cells of a claim.
    """

    label: str
    unit: str
    digits: int
    pairs: Callable[[Claim], Iterator[Compared]]


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
        list(dict.fromkeys(file for pair in members for file in pair.files)),
    )


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
        places: dict[tuple[Any, ...], dict[Any, Sample]] = {}
        for sample in samples(claim.exhibit):
            labels = sample.cell.labels
            if claim.includes(labels) and sample.by_set:
                place = tuple((a, v) for a, v in labels.items() if a != claim.axis)
                places.setdefault(place, {})[labels[claim.axis]] = sample
        for place, by_value in places.items():
            for pair in claim.pairs:
                if not all(value in by_value for value in pair):
                    continue
                first, second = (by_value[value] for value in pair)
                if claim.unseen and _seen(claim.exhibit, first.cell, second.cell):
                    continue
                published = None
                if first.published is not None and second.published is not None:
                    published = first.published - second.published
                yield Compared(
                    first.cell.dataset,
                    claim.group(dict(place), pair),
                    compare(first.by_set, second.by_set, inner, exact),
                    published,
                    [*first.files, *second.files],
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
                difference = Difference(estimate, IMAGES, 0, images, IMAGES)
                yield Compared(
                    dataset, claim.group(place, (first, second)), difference, None, [path]
                )


def _accuracies(exhibit: Exhibit) -> Iterator[Sample]:
    for cell, row in zip(exhibit.cells(), collect(exhibit), strict=True):
        files = [job.file(exhibit.run) for job in evaluations(cell, exhibit.run)]
        yield Sample(cell, row["accuracies"], files, row["published"])


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
            yield Sample(cell, by_set, list(files.values()))

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
        yield Sample(cell, {seed: [float(one[where])] for seed, one in peaks.items()}, paths)


QUANTITIES = {
    "accuracy": Quantity(
        "Difference of test accuracy", "points", 2, _of_cells(_accuracies, NETWORKS)
    ),
    "auxiliary_variance": Quantity(
        "Difference of CAM variance", "", 4, _of_cells(_variances(AUXILIARY), IMAGES)
    ),
    "unseen_variance": Quantity(
        "Difference of CAM variance", "", 4, _of_cells(_variances(UNSEEN), IMAGES)
    ),
    "memory": Quantity("Difference of peak memory", "MB", 0, _of_cells(_memory, JOBS, exact=True)),
    "erased_accuracy": Quantity("Difference of test accuracy", "points", 2, _erasings),
}
