"""Published values beside a figure's curves and bars."""

import csv

import pytest
from matplotlib.container import ErrorbarContainer

from dd.artifacts.text import save_json, save_rows
from dd.config.run import load_run
from dd.plan.jobs import (
    Evaluation,
)
from dd.plan.plan import Plan
from dd.report.figures import accuracy_curve, bars
from tests.support.figures import exhibit_of


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


@pytest.mark.parametrize(
    ("module", "name", "x"),
    [(accuracy_curve, "modelpool_temperature", 0), (bars, "modelpool_ablation", -2.5 * 0.8 / 6)],
)
def test_diverged_networks_have_a_cross(comparable, monkeypatch, module, name, x):
    """In the middle of the first bar, and at the first point of the first line."""
    read = module.collect

    def collect(exhibit):
        rows = read(exhibit)
        return [row | {"diverged": int(n == 0)} for n, row in enumerate(rows)]

    def crosses(figure):
        lines = [line for panel in figure.axes for line in panel.lines]
        return [line.get_xydata().tolist() for line in lines if line.get_marker() == "x"]

    assert crosses(module.draw(exhibit_of(comparable, name))) == []
    monkeypatch.setattr(module, "collect", collect)
    figure = module.draw(exhibit_of(comparable, name))
    assert crosses(figure) == [[[pytest.approx(x), 24.5]]]  # networks of 20 to 29 %
    assert "networks diverged" in [text.get_text() for text in figure.legends[0].get_texts()]


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
