"""Figures of a run: they are drawn, not empty, the same each time."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
import yaml
from matplotlib import pyplot
from PIL import Image

from dd.artifacts.text import save_json, save_rows, save_text
from dd.command import main
from dd.data import synthetic
from dd.data.dataset import load_dataset
from dd.data.fit import SAME, Fit
from dd.data.synthetic import SyntheticSet
from dd.plan.jobs import (
    Distillation,
    Evaluation,
    Snapshot,
)
from dd.plan.kinds import kind_of
from dd.plan.plan import Plan
from dd.report.figures import (
    accuracy_curve,
    difference,
    images,
    style,
    training_curves,
    weights,
)
from dd.report.read import accuracies as read
from tests.support.figures import FIGURES, convnet, exhibit_of
from tests.support.runs import FORMULA, assert_no_formulas, every_ipc, with_formulas


@pytest.fixture(scope="module")
def plan(tmp_path_factory, digits, digits_file):
    """The smoke run with made-up evaluations, sets and metrics."""
    results = tmp_path_factory.mktemp("results")
    plan = Plan(every_ipc("smoke", {"results": str(results)}))
    run = plan.run
    save_json(f"{run.root}/config.json", plan.document())
    (results / "smoke" / "data").mkdir()
    (results / "smoke" / "data" / "digits.safetensors").write_bytes(digits_file.read_bytes())
    for job in plan.of(Evaluation):
        archs = job.archs
        value = 20 + len(job.protocol)
        rows = [{"arch": a, "accuracy": value + len(a) + n} for a in archs for n in (0, 1)]
        save_rows(job.file(run), rows)
    header = {"classes": digits.classes, "width_factor": run.width_factor}
    for job in plan.of(Distillation):
        snapshots = job.snapshots
        for iteration in snapshots:
            labels = torch.arange(10).repeat_interleave(job.ipc)
            images = torch.zeros(len(labels), 1, 8, 8)
            made = SyntheticSet(images, labels, *digits.mean_and_std(), header=header)
            if job.method.startswith(("mtt", "iadd")):
                made.extras = extras(job, iteration)
            synthetic.save(Snapshot(job, iteration).file(run), made)
        lines = [json.dumps({"iteration": n, "loss": 5 / n}) for n in range(1, snapshots[-1] + 1)]
        save_text(job.metrics(run), "".join(f"{line}\n" for line in lines))
    return plan


def extras(job: Distillation, iteration: int) -> dict[str, torch.Tensor]:
    """Differences, and weights where the method learns them, drawn at random."""
    draw = torch.Generator().manual_seed(iteration + job.ipc + len(job.method))
    count = sum(p.numel() for p in convnet(0.125).parameters())
    found = {"difference.convnet": torch.rand(count, generator=draw)}
    if job.method.startswith("iadd"):
        found["importance.convnet"] = 0.5 + torch.rand(count, generator=draw)
    return found


def draw(plan: Plan, name: str, out: Path) -> None:
    config, figure = f"{plan.run.root}/config.json", str(FIGURES / f"{name}.yaml")
    assert main(["figure", "--config", config, "--figure", figure, "--out", str(out)]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["modelpool_temperature", "modelpool_images", "modelpool_ablation"]
)
def test_figures_are_drawn_and_the_same_each_time(plan, tmp_path, name):
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    draw(plan, name, first)
    draw(plan, name, second)
    pixels = numpy.asarray(Image.open(first).convert("L"))
    assert pixels.shape[0] > 500 and pixels.shape[1] > 1000
    assert pixels.min() < 60 and pixels.max() == 255
    assert first.read_bytes() == second.read_bytes()
    document = first.with_suffix(".pdf").read_bytes()
    assert document.startswith(b"%PDF") and len(document) > 5000
    assert document == second.with_suffix(".pdf").read_bytes()
    assert b"CreationDate" not in document


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "iadd_parameter_difference",
        "iadd_images",
        "iadd_weights",
        "iadd_covid_images",
        "iadd_curves",
    ],
)
def test_figures_of_iadd_are_drawn(plan, tmp_path, name):
    draw(plan, name, tmp_path / "figure.png")
    pixels = numpy.asarray(Image.open(tmp_path / "figure.png").convert("L"))
    assert pixels.shape[0] > 500 and pixels.shape[1] > 1000
    assert pixels.min() < 60 and pixels.max() == 255
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("modelpool_temperature", [f"{FORMULA}paper", f"{FORMULA}released"]),
        ("modelpool_ablation", [f"{FORMULA}pool", f"Setting{FORMULA}"]),
        ("modelpool_images", [f"{FORMULA}pool", f"{FORMULA} class 7"]),
        ("iadd_images", [f"{FORMULA}iadd", f"{FORMULA} class 7"]),
        ("iadd_curves", [f"{FORMULA}iadd"]),
        ("iadd_parameter_difference", [f"{FORMULA}iadd", f"relative\nto {FORMULA}mtt"]),
        ("iadd_weights", [f"{FORMULA}raw"]),
    ],
)
def test_dollars_are_drawn_as_they_are(plan, tmp_path, monkeypatch, name, shown):
    read = load_dataset

    def load(*given, **more):
        data = read(*given, **more)
        return replace(data, classes=[f"{FORMULA} class {name}" for name in data.classes])

    monkeypatch.setattr(images, "load_dataset", load)
    monkeypatch.setattr(images, "fit", lambda made, _: Fit(made, [], SAME))  # of other names
    exhibit = with_formulas(exhibit_of(plan, name))
    always = [f"title {FORMULA}", f"caption {FORMULA}", f"_digits (scikit-learn, 8x8) {FORMULA}"]
    assert_no_formulas(kind_of(exhibit).render(exhibit), [*always, *shown], tmp_path / "figure.png")


def test_an_empty_panel_hands_its_labels_on():
    """To those of its row and column that have data: they show numbers and labels through it."""
    figure, panels = pyplot.subplots(2, 2, sharex=True, sharey="row")
    for panel in (panels[0, 0], panels[0, 1], panels[1, 1]):
        panel.plot([0, 1], [2, 3])
    for row in panels:
        row[0].set_ylabel("up")
    for panel in panels[1]:
        panel.set_xlabel("along")
    style._empty(panels[1, 0])
    labels = [[(p.get_xlabel(), p.get_ylabel()) for p in row if p.axison] for row in panels]
    assert labels == [[("along", "up"), ("", "")], [("along", "up")]]
    assert panels[0, 0].xaxis.get_tick_params()["labelbottom"]
    assert panels[1, 1].yaxis.get_tick_params()["labelleft"]
    pyplot.close(figure)


def test_a_facet_of_a_curve_without_values_says_so(plan, monkeypatch):
    def collect(exhibit):
        rows = read.collect(exhibit)
        return [row | {"n": 0} if row["ipc"] == 10 else row for row in rows]

    monkeypatch.setattr(accuracy_curve, "collect", collect)
    figure = accuracy_curve.draw(exhibit_of(plan, "modelpool_temperature"))
    said = {panel.get_title(): [text.get_text() for text in panel.texts] for panel in figure.axes}
    assert (
        {title for title, texts in said.items() if texts == ["no data"]}
        == {title for title in said if "IPC 10" in title}
        != set()
    )
    pyplot.close(figure)


def test_labels_with_an_underscore_are_in_the_legend(plan):
    """matplotlib makes none of what starts with one."""
    exhibit = with_formulas(exhibit_of(plan, "iadd_parameter_difference"))
    others = [axis for axis in exhibit.axes if axis not in ("dataset", "ipc")]
    exhibit.definition["layout"] = {"color": ["dataset"], "column": ["ipc"], "row": others}
    for panel in difference.draw(exhibit).axes[:2]:
        (label, *_) = [text.get_text().strip() for text in panel.get_legend().get_texts()]
        assert label.startswith("_digits")


def test_every_set_is_shown_in_pixels(plan, tmp_path):
    """The same images, all stored without whitening or every second set with it, look the same."""
    drawn = []
    for spaces in (("none",), ("none", "zca")):
        root = tmp_path / "-".join(spaces) / "smoke"
        shutil.copytree(plan.run.root, root)
        out = tmp_path / f"{len(spaces)}.png"
        data = root / "data" / "digits+zca.safetensors"
        assert main(["prepare", "--source", "digits", "--zca", "--out", str(data)]) == 0
        plain = data.with_name("digits.safetensors")
        assert main(["prepare", "--source", "digits", "--out", str(plain)]) == 0
        for n, path in enumerate(sorted((root / "distilled").rglob("it*.safetensors"))):
            space = spaces[n % len(spaces)]
            train = load_dataset(data, whitening=space).train
            images = train.take(torch.stack([indices[0] for indices in train.by_class]))
            made = SyntheticSet(images, torch.arange(10), header={"whitening": space})
            synthetic.save(path, made)
        command = ["figure", "--config", str(root / "config.json"), "--out", str(out)]
        assert main([*command, "--figure", str(FIGURES / "modelpool_images.yaml")]) == 0
        drawn.append(numpy.asarray(Image.open(out).convert("L")).astype(int))
    assert numpy.abs(drawn[0] - drawn[1]).max() <= 2


def test_images_per_class_are_shown(plan):
    """IPC 1: a row for each of three methods; IPC 10: a exhibit of 10 x 10 tiles for each."""
    figure = images.draw(exhibit_of(plan, "iadd_images"))
    sizes = [panel.get_images()[0].get_array().shape[:2] for panel in figure.axes]
    assert sizes == [(3 * 10, 10 * 10), *[(10 * 10, 10 * 10)] * 3]
    assert [panel.get_xticklabels()[0].get_text() for panel in figure.axes] == [
        "0", "Random", "MTT", "IADD",
    ]  # fmt: skip


def test_a_caption_says_once_of_what_and_of_which_set_images_are(plan):
    named = exhibit_of(plan, "modelpool_images")
    layout = {**named.definition["layout"], "block": ["iterations"]}
    exhibit = replace(named, definition={**named.definition, "layout": layout})
    caption = images.draw(exhibit).texts[-1].get_text().replace("\n", " ")
    (label,) = [options["label"] for options in exhibit.datasets.values()]
    assert caption.count(label) == 1 and "digits, " not in caption
    several = replace(exhibit, run=replace(plan.run, seeds=[0, 1, 2]))
    drawn = images.draw(several).texts[-1].get_text().replace("\n", " ")
    assert "Of 3 synthetic sets, that of seed 0." in drawn and "of seed" not in caption


def test_differences_are_drawn_sorted_and_weighted(plan):
    figure = difference.draw(exhibit_of(plan, "iadd_parameter_difference"))
    panel = figure.axes[0]  # IPC 1, above
    mtt, iadd = (extras(Distillation("digits", spec, 1, 0), 60) for spec in ("mtt", "iadd"))
    plain = [made["difference.convnet"] for made in (mtt, iadd)]
    expected = [*plain, plain[1] * iadd["importance.convnet"]]
    assert len(panel.lines) == len(figure.axes[2].lines) == 3
    for line, values in zip(panel.lines, expected, strict=True):
        highest, *_, lowest = sorted(values.tolist(), reverse=True)
        assert line.get_ydata()[[0, -1]] == pytest.approx([highest, lowest])
        half = float(numpy.interp(50, *line.get_data()))
        assert half == pytest.approx(float(values.median()), rel=0.02)
    said = [text.get_text() for text in panel.get_legend().get_texts()]
    values = [f"{float(v.square().mean().sqrt()):.3g}" for v in expected]
    assert said == [f"MTT: {values[0]}", f"IADD: {values[1]}", f"IADD, weighted: {values[2]}"]
    below = figure.axes[2].lines  # multiples of MTT's
    assert below[0].get_ydata() == pytest.approx(1)
    at = numpy.interp(50, *below[2].get_data())
    assert at == pytest.approx(float(expected[2].median() / expected[0].median()), rel=0.04)


def test_quantiles_of_weights_are_drawn(plan):
    figure = weights.draw(exhibit_of(plan, "iadd_weights"))
    upper, lower = figure.axes[0], figure.axes[3]  # IPC 1, normalised; three columns
    course = [
        extras(Distillation("digits", "iadd", 1, 0), n)["importance.convnet"] for n in (20, 60)
    ]
    (line,) = [line for line in lower.lines if line.get_marker() == "o"]
    assert line.get_xdata().tolist() == [0, 20, 60]
    expected = [1, *(float(values.quantile(0.5)) for values in course)]
    assert line.get_ydata() == pytest.approx(expected, rel=1e-5)
    wide, narrow = (band.get_paths()[0].vertices for band in lower.collections)
    for vertices, share in ((wide, 0.05), (narrow, 0.25)):
        last = vertices[vertices[:, 0] == 60, 1]
        ends = [float(course[-1].quantile(q)) for q in (share, 1 - share)]
        assert [last.min(), last.max()] == pytest.approx(ends, rel=1e-5)
    boxes = [line.get_ydata()[0] for line in upper.lines if line.get_linewidth() == 1.6]
    assert len(boxes) == 6  # medians, the first of the convolution's weights
    assert boxes[0] == pytest.approx(numpy.median(course[-1][: 16 * 9]))
    assert upper.get_xticklabels()[0].get_text() == "conv weight"


def test_diverged_networks_have_a_cross_on_the_course(plan, monkeypatch):
    read = training_curves.collect

    def collect(exhibit):
        return [row | {"diverged": int(n == 1)} for n, row in enumerate(read(exhibit))]

    monkeypatch.setattr(training_curves, "collect", collect)
    figure = training_curves.draw(exhibit_of(plan, "iadd_curves"))
    lines = [line for panel in figure.axes for line in panel.lines if line.get_marker() == "x"]
    assert [line.get_xydata().tolist() for line in lines] == [[[60, 31.5]]]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[-1] == "networks diverged"


def test_losses_and_accuracies_are_drawn(plan):
    figure = training_curves.draw(exhibit_of(plan, "iadd_curves"))
    above, below = figure.axes[0], figure.axes[2]  # IPC 1; two columns
    raw, smooth = above.lines[:2]
    losses = numpy.array([5 / n for n in range(1, 61)])
    assert raw.get_ydata() == pytest.approx(losses)
    # of falling losses the median is the middle one, or the mean of two: 3, 4, 5 from an end
    ends = losses[1:3].mean(), losses[-3:-1].mean()
    expected = [losses[1], ends[0], *losses[2:-2], ends[1], losses[-2]]
    assert smooth.get_ydata() == pytest.approx(expected)
    # accuracies 20 + 4 letters of "hard" + 7 of "convnet" + network 0 or 1
    assert list(below.lines[0].get_xdata()) == [20, 60]
    assert below.lines[0].get_ydata().tolist() == [31.5, 31.5]
    band = below.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((31.5 - 0.5**0.5, 31.5 + 0.5**0.5))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("iadd_images", {"images_per_class": 0}, "images_per_class is 0, it must be at least 1"),
        ("iadd_images", {"kind": "image"}, "unknown value of kind 'image': did you mean 'images'?"),
        ("iadd_curves", {"layout": {"x": ["ipc"], "color": ["method"], "column": ["iterations"],
                                    "row": ["dataset"]}}, "layout: x must be [iterations]"),
        ("iadd_weights", {"layout": {"x": ["ipc"], "column": ["weights", "iterations"],
                                     "row": ["dataset"]}}, "layout: x must be [iterations]"),
        ("iadd_parameter_difference", {"layout": {"color": ["method"], "row": ["dataset"]}},
         "layout has no 'column'; it needs color, column, row"),
        ("iadd_parameter_difference",
         {"axes": {"ipc": [1], "method": {"random": {"method": "random"}}}},
         "has no 'difference.<network>', which sets of mtt and iadd have"),
    ],
)  # fmt: skip
def test_definitions_that_cannot_be_drawn(plan, tmp_path, capsys, name, change, message):
    definition = yaml.safe_load((FIGURES / f"{name}.yaml").read_text(encoding="utf-8")) | change
    path = tmp_path / "figure.yaml"
    path.write_text(yaml.safe_dump(definition))
    config, out = f"{plan.run.root}/config.json", tmp_path / "out.png"
    command = ["figure", "--config", config, "--figure", str(path), "--out", str(out)]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and not out.exists()
