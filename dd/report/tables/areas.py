"""The area of images at which all networks look, and the variance of their maps (MetaDD)."""

from __future__ import annotations

from typing import Any

from dd.plan.exhibits import Exhibit
from dd.plan.jobs import ActivationMaps, Snapshot, distillations
from dd.plan.needs import cam_rectify
from dd.report.captions import facts, number_of_sets, warnings
from dd.report.labels import axis_label, value_label
from dd.report.read.maps import HETEROGENEOUS, META, VARIANCE, convention, groups, pooled
from dd.report.read.places import labels
from dd.report.sheet import Sheet, Text
from dd.report.tables.pivot import Rows, arranged, headings, place_labels, rounded

MEASURES = {
    META: ("Meta region (% of area)", ".1f"),
    HETEROGENEOUS: ("Heterogeneous (% of area)", ".1f"),
    VARIANCE: ("CAM variance", ".4f"),
}


def areas(exhibit: Exhibit) -> tuple[Rows, Sheet]:
    """One tidy row per cell and group of networks.

    The sheet has a column for each measure and each combination of the definition's ``columns``.
    """
    rows: Rows = []
    thresholds: set[float] = set()
    shown: set[int] = set()
    for cell in exhibit.cells():
        files = [
            ActivationMaps(Snapshot(job, cell.iterations)).file(exhibit.run)
            for job in distillations(cell, exhibit.run)
        ]
        if not files:  # others did not publish the set
            continue
        for group, members in groups(exhibit, cell.dataset).items():
            values, threshold, part = pooled(files, members, cam_rectify(exhibit.run))
            thresholds.add(threshold)
            shown |= part
            row: dict[str, Any] = {**labels(exhibit, cell), "networks": group}
            row["members"] = " ".join(members)
            for name, by_image in values.items():
                row[name] = by_image.mean().item()
                row[f"{name}_std"] = by_image.std(ddof=1).item() if len(by_image) > 1 else None
            of_maps = {"rectify": cam_rectify(exhibit.run), "threshold": threshold}
            rows.append(row | {"images": len(by_image), **of_maps})
    down, across = [*exhibit.definition["rows"], "networks"], exhibit.definition["columns"]
    columns, body = arranged(
        {
            (place_labels(row, down), (heading, *place_labels(row, across))): Text(
                _shown(row, name, form)
            )
            for name, (heading, form) in MEASURES.items()
            for row in rows
        },
        [
            (heading, *at)
            for heading, _ in MEASURES.values()
            for at in headings(exhibit, across, rows)
        ],
    )
    least = " or ".join(f"{value:g}" for value in sorted(thresholds))
    looks = f"A network looks where its normalised map is at least {least}."
    sheet = Sheet(
        name=exhibit.name,
        title=exhibit.definition["title"],
        caption=" ".join(
            [exhibit.definition["caption"], looks, compared(exhibit, shown), facts(exhibit, [])]
        ),
        header=[*map(axis_label, down), *(", ".join(column) for column in columns)],
        body=body,
        keys=len(down),
        notes=warnings(exhibit),
    )
    percent = [f"{name}{end}" for name in (META, HETEROGENEOUS) for end in ("", "_std")]
    return [rounded(row, points=percent) for row in rows], sheet


def compared(exhibit: Exhibit, shown: set[int]) -> str:
    """The sentences of a caption about measures of maps: convention, networks, images and sets.

    Args:
        exhibit: the table or figure.
        shown: numbers of images of each class that have maps, of sets that have more.
    """
    datasets_of: dict[str, list[str]] = {}
    for dataset, options in exhibit.datasets.items():
        for group, members in groups(exhibit, dataset).items():
            names = ", ".join(value_label("arch", name) for name in members)
            sentence = f"{group.capitalize()} networks{{where}}: {names}."
            datasets_of.setdefault(sentence, []).append(options["label"])
    sentences = [
        text.format(where="" if len(of) == len(exhibit.datasets) else f" on {' and '.join(of)}")
        for text, of in datasets_of.items()
    ]
    over = f"Mean and standard deviation are over the images of {number_of_sets(exhibit)}."
    sentences = [convention(exhibit), *sentences, over]
    if shown:
        first = " or ".join(map(str, sorted(shown)))
        sentences.append(f"Of sets with more images of a class, maps are of its first {first}.")
    return " ".join(sentences)


def _shown(row: dict[str, Any], name: str, form: str) -> str:
    text = f"{row[name]:{form}}"
    return text if row[f"{name}_std"] is None else f"{text} ± {row[f'{name}_std']:{form}}"
