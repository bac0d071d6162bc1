"""Tables and figures of MetaDD: numbers worked out by hand, what is drawn, bad files."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
import yaml
from PIL import Image

from dd.artifacts.tensors import save_tensors
from dd.artifacts.text import save_json, save_rows, save_text
from dd.command import main
from dd.config.documents import check, read_yaml
from dd.config.run import load_run
from dd.data import synthetic
from dd.data.synthetic import SyntheticSet
from dd.errors import DDError
from dd.networks.options import canonical
from dd.plan.exhibits import Exhibit, load_exhibit
from dd.plan.jobs import (
    ActivationMaps,
    Distillation,
    Erasing,
    Evaluation,
    Pretraining,
    Snapshot,
)
from dd.plan.kinds import kind_of
from dd.plan.needs import cam_rectify
from dd.plan.plan import Plan
from dd.plan.validate import check_plan
from dd.report.captions import facts
from dd.report.figures import cams, erasing, images, variance
from dd.report.read import maps
from dd.report.tables import areas, cost
from dd.report.tables.pivot import _best
from tests.support.metadd import (
    CONFIG,
    FIRST,
    NETWORKS,
    ORIGIN,
    RUN,
    erasing_rows,
    first_maps,
    save_maps,
)
from tests.support.runs import FORMULA, assert_no_formulas, with_formulas


@pytest.fixture(scope="module")
def plan(tmp_path_factory, digits, digits_file):
    """The run with made-up artifacts."""
    folder = tmp_path_factory.mktemp("metadd")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(RUN))
    plan = Plan(load_run(str(folder / "tiny.yaml"), {"results": str(folder)}))
    run = plan.run
    save_json(f"{run.root}/config.json", plan.document())
    (folder / "tiny" / "data").mkdir()
    (folder / "tiny" / "data" / "digits.safetensors").write_bytes(digits_file.read_bytes())
    for job in plan.of(Pretraining):
        header = {"network": job.network, "accuracy": 79.5, "least_accuracy": 80.0}
        if job.network != "alexnet":
            header["accuracy"] = 95.0
        save_tensors(job.file(run), "network", {"x": torch.zeros(1)}, header)
    for job in plan.of(Evaluation):
        archs = job.archs
        seed = job.distillation.seed
        more = (10 + seed) * ("metadd" in job.distillation.method) + 2 * seed
        rows = [
            {"arch": arch, "network": n, "accuracy": 20 + len(arch) + more + n}
            for arch in archs
            for n in (0, 1)
        ]
        save_rows(job.file(run), rows)
    for job in plan.of(Distillation):
        snapshots = job.snapshots
        regularised = "metadd" in job.method
        for iteration in snapshots:
            labels = torch.arange(10)
            start = digits.train.take(torch.stack([found[0] for found in digits.train.by_class]))
            header = {
                "iteration": iteration,
                "provenance": ORIGIN
                | {"peak_memory_mb": {"host": 800.0 + 400 * regularised + 10 * job.seed}},
            }
            made = SyntheticSet(start, labels, *digits.mean_and_std(), header=header)
            synthetic.save(Snapshot(job, iteration).file(run), made)
        # differences .1 .3 .2 and .1 .3 .9, or three times as much; 5 s before the first
        steps = [0.1, 0.3, 0.9 if job.seed else 0.2]
        elapsed = 5 + numpy.cumsum([0, *(step * (3 if regularised else 1) for step in steps)])
        lines = [{"iteration": n + 1, "loss": 1.0, "seconds": s} for n, s in enumerate(elapsed)]
        save_text(job.metrics(run), "".join(f"{json.dumps(line)}\n" for line in lines))
    for shown in plan.of(ActivationMaps):
        snapshot, job = shown.snapshot, shown.snapshot.distillation
        values = first_maps(job.seed)
        if "metadd" in job.method and snapshot.iterations == 60:
            values = [values[0]] * 5  # all look at the same
        save_maps(
            shown.file(run),
            values,
            snapshot.iterations,
        )
    save_rows(Erasing("digits").file(run), erasing_rows())
    return plan


def render(plan: Plan, name: str) -> tuple[list[dict[str, str]], str]:
    """The rows of the CSV of a table and its Markdown."""
    out = Path(f"{plan.run.root}/tables/{name}.csv")
    words = ["table", "--config", f"{plan.run.root}/config.json", "--out", str(out), "--table"]
    assert main([*words, str(CONFIG / "tables" / f"{name}.yaml")]) == 0
    with open(out, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file)), out.with_suffix(".md").read_text(encoding="utf-8")


def figure_exhibit(plan: Plan, name: str):
    return load_exhibit("figure", CONFIG / "figures" / f"{name}.yaml", plan.run)


def test_measures_by_hand():
    found = maps.measures(numpy.array(FIRST)[:3, None], 0.5)
    # top left: all of 0.9 1.0 0.8; top right 0.6 0.4 0 and bottom left 0.2 0.3 0.7: some
    assert found["meta_area"].tolist() == [25.0]
    assert found["heterogeneous_area"].tolist() == [50.0]
    spreads = [numpy.var([one[i][j] for one in FIRST[:3]]) for i in (0, 1) for j in (0, 1)]
    assert found["cam_variance"].item() == pytest.approx(numpy.mean(spreads))


def test_areas_by_hand(plan):
    rows, markdown = render(plan, "metadd_meta_area")
    assert len(rows) == 2 * 2 * 2  # method, start or end, group
    at = {(row["method"], row["when"], row["networks"]): row for row in rows}
    before = at["dm", "start", "auxiliary"]
    assert before["members"] == "resnet18_bn alexnet vit" and before["images"] == "6"
    # seed 0: 25, 25, 100 %; seed 1: 75 (0.5 counts), 75, 100
    areas = [25, 25, 100, 75, 75, 100]
    assert float(before["meta_area"]) == pytest.approx(numpy.mean(areas), abs=1e-4)
    assert float(before["meta_area_std"]) == pytest.approx(numpy.std(areas, ddof=1), abs=1e-4)
    others = [50, 50, 0, 0, 0, 0]
    assert float(before["heterogeneous_area"]) == pytest.approx(numpy.mean(others), abs=1e-4)
    one = numpy.mean([numpy.var([m[i][j] for m in FIRST[:3]]) for i in (0, 1) for j in (0, 1)])
    assert float(before["cam_variance"]) == pytest.approx(2 * one / 6, abs=2e-4)
    unseen = at["dm", "end", "unseen"]
    assert unseen["members"] == "vgg11 lenet"
    # 1.0 0.5 | 0.9 0.4 | 0 0 | 0 1.0: all, some, none, some
    assert float(unseen["heterogeneous_area"]) == pytest.approx(2 * 50 / 6, abs=1e-4)
    after = at["dm+metadd", "end", "auxiliary"]
    assert (after["heterogeneous_area"], after["cam_variance"]) == ("0.0", "0.0")
    assert "Auxiliary networks: ResNet18-BN, AlexNet," in markdown
    assert "Unseen networks: VGG11, LeNet." in markdown
    assert "Meta region (% of area), start | Meta region (% of area), end |" in markdown
    assert "66.7 ± 34.2" in markdown and "images of 2 synthetic sets" in markdown
    assert before["rectify"] == "relu"
    assert "Negative values of all maps are set to 0 (ReLU)." in markdown


def test_costs_by_hand(plan):
    rows, markdown = render(plan, "metadd_cost")
    base, regularised = rows
    # .1 .1 .2 .3 .3 .9: median (.2 + .3) / 2; MetaDD three times that
    assert (base["seconds"], base["iterations_timed"]) == ("0.25", "6")
    assert float(regularised["seconds"]) == pytest.approx(0.75)
    assert (base["seconds_ratio"], regularised["seconds_ratio"]) == ("1.0", "3.0")
    assert (base["host_mb"], regularised["host_mb"]) == ("810.0", "1210.0")  # the larger seed
    assert float(regularised["host_mb_ratio"]) == pytest.approx(1210 / 810, abs=1e-4)
    assert base["gpu_mb"] == "" and "GPU memory" not in markdown.split("| Dataset")[1]
    assert "| 0.250 | 1.00 | 810 | 1.00 |" in markdown
    assert "| 0.750 | 3.00 | 1210 | 1.49 |" in markdown
    assert r"Measured on Linux x86\_64 (cpu), 2 threads, torch 2.11.0." in markdown


@pytest.mark.parametrize(
    ("kind", "name", "count"),
    [
        ("table", "metadd_cross_arch", 12 * 7),
        ("table", "metadd_ablation", 12 * 7),
        ("table", "metadd_auxiliary", 8 * 7),
        ("table", "metadd_cost", 12),
        ("table", "metadd_meta_area", 10 * 2),
        ("figure", "metadd_images", 8),
        ("figure", "metadd_cams", 4),
        ("figure", "metadd_erasing", 0),
        ("figure", "metadd_variance", 4 * 2),
    ],
)
def test_definitions_are_whole(plan, kind, name, count):
    """All their methods, networks and protocols are known; the run narrows IPC and iterations."""
    run = replace(plan.run, axes_for={})
    exhibit = load_exhibit(kind, CONFIG / f"{kind}s" / f"{name}.yaml", run)
    assert len(exhibit.cells()) == count
    for cell in exhibit.cells():
        assert cell.arch is None or canonical(cell.arch)


def test_seen_networks_are_marked(plan):
    rows, markdown = render(plan, "metadd_cross_arch")
    seen = {(row["method"], row["arch"]): row["seen"] for row in rows}
    assert seen == {
        ("dm", "convnet"): "yes", ("dm", "vit"): "no", ("dm", "vgg11"): "no",
        ("dm+metadd", "convnet"): "yes", ("dm+metadd", "vit"): "yes", ("dm+metadd", "vgg11"): "no",
    }  # fmt: skip
    # convnet: 27 28 29 30, so 28.5 ± 1.29; with MetaDD 10 more of one set, 11 of the other
    assert "| 28.50 ± 1.29ˢ | 24.50 ± 1.29 | 26.50 ± 1.29 |" in markdown
    assert "| **39.00 ± 1.83ˢ** | **35.00 ± 1.83ˢ** | **37.00 ± 1.83** |" in markdown
    assert "ˢ: seen, the network was used in the distillation" in markdown
    assert "among those of one objective, and what the 90 % interval" in markdown
    note = "Note: alexnet reached 79.5 % on the test set of digits (8x8), below the 80 %"
    assert note in markdown and "†" not in markdown
    latex = Path(f"{plan.run.root}/tables/metadd_cross_arch.tex").read_text(encoding="utf-8")
    assert r"39.00 $\pm$ 1.83\textsuperscript{s}" in latex and "ˢ" not in latex


def test_the_best_is_that_of_an_objective(plan):
    definition = read_yaml(CONFIG / "tables" / "metadd_cross_arch.yaml")
    methods = definition["axes"]["method"]
    axes = {"ipc": 1, "arch": "vit", "method": {m: methods[m] for m in ("dm", "dm+metadd", "dc")}}
    exhibit = Exhibit("table", "best", "best.yaml", definition | {"axes": axes}, plan.run)
    values = {"dm": [29.9, 30.1], "dm+metadd": [30.9, 31.2], "dc": [49.9, 50.1]}
    rows = [{"method": m, "ipc": 1, "arch": "vit", "dataset": "d", "mean": sum(v) / 2,
             "accuracies": {0: v}} for m, v in values.items()]  # fmt: skip
    assert _best(exhibit, rows) == ({id(rows[1])}, True)  # dc has nobody to compete with


def test_parts_and_networks_are_specs_of_their_own(plan):
    ablation, _ = render(plan, "metadd_ablation")
    assert [row["loss"] for row in ablation] == ["DM: none", "DM: ce", "DM: kl", "DM: both"]
    auxiliary, _ = render(plan, "metadd_auxiliary")
    assert len(auxiliary) == 8
    specs = {job.method for job in plan.of(Distillation)}
    assert {"dm+metadd@lambda_kl=0", "dm+metadd@lambda_ce=0", "dm", "dm+metadd"} < specs
    assert "dm+metadd@auxiliary=resnet18_bn,lambda_kl=0" in specs
    marked = {row["auxiliary"]: row["seen"] for row in auxiliary}
    assert marked["none"] == marked["2: ResNet18-BN, AlexNet"] == "no"
    assert marked["1: ViT"] == marked["2: ResNet18-BN, ViT"] == "yes"


def test_maps_of_a_run_follow_one_convention(plan):
    """That of its MetaDD: in jobs, in config.json, in what tables and figures read and say."""
    assert plan.of(ActivationMaps)[0].options(plan.run) == {
        "width_factor": 0.125,
        "rectify": "relu",
    }
    run = replace(plan.run, recipes=plan.run.recipes | {"metadd": {"rectify": "none"}})
    other = Plan(run)
    assert other.of(ActivationMaps)[0].options(other.run)["rectify"] == "none"
    assert other.of(Erasing)[0].options(other.run)["rectify"] == "none"
    (chosen,) = {entry["rectify"] for entry in other.document()["cams"].values()}
    assert chosen == "none"
    for kind, name in (("table", "metadd_meta_area"), ("figure", "metadd_variance"),
                       ("figure", "metadd_cams"), ("figure", "metadd_erasing")):  # fmt: skip
        exhibit = other.exhibits[kind, name]
        draw = {"metadd_meta_area": areas.areas, "metadd_variance": variance.draw,
                "metadd_cams": cams.draw, "metadd_erasing": erasing.draw}[name]  # fmt: skip
        with pytest.raises(DDError, match="rectify is 'relu', the run's is 'none'"):
            draw(exhibit)
        assert maps.convention(exhibit) == "Maps keep their negative values (no ReLU)."
    only = {"metadd_meta_area": {"method": ["dm"]}}  # no method here has a regulariser
    bad = {"tables": ["metadd_meta_area"], "figures": [], "axes_for": only, "axes": {"ipc": [1]}}
    with pytest.raises(DDError, match=r"run .*: unknown rectify of metadd 'rely'"):
        check_plan(Plan(replace(run, recipes={"metadd": {"rectify": "rely"}}, **bad)))
    twice = {"digits": run.datasets["digits"], "mnist": run.datasets["digits"]}
    sections = {"metadd": {"dataset": {"mnist": {"rectify": "none"}}}}
    with pytest.raises(DDError, match="is relu for digits, none for mnist; all class activation"):
        cam_rectify(replace(run, datasets=twice, recipes=sections))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["metadd_images", "metadd_cams", "metadd_erasing", "metadd_variance"]
)
def test_figures_are_drawn(plan, tmp_path, name):
    words = ["figure", "--config", f"{plan.run.root}/config.json", "--figure"]
    out = tmp_path / "figure.png"
    assert main([*words, str(CONFIG / "figures" / f"{name}.yaml"), "--out", str(out)]) == 0
    pixels = numpy.asarray(Image.open(out).convert("L"))
    assert pixels.shape[0] > 400 and pixels.shape[1] > 1000
    assert pixels.min() < 60 and pixels.max() == 255


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("metadd_images", [f"{FORMULA}dm"]),
        ("metadd_cams", [f"{FORMULA}dm\nclass {FORMULA} 1"]),
        ("metadd_variance", [f"{FORMULA}dm"]),
        ("metadd_erasing", [f"vgg{FORMULA}\n"]),
    ],
)
def test_dollars_are_drawn_as_they_are(plan, tmp_path, monkeypatch, name, shown):
    read = cams.load_dataset

    def load(*given, **more):
        data = read(*given, **more)
        return replace(data, classes=[f"{FORMULA} {name}" for name in data.classes])

    monkeypatch.setattr(cams, "load_dataset", load)
    rows = [r | {"network": r["network"].replace("vgg11", f"vgg{FORMULA}")} for r in erasing_rows()]
    save_rows(tmp_path / "erasing.csv", rows)
    monkeypatch.setattr(Erasing, "file", lambda *_: str(tmp_path / "erasing.csv"))
    for module in (cams, erasing, variance):  # which of the run's networks are poor
        monkeypatch.setattr(module, "warnings", lambda exhibit: [f"Note: {FORMULA}."])
    exhibit = with_formulas(figure_exhibit(plan, name))
    always = [f"title {FORMULA}", f"caption {FORMULA}", f"_digits (8x8) {FORMULA}"]
    assert_no_formulas(kind_of(exhibit).render(exhibit), [*always, *shown], tmp_path / "figure.png")


def test_maps_and_regions_are_drawn(plan):
    figure = cams.draw(figure_exhibit(plan, "metadd_cams"))
    rows = figure.subfigs[0].axes[:-1]  # the last one is the colour bar
    assert len(rows) == 2 * 3 * 6  # two methods, three classes; image, three maps, two regions
    titles = [panel.get_title() for panel in rows[:6]]
    assert titles[:3] == ["Image", "ResNet18-BN", "AlexNet"]
    assert titles[4:] == ["Meta", "Heterogeneous"]
    image, first, *_, meta, other = (panel.get_images()[0].get_array() for panel in rows[:6])
    assert numpy.allclose(first, FIRST[0], atol=1e-3)
    faded = 0.85 + 0.15 * image
    assert numpy.allclose(meta[:4, :4], image[:4, :4]) and numpy.allclose(meta[4:], faded[4:])
    assert numpy.allclose(other[:4, :4], faded[:4, :4])
    assert numpy.allclose(other[4:, :4], image[4:, :4])


def test_classes_that_a_set_has_are_drawn(plan, monkeypatch):
    """A class without an image leaves a white place in one figure, and is no row in the other.

    The files have maps of the images of classes 0, 1 and 2.
    """
    read = synthetic.load

    def load(path):
        made = read(path)
        return replace(made, labels=torch.where(made.labels == 1, 2, made.labels))

    monkeypatch.setattr(synthetic, "load", load)
    rows = cams.draw(figure_exhibit(plan, "metadd_cams")).subfigs[0].axes[:-1:6]
    assert [row.get_ylabel().splitlines()[-1] for row in rows] == ["class 0", "class 2"] * 2
    *_, caption = images.draw(figure_exhibit(plan, "metadd_images")).texts
    told = caption.get_text().replace("\n", " ")
    assert "An empty place: the set has no image of the class." in told


def test_erasing_is_drawn(plan):
    figure = erasing.draw(figure_exhibit(plan, "metadd_erasing"))
    (panel,) = figure.axes
    heights = [bar.get_height() for bar in panel.patches]
    # networks that say what the regions are stand first: n = 1, 2, 3, then 0 and 4
    assert heights == [c * (1 + n / 4) for n in (1, 2, 3, 0, 4) for c in (-9.0, -4.0, -2.0)]
    names = [tick.get_text() for tick in panel.get_xticklabels()]
    assert names[0] == "ResNet18-BN\n91.0 %" and names[3] == "VGG11\n90.0 %"


def test_variances_are_drawn(plan):
    figure = variance.draw(figure_exhibit(plan, "metadd_variance"))
    lines = figure.axes[0].lines
    assert [line.get_linestyle() for line in lines] == ["-", "--"] * 2
    assert list(lines[0].get_xdata()) == [0, 20, 60]
    one = numpy.mean([numpy.var([m[i][j] for m in FIRST[:3]]) for i in (0, 1) for j in (0, 1)])
    assert lines[0].get_ydata() == pytest.approx([one / 3] * 3, abs=2e-4)
    assert lines[2].get_ydata()[-1] == 0 and lines[2].get_ydata()[0] == lines[0].get_ydata()[0]


def drawn_caption(figure) -> str:
    return figure.texts[-1].get_text().replace("\n", " ")


def test_the_caption_says_where_maps_are_of_a_part_of_the_images(plan, monkeypatch):
    """As the files say; those of older code do not, and have the first ten of each class."""
    part = "Of sets with more images of a class, maps are of its first {}."
    path = plan.of(ActivationMaps)[0].file(plan.run)
    before = Path(path).read_bytes()
    for header, said in (
        ({"images_per_class": 0, "set": {"ipc": 50}}, None),
        ({"images_per_class": 3}, "3"),
        ({"set": {"ipc": 50}}, "10"),
        ({"set": {"ipc": 10}}, None),
        ({}, None),
    ):
        save_maps(path, first_maps(0), 0, **header)
        caption = drawn_caption(variance.draw(figure_exhibit(plan, "metadd_variance")))
        table = kind_of(plan.exhibits["table", "metadd_meta_area"])
        shown = table.render(plan.exhibits["table", "metadd_meta_area"])[1].caption
        for text in (caption, shown):
            assert "over the images of 2 synthetic sets." in text
            assert (part.format(said) in text) if said else "maps are of its first" not in text
    Path(path).write_bytes(before)


def test_sets_in_captions_of_maps_are_those_that_are_there(plan, tmp_path):
    """Not as many as the run has seeds: others published one of two."""
    made = {"method": "dm", "dataset": "digits", "ipc": 1, "seed": 0, "by": "them", "path": "x.pt"}
    entries = [made | {"iterations": n} for n in (0, 20, 60)]
    changed = replace(plan.run, imported=entries, sets_root=str(tmp_path))
    exhibit = replace(plan.exhibits["table", "metadd_meta_area"], run=changed)
    assert "over the images of 1 to 2 synthetic sets." in areas.compared(exhibit, set())


def test_a_figure_over_iterations_says_where_it_ends_early(plan):
    early = {"metadd_variance": {"method": ["dm", "dm+metadd"], "iterations": [0, 20]}}
    said = "DM, DM + MetaDD: 60 iterations in the recipe, shown are the first 20."
    for axes, expected in ((early, True), (plan.run.axes_for, False)):
        run = replace(plan.run, axes_for=axes)
        exhibit = load_exhibit("figure", CONFIG / "figures" / "metadd_variance.yaml", run)
        assert (said in drawn_caption(variance.draw(exhibit))) == expected
        assert "in the recipe" in facts(exhibit, []) or not expected
    run = replace(plan.run, axes_for=early | {"metadd_cams": {"iterations": [20]}})
    exhibit = load_exhibit("figure", CONFIG / "figures" / "metadd_cams.yaml", run)
    assert "in the recipe" not in facts(exhibit, [])  # its axis is not drawn along x


def test_one_iteration_has_no_cost(tmp_path):
    """It has the start of the job in it. What else may be wrong with a file: test_figures."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"seconds": 1}\n')
    with pytest.raises(DDError, match="a cost needs at least 2 iterations") as error:
        cost.seconds_per_iteration([str(path)])
    assert str(path) in str(error.value)


def test_bad_maps(tmp_path):
    path = str(tmp_path / "maps.safetensors")
    save_maps(path, [[[[0.5]]]] * 5, 0)
    assert maps.read(path, "relu").of(["vit"]).shape == (1, 1, 1, 1)
    with pytest.raises(DDError, match="unknown network 'vti': did you mean 'vit'"):
        maps.read(path, "relu").of(["vti"])
    save_maps(str(tmp_path / "other.safetensors"), [[[[0.5]]]] * 5, 0, threshold=0.4)
    with pytest.raises(DDError, match=r"threshold is 0\.4, that of .* is 0\.5"):
        maps.pooled([path, str(tmp_path / "other.safetensors")], ["vit", "alexnet"], "relu")
    for found, message in (
        ("none", "rectify is 'none', the run's is 'relu'; make it again"),
        (None, "does not say how its maps treat negative values .* make it again"),
    ):
        save_maps(path, [[[[0.5]]]] * 5, 0, rectify=found)
        with pytest.raises(DDError, match=f"^{path}: {message}"):
            maps.pooled([path], ["vit", "alexnet"], "relu")
    save_maps(path, [[[[0.5]]]] * 5, 0, rectify="none")
    assert maps.read(path, "none").networks == NETWORKS
    save_maps(path, [[[[0.5]]]] * 4, 0)
    with pytest.raises(DDError, match=r"'maps' is \[4, 1, 1, 1\], it must be \[5, 1, h, w\]"):
        maps.read(path, "relu")
    save_tensors(path, "cams", {"maps": torch.zeros(1), "images": torch.zeros(1)}, {})
    with pytest.raises(DDError, match="its header names no networks"):
        maps.read(path, "relu")


def test_one_network_has_nothing_to_compare(plan, tmp_path):
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(RUN | {"cam_networks": ["vit", "vgg11"]}))
    run = load_run(str(tmp_path / "one.yaml"))
    exhibit = load_exhibit("table", CONFIG / "tables" / "metadd_meta_area.yaml", run)
    with pytest.raises(DDError, match="cam_networks are vit, vgg11: a comparison of maps"):
        maps.groups(exhibit, "digits")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1], "each network needs the rows nothing, meta, heterogeneous"),
        (lambda rows: [row | {"area": "x"} for row in rows], "'area' is 'x', it must be a number"),
        (lambda rows: [{"network": row["network"]} for row in rows], "'accuracy' is None"),
        (lambda rows: [row | {"rectify": "none"} for row in rows], "rectify is 'none', the run's"),
        (lambda rows: [row | {"rectify": ""} for row in rows], "does not say how its maps"),
    ],
)
def test_bad_erasing_files(tmp_path, change, message):
    path = tmp_path / "erasing.csv"
    save_rows(path, change(erasing_rows()))
    with pytest.raises(DDError, match=message):
        erasing.read(str(path), "relu")


@pytest.mark.parametrize(
    ("kind", "name", "change", "message"),
    [
        ("table", "metadd_cost", {"rows": None}, "key 'rows' is missing"),
        ("table", "metadd_meta_area", {"columns": None}, "key 'columns' is missing"),
        ("table", "metadd_ablation", {"best_of": None}, "key 'best_of' is missing"),
        ("table", "metadd_ablation", {"mark_seen": "yes"}, "mark_seen is 'yes', it must be true"),
        ("figure", "metadd_erasing", {"axes": {"ipc": [1]}}, "unknown key 'axes'"),
        ("figure", "metadd_cams", {"classes": 0}, "classes is 0, it must be at least 1"),
        ("figure", "metadd_variance", {"layout": None}, "key 'layout' is missing"),
    ],
)
def test_bad_definitions(kind, name, change, message):
    definition = read_yaml(CONFIG / f"{kind}s" / f"{name}.yaml") | change
    definition = {key: value for key, value in definition.items() if value is not None}
    with pytest.raises(DDError) as error:
        check(definition, read_yaml(f"workflow/schemas/{kind}.schema.yaml"), "here")
    assert message in str(error.value)
