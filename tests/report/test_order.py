"""What is left out of a table or figure does not change the order of the rest; and which of the
sets of a cell is shown."""

from dataclasses import replace

import pytest

from dd.config.run import load_run
from dd.plan.exhibits import Exhibit
from dd.plan.plan import Plan
from dd.report.captions import first_sets
from dd.report.figures import accuracy_curve, bars
from dd.report.read.places import places
from dd.report.tables.pivot import results
from tests.support.tables import fill

# the first setting lacks the first temperature, network and number of iterations
HOLES = [{"setting": ["baseline"], "temperature": [0]}, {"setting": ["baseline"], "arch": ["mlp"]}]


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Plan:
    return fill("smoke", tmp_path_factory.mktemp("order"), lambda job, arch, n: 50.0 + n)


def without(plan: Plan, kind: str, name: str, *rules) -> Exhibit:
    return replace(plan.exhibits[kind, name], run=replace(plan.run, exclude=[*rules]))


def test_ticks_are_in_the_order_of_the_axis(plan):
    exhibit = without(plan, "figure", "modelpool_temperature", *HOLES)
    figure = accuracy_curve.draw(exhibit)
    for panel in figure.axes:
        ticks = [text.get_text() for text in panel.get_xticklabels()]
        assert ticks == sorted(ticks, key=float) and len(ticks) > 2
        for line in panel.lines:
            x = [*line.get_xdata()]
            assert x == sorted(x)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names.index("MLP") < names.index("LeNet")


def test_bars_and_columns_are_in_the_order_of_the_axis(plan):
    rule = {"setting": ["baseline"], "arch": ["convnet"]}
    figure = bars.draw(without(plan, "figure", "modelpool_ablation", rule))
    (names, *_) = [[t.get_text() for t in p.get_xticklabels()] for p in figure.axes]
    exhibit = without(plan, "table", "modelpool_ablation", rule)
    order = ["ConvNet", "MLP", "LeNet", "AlexNet", "VGG11", "ResNet18"]
    _, sheet = results(exhibit)
    assert [name for name in sheet.header if name in order] == order
    shown = [name for name in order if name in names]
    assert [name for name in names if name in order] == shown and len(shown) > 2


def test_places_follow_the_axes_not_the_rows(plan):
    exhibit = plan.exhibits["table", "modelpool_ablation"]
    label = "digits (scikit-learn, 8x8)"
    rows = [{"dataset": label, "ipc": i, "arch": a} for i, a in ((10, "mlp"), (1, "mlp"))]
    rows += [{"dataset": label, "ipc": 10, "arch": "convnet"}] * 2
    assert places(exhibit, ["ipc"], rows) == [(1,), (10,)]
    assert places(exhibit, ["arch", "ipc"], rows) == [("mlp", 1), ("convnet", 10), ("mlp", 10)]
    assert places(exhibit, ["dataset"], rows) == [(label,)]


ENTRY = {"method": "dc", "dataset": "digits", "ipc": 1, "file": "a.pt", "by": "them"}


@pytest.mark.parametrize(
    ("seeds", "imported", "said"),
    [
        ([0], [("dc", 0)], []),
        ([0, 1], [], ["Of 2 synthetic sets, that of seed 0."]),
        ([0, 1], [("dc", 1), ("dc+pool", 1)], ["The synthetic set of seed 1."]),
        (
            [0, 1],
            [("dc", 1)],
            [
                "The synthetic set of seed 1 (20 iterations, baseline; 60 iterations, baseline); "
                "of 2 synthetic sets, that of seed 0 (20 iterations, pool; 60 iterations, pool)."
            ],
        ),
    ],
)
def test_a_caption_names_the_set_that_is_shown(seeds, imported, said):
    made = [
        ENTRY | {"method": method, "iterations": n, "seed": seed}
        for method, seed in imported
        for n in (20, 60)
    ]
    run = replace(load_run("smoke"), seeds=seeds, imported=made, sets_root="x")
    exhibit = replace(Plan(load_run("smoke")).exhibits["figure", "modelpool_images"], run=run)
    assert first_sets(exhibit) == said


@pytest.mark.parametrize("asked", [{"Ours": {"dataset": "digits"}}, ["elsewhere", "digits"]])
def test_a_definition_may_name_datasets_in_its_own_way(plan, asked):
    """By another name, or one that this run has not and leaves out."""
    exhibit = without(plan, "table", "modelpool_ablation", {"dataset": ["elsewhere"]})
    axes = {"dataset": asked, **exhibit.definition["axes"]}
    exhibit = replace(exhibit, definition={**exhibit.definition, "axes": axes})
    rows = [{"dataset": exhibit.run.datasets["digits"]["label"], "ipc": i} for i in (10, 1)]
    assert [ipc for _, ipc in places(exhibit, ["dataset", "ipc"], rows)] == [1, 10]


def test_an_exhibit_of_other_datasets_alone_is_not_shown(plan):
    """Of all its cells only those of a dataset that was left out are there."""
    run = replace(plan.run, other_datasets=["elsewhere"])
    exhibit = replace(plan.exhibits["table", "modelpool_ablation"], run=run)
    assert exhibit.is_shown
    left_out = replace(run, exclude=[{"dataset": ["digits"]}])
    assert not replace(exhibit, run=left_out).is_shown
