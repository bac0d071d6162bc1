"""Class folders without a split: how they are split here, and what groups keep together."""

from __future__ import annotations

import csv
import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from dd.data import layouts
from dd.data.sources import SOURCES, SourceOptions
from dd.data.split import stratified_groups
from dd.errors import DDError
from dd.rng import generator
from tests.support.pictures import append, picture, refused


@pytest.fixture
def patients(tmp_path):
    """Two classes of ten images, with masks beside one; ``groups.csv`` has two images a patient."""
    root = tmp_path / "radiographs"
    rows = ["file,group,age\n"]
    for label, (name, folder) in enumerate((("sick", "images"), ("healthy", "."))):
        for k in range(10):
            picture(root / name / folder / f"{name}-{k}.png", "L", seed=10 * label + k)
            relative = f"{name}-{k}.png" if k % 2 else f"sick/images/sick-{k}.png"
            relative = relative if label == 0 else f"healthy/healthy-{k}.png"
            rows.append(f"{relative},{name}{k // 2},{k}\n")
        picture(root / "sick" / "masks" / f"sick-{label}.png", "L")
    (root / "README.txt").write_text("no class")
    (tmp_path / "groups.csv").write_text("".join(rows))
    return root


def rows_of(images):
    return {image.numpy().tobytes() for image in images}


def test_class_folders_are_split_by_class(patients):
    options = SourceOptions(root=patients, test_share=0.3)
    raw = SOURCES["class-folders"](options)
    assert (raw.name, raw.classes) == ("radiographs", ["healthy", "sick"])
    assert raw.train_labels.tolist() == [0] * 7 + [1] * 7
    assert raw.test_labels.tolist() == [0] * 3 + [1] * 3
    everything = {
        np.asarray(Image.open(path)).tobytes()
        for path in patients.rglob("*.png")
        if path.parent.name != "masks"
    }
    train, test = rows_of(raw.train_images), rows_of(raw.test_images)
    assert len(train) == 14 and len(test) == 6 and train | test == everything
    again = SOURCES["class-folders"](options)
    assert torch.equal(again.test_images, raw.test_images)
    other = SOURCES["class-folders"](dataclasses.replace(options, split_seed=1))
    assert rows_of(other.test_images) != test


def test_groups_stay_together(patients, tmp_path):
    listing = layouts.class_folders(patients, 0.2, generator(3), tmp_path / "groups.csv")
    for files, count in ((listing.train, 8), (listing.test, 2)):
        assert [len(found) for found in files] == [count, count]
    for found in (*listing.train, *listing.test):
        numbers = [int(path.stem.split("-")[1]) for path in found]
        assert sorted({n // 2 * 2 + k for n in numbers for k in range(2)}) == numbers


def test_split_of_lone_images_is_rounded_and_random():
    classes = ["a", "b", "c"]
    labels = [0] * 10 + [1] * 13 + [2] * 2
    chosen = set()
    for seed in range(20):
        tested = stratified_groups(labels, range(25), classes, 0.2, generator(seed))
        # 10 * 0.2 = 2; 13 * 0.2 = 2.6, rounded 3; 2 * 0.2 = 0.4, rounded 0, but one is needed
        assert [
            sum(t for t, k in zip(tested, labels, strict=True) if k == c) for c in range(3)
        ] == [
            2,
            3,
            1,
        ]
        chosen |= {n for n, test in enumerate(tested) if test}
    assert chosen == set(range(25))


def test_split_keeps_something_to_train_on():
    for seed in range(10):
        tested = stratified_groups([0, 0, 1, 1], "abcd", ["a", "b"], 0.9, generator(seed))
        assert sorted(tested[:2]) == sorted(tested[2:]) == [False, True]


def test_split_of_groups_across_classes():
    """Groups of 1 to 6 images of up to three classes: near the share in every class."""
    draw = np.random.default_rng(0)
    groups = np.repeat(np.arange(300), draw.integers(1, 7, 300))
    labels = (groups + draw.integers(0, 2, len(groups))) % 3
    tested = np.array(
        stratified_groups(labels.tolist(), groups.tolist(), list("abc"), 0.25, generator(0))
    )
    assert not set(groups[tested]) & set(groups[~tested])
    for k in range(3):
        assert tested[labels == k].mean() == pytest.approx(0.25, abs=0.02)


def group_rows(change):
    """A fault of ``groups.csv``: ``change`` maps its rows to others."""

    def spoil(root):
        path = root.parent / "groups.csv"
        rows = [line.split(",") for line in path.read_text().splitlines()]
        path.write_text("\n".join(",".join(row) for row in change(rows)))

    return spoil


def twin(root):
    """Another image with the name of one that ``groups.csv`` names by its name alone."""
    picture(root / "healthy" / "sick-1.png", "L")
    append(root.parent / "groups.csv", "healthy/sick-1.png,healthy9,1\n")


GROUP_FAULTS = {
    "no column": (
        group_rows(lambda rows: [[w.replace("group", "patient") for w in row] for row in rows]),
        "no column 'group' (its columns are file, patient, age)",
    ),
    "no row": (group_rows(lambda rows: rows[:-1]), "'healthy/healthy-9.png' has no group (1 such)"),
    "no group": (
        group_rows(lambda rows: [*rows[:-1], [rows[-1][0], "", ""]]),
        "'healthy/healthy-9.png' has no group",
    ),
    "unknown file": (
        group_rows(lambda rows: [*rows, ["masks/sick-0.png", "sick0", "1"]]),
        "row 21: 'masks/sick-0.png' is no image of",
    ),
    "there twice": (
        group_rows(lambda rows: [*rows, ["healthy-9.png", "sick0", "1"]]),
        "row 21: 'healthy-9.png' is there twice",
    ),
    "ambiguous": (twin, "row 2: 2 images are called 'sick-1.png'; give the path relative to"),
    "one group a class": (
        group_rows(lambda rows: [rows[0], *([row[0], row[1][:4], ""] for row in rows[1:])]),
        "class 'healthy' cannot be in both splits: all its images are in the group 'heal'",
    ),
    "missing": (lambda root: (root.parent / "groups.csv").unlink(), "groups.csv: no such file"),
}


@pytest.mark.parametrize("case", GROUP_FAULTS)
def test_bad_groups_are_one_line(case, patients, tmp_path, capsys):
    spoil, expected = GROUP_FAULTS[case]
    spoil(patients)
    source = ("--source", "class-folders", "--root", patients)
    refused(capsys, tmp_path, expected, *source, "--groups", tmp_path / "groups.csv")


def single_image(root):
    picture(root / "rare" / "0.png", "L")
    return "class 'rare' cannot be in both splits: it has a single image"


def images_in_both(root):
    picture(root / "sick" / "0.png", "L")
    return "class 'sick' has images both directly in it and in 'images'"


def masks_only(root):
    (root / "sick" / "images").rename(root / "sick" / "pictures")
    return "class 'sick' has no image"


@pytest.mark.parametrize("spoil", [single_image, images_in_both, masks_only])
def test_bad_class_folders_are_one_line(spoil, patients, tmp_path, capsys):
    expected = spoil(patients)
    refused(capsys, tmp_path, expected, "--source", "class-folders", "--root", patients)


def test_split_that_groups_do_not_allow():
    """Three classes, each two of which share a group: two classes are served, none is left."""
    labels, groups = [0, 0, 1, 1, 2, 2], [1, 2, 1, 3, 2, 3]
    with pytest.raises(DDError, match="gets no test image: each of its groups"):
        stratified_groups(labels, groups, ["a", "b", "c"], 0.2, generator(0))


def test_real_patients_stay_in_one_split(real_images, tmp_path):
    """Chest X-rays of both splits brought together and split anew, by patient."""
    source = real_images / "covid_cxr"
    with open(source / "sources.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with open(tmp_path / "groups.csv", "w", encoding="utf-8") as file:
        file.write("file,group\n")
        for row in rows:
            folder = tmp_path / "x" / row["class"] / "images"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / row["file"]).symlink_to(source / row["split"] / row["class"] / row["file"])
            file.write(f'{row["file"]},"{row["patient"]}"\n')
    listing = layouts.class_folders(tmp_path / "x", 0.2, generator(0), tmp_path / "groups.csv")
    assert listing.classes == ["covid19", "normal", "pneumonia"]
    patient = {row["file"]: row["patient"] for row in rows}
    train, test = (
        {patient[p.name] for f in part for p in f} for part in (listing.train, listing.test)
    )
    assert train and test and not train & test
    for trained, tested in zip(listing.train, listing.test, strict=True):
        assert len(tested) / (len(trained) + len(tested)) == pytest.approx(0.2, abs=0.01)
