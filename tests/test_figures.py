"""Figures: they are drawn, not empty, the same each time, and show what the files hold."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
import yaml
from matplotlib.container import ErrorbarContainer
from PIL import Image
from runs import FORMULA, assert_no_formulas, every_ipc, with_formulas

from dd.__main__ import main
from dd.artifacts.text import save_json, save_rows, save_text
from dd.config.run import load_run
from dd.data import synthetic
from dd.data.dataset import load_dataset
from dd.data.synthetic import SyntheticSet
from dd.errors import DDError
from dd.networks.build import create
from dd.plan.exhibits import Exhibit, load_exhibit
from dd.plan.jobs import (
    Distillation,
    Evaluation,
    Snapshot,
)
from dd.plan.kinds import kind_of
from dd.plan.plan import Plan
from dd.report.figure import check_layout
from dd.report.figures import accuracy_curve, bars, difference, images, training_curves, weights
from dd.report.figures.bars import _offset
from dd.report.figures.images import joined, tiles
from dd.report.read.metrics import read_metric

FIGURES = Path("workflow/config/figures")


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


def convnet(width_factor: float) -> torch.nn.Module:
    return create("convnet", 1, (8, 8), 10, generator=None, width_factor=width_factor)


def extras(job: Distillation, iteration: int) -> dict[str, torch.Tensor]:
    """Differences, and weights where the method learns them, drawn at random."""
    draw = torch.Generator().manual_seed(iteration + job.ipc + len(job.method))
    count = sum(p.numel() for p in convnet(0.125).parameters())
    found = {"difference.convnet": torch.rand(count, generator=draw)}
    if job.method.startswith("iadd"):
        found["importance.convnet"] = 0.5 + torch.rand(count, generator=draw)
    return found


def exhibit_of(plan: Plan, name: str) -> Exhibit:
    return load_exhibit("figure", FIGURES / f"{name}.yaml", plan.run)


def draw(plan: Plan, name: str, out: Path) -> None:
    config, figure = f"{plan.run.root}/config.json", str(FIGURES / f"{name}.yaml")
    assert main(["figure", "--config", config, "--figure", figure, "--out", str(out)]) == 0


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
    exhibit = with_formulas(exhibit_of(plan, name))
    always = [f"title {FORMULA}", f"caption {FORMULA}", f"_digits (scikit-learn, 8x8) {FORMULA}"]
    assert_no_formulas(kind_of(exhibit).render(exhibit), [*always, *shown], tmp_path / "figure.png")


def test_labels_with_an_underscore_are_in_the_legend(plan):
    """matplotlib makes none of what starts with one."""
    exhibit = with_formulas(exhibit_of(plan, "iadd_parameter_difference"))
    others = [axis for axis in exhibit.axes if axis not in ("dataset", "ipc")]
    exhibit.definition["layout"] = {"color": ["dataset"], "column": ["ipc"], "row": others}
    for panel in difference.draw(exhibit).axes[:2]:
        (label, *_) = [text.get_text().strip() for text in panel.get_legend().get_texts()]
        assert label.startswith("_digits")


def test_tiles_show_true_pixels(tmp_path, digits):
    """Image n of class k is grey (k + n / 2) / 10: after normalisation and back it is tile k, n."""
    labels = torch.arange(10).repeat(2)
    grey = (labels + torch.arange(20) // 10 / 2).view(20, 1, 1, 1).expand(20, 1, 8, 8) / 10
    images = (grey - digits.space.mean) / digits.space.std
    path = tmp_path / "set.safetensors"
    synthetic.save(
        path, SyntheticSet(images.contiguous(), labels, digits.space.mean, digits.space.std)
    )
    shown = tiles(str(path), digits, 2)
    assert shown.shape == (10, 2, 10, 10, 3)
    for k in range(10):
        for n in range(2):
            assert numpy.allclose(shown[k, n, 1:9, 1:9], (k + n / 2) / 10, atol=1e-5)
    assert (shown[:, :, 0] == 1).all() and (shown[:, :, :, -1] == 1).all()
    assert tiles(str(path), digits, 7).shape == shown.shape  # it has no more
    assert numpy.array_equal(tiles(str(path), digits, 1)[:, 0], shown[:, 0])


def test_every_set_is_shown_in_pixels(plan, tmp_path):
    """The same images, all stored without whitening or every second set with it, look the same."""
    drawn = []
    for spaces in (("none",), ("none", "zca")):
        root = tmp_path / "-".join(spaces) / "smoke"
        shutil.copytree(plan.run.root, root)
        data, out = root / "data" / "digits.safetensors", tmp_path / f"{len(spaces)}.png"
        assert main(["prepare", "--source", "digits", "--zca", "--out", str(data)]) == 0
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


def test_a_missing_class_is_named(tmp_path, digits):
    path = tmp_path / "set.safetensors"
    synthetic.save(path, SyntheticSet(torch.zeros(1, 1, 8, 8), torch.tensor([3])))
    with pytest.raises(DDError, match="has no image of class '0'"):
        tiles(str(path), digits, 1)


def test_layout_must_place_every_axis(plan):
    exhibit = load_exhibit("figure", FIGURES / "modelpool_ablation.yaml", plan.run)
    layout = {part: axes for part, axes in exhibit.definition["layout"].items() if part != "row"}
    exhibit.definition["layout"] = layout
    with pytest.raises(DDError, match="layout has no 'row'"):
        check_layout(exhibit, ("x", "row"))
    with pytest.raises(DDError, match="axis 'ipc' has several values but no part in layout"):
        check_layout(exhibit, ("x",))


def test_markers_stand_on_their_bars():
    # four bars of a group 0.8 wide: each 0.2, centred at -0.3, -0.1, 0.1, 0.3
    assert [round(_offset(i, 4), 6) for i in range(4)] == [-0.3, -0.1, 0.1, 0.3]
    assert _offset(0, 1) == 0


@pytest.fixture(scope="module")
def comparable(tmp_path_factory):
    """The run on CIFAR-10, which published values stand beside, with made-up evaluations."""
    plan = Plan(load_run("cifar10", {"results": str(tmp_path_factory.mktemp("cifar10"))}))
    save_json(f"{plan.run.root}/config.json", plan.document())
    for job in plan.of(Evaluation):
        archs = job.archs
        rows = [{"arch": a, "accuracy": 20 + n} for a in archs for n in range(plan.run.networks)]
        save_rows(job.file(plan.run), rows)
    return plan


def marked(panel) -> dict[tuple[float, float], tuple[float, float]]:
    """What the published markers of a panel show: the ends of the error bar by place."""
    found = {}
    for container in panel.containers:
        if isinstance(container, ErrorbarContainer):
            line, _, (spread,) = container.lines
            for place, ends in zip(line.get_xydata(), spread.get_segments(), strict=True):
                found[tuple(place)] = tuple(ends[:, 1])
    return found


def published(name: str, **place) -> dict[tuple[str, ...], tuple[float, float]]:
    """Accuracy and std of the rows of a reference file at ``place``, by the other axes."""
    with open(f"workflow/reference/{name}.csv", newline="", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if all(r[a] == v for a, v in place.items())]
    others = [a for a in ("arch", "temperature") if a not in place and a in rows[0]]
    return {
        tuple(row[a] for a in others): (float(row["accuracy"]), float(row["std"] or 0))
        for row in rows
    }


def test_the_authors_sweep_stands_beside_the_curve_of_the_pool(comparable):
    figure = accuracy_curve.draw(exhibit_of(comparable, "modelpool_temperature"))
    titles = [panel.get_title() for panel in figure.axes]
    assert titles == ["baseline, IPC 1", "baseline, IPC 10", "pool, IPC 1", "pool, IPC 10"]
    shown = [marked(panel) for panel in figure.axes]
    assert shown[0] == shown[1] == {}
    taus = [t.get_text() for t in figure.axes[2].get_xticklabels()]
    assert [float(tau) for tau in taus] == [0, 0.05, 0.1, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 8, 10]
    for found, ipc in ((shown[2], "1"), (shown[3], "10")):
        place = {"ipc": ipc, "iterations": "1000", "setting": "pool"}
        rows = published("modelpool_temperature", **place)
        # where two networks have the same mean, all that diverged, they have the same std
        spread = {(taus.index(tau), mean): std for (arch, tau), (mean, std) in rows.items()
                  if arch != "convnet"}  # fmt: skip
        assert found.keys() == spread.keys()
        for (x, mean), std in spread.items():
            assert found[x, mean] == pytest.approx((mean - std, mean + std))
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said[-1] == "published"
    told = figure.texts[-1].get_text().replace("\n", " ")
    said = "Diamonds: published values; error bars: their standard deviations, which divide by n"
    assert said in told
    assert "Published values include networks that diverged." in told


def test_published_values_stand_on_bars(comparable):
    figure = bars.draw(exhibit_of(comparable, "modelpool_ablation"))
    panel = figure.axes[1]  # IPC 1, 2000 iterations: of the baseline under hard labels alone
    assert panel.get_title() == "IPC 1, 2000 iterations"
    place = {"ipc": "1", "iterations": "2000", "setting": "baseline", "sets": "released"}
    rows = published("modelpool_hard", **place)
    archs = ("convnet", "mlp", "lenet", "alexnet", "vgg11", "resnet18")
    width = 0.8 / 6  # of six bars; the marker stands a fifth of one beside the middle
    places = [x - 2.5 * width + width / 5 for x in range(6)]
    found = marked(panel)
    assert [x for x, _ in found] == pytest.approx(places)
    for (_, accuracy), (low, high), arch in zip(found, found.values(), archs, strict=True):
        value, std = rows[arch,]
        assert (accuracy, low, high) == pytest.approx((value, value - std, value + std))
    first = marked(figure.axes[0])  # and at 1000 of half the cross-entropy, the pool has no ConvNet
    assert len(first) == 6 + 6 + 5


def test_joined_tiles_stand_in_their_places():
    shades = torch.arange(6).view(2, 3, 1, 1, 1).expand(2, 3, 4, 5, 3).numpy()
    picture = joined(shades)
    assert picture.shape == (8, 15, 3)
    assert [int(picture[4 * r, 5 * c, 0]) for r in range(2) for c in range(3)] == list(range(6))
    assert (picture[4:, 5:10] == 4).all()


@pytest.mark.parametrize(
    ("classes", "count", "stacked", "inches"),
    [
        (10, 10, False, 6.0 / 30),  # 10 rows for all three exhibits, 30 columns in 6 inches
        (3, 10, True, 4.5 / 9),  # 9 rows in 4.5 inches
        (3, 5, False, 6.0 / 15),  # under each other 0.5: not much larger
    ],
)
def test_grids_are_arranged_to_be_large(classes, count, stacked, inches):
    rows = {name: numpy.zeros((classes, count, 8, 8, 3)) for name in ("a", "b", "c")}
    assert images._arrangement(rows) == (stacked, pytest.approx(inches))


def test_images_per_class_are_shown(plan):
    """IPC 1: a row for each of three methods; IPC 10: a exhibit of 10 x 10 tiles for each."""
    figure = images.draw(exhibit_of(plan, "iadd_images"))
    sizes = [panel.get_images()[0].get_array().shape[:2] for panel in figure.axes]
    assert sizes == [(3 * 10, 10 * 10), *[(10 * 10, 10 * 10)] * 3]
    assert [panel.get_xticklabels()[0].get_text() for panel in figure.axes] == [
        "0", "Random", "MTT", "IADD",
    ]  # fmt: skip


def test_ranks_by_hand():
    share, values = difference.ranked(numpy.array([3.0, 1.0, 2.0, 4.0]))
    assert share.tolist() == [25, 50, 75, 100] and values.tolist() == [4, 3, 2, 1]
    share, values = difference.ranked(numpy.arange(1001.0), points=5)  # ranks 0, 250, ..., 1000
    assert values.tolist() == [1000, 750, 500, 250, 0]
    assert share == pytest.approx([100 * k / 1001 for k in (1, 251, 501, 751, 1001)])
    assert difference.rms(numpy.array([3.0, 4.0])) == pytest.approx(12.5**0.5)


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


def test_tensors_have_names_in_the_order_of_the_vector():
    network = convnet(0.125)  # one block of 16 channels; 8 x 8 images have a 4 x 4 map after it
    assert weights.tensors(network) == [
        ("conv weight", 16 * 9), ("conv bias", 16), ("norm weight", 16), ("norm bias", 16),
        ("linear weight", network.classifier.weight.numel()), ("linear bias", 10),
    ]  # fmt: skip
    deep = create("convnet", 3, (32, 32), 10, generator=None, width_factor=0.1)
    named = weights.tensors(deep)
    assert [count for _, count in named] == [p.numel() for p in deep.parameters()]
    assert named[6][0] == "norm 2 weight" and len({name for name, _ in named}) == 14


def weighted_set(path: Path, vectors: dict[str, torch.Tensor], **header) -> str:
    header = {"classes": list("0123456789"), "width_factor": 0.125} | header
    made = SyntheticSet(torch.zeros(10, 1, 8, 8), torch.arange(10), extras=vectors, header=header)
    synthetic.save(path, made)
    return str(path)


def test_weights_are_split_by_tensor_and_joined_by_seed(tmp_path):
    sizes = [p.numel() for p in convnet(0.125).parameters()]
    one = torch.arange(sum(sizes)).float()
    paths = [
        weighted_set(tmp_path / f"{n}.safetensors", {"importance.convnet": one + n}) for n in (0, 1)
    ]
    found = weights.pooled(paths)
    start = sizes[0]
    expected = [*range(start, start + 16), *range(start + 1, start + 17)]
    assert found["conv bias"].tolist() == expected
    assert sum(map(len, found.values())) == 2 * sum(sizes)


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


@pytest.mark.parametrize(
    ("vectors", "header", "message"),
    [
        ({}, {}, "has no 'importance.<network>', which sets of iadd with learned weights have"),
        ({"importance.convnet": [1.0, 2.0]}, {}, "has 2 weights, convnet has"),
        ({"importance.convnet": [1.0, float("nan")]}, {}, "must be finite numbers [P]"),
        ({"importance.convnet": [[1.0]]}, {}, "must be finite numbers [P]"),
        ({"importance.convnet": [1.0], "importance.mlp": [1.0]}, {}, "has weights of 2 networks"),
        ({"importance.convnt": [1.0]}, {}, "unknown network 'convnt'"),
    ],
)
def test_weights_that_cannot_be_shown(tmp_path, vectors, header, message):
    tensors = {name: torch.tensor(values) for name, values in vectors.items()}
    path = weighted_set(tmp_path / "set.safetensors", tensors, **header)
    with pytest.raises(DDError) as error:
        weights.pooled([path])
    assert message in str(error.value) and str(error.value).count("\n") == 0


def test_running_median_by_hand():
    one, two = numpy.array([1.0, 9.0, 2.0, 8.0, 3.0]), numpy.array([5.0, 5.0, 5.0, 5.0, 5.0])
    # windows [1 9], [1 9 2], [9 2 8], [2 8 3], [8 3]
    assert training_curves.running_median([one], 3).tolist() == [5, 2, 8, 3, 5.5]
    assert training_curves.running_median([one, two], 3).tolist() == [5, 5, 5, 5, 5]
    assert [training_curves.width(n) for n in (60, 600, 5000)] == [5, 13, 101]


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
    ("content", "message"),
    [
        (None, "no such file"),
        ('{"loss": 1}\n', "has 1 iterations, 2 are needed"),
        ('{"loss": 1}\n{"loss": NaN}\n', "line 2 has no finite 'loss'"),
        ('{"loss": 1}\n{"los', "line 2 has no finite 'loss'"),
        ('{"loss": 1}\n[]\n', "line 2 has no finite 'loss'"),
    ],
)
def test_bad_metrics(tmp_path, content, message):
    path = tmp_path / "metrics.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DDError, match=message) as error:
        read_metric(str(path), "loss", 2)
    assert str(path) in str(error.value)


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
