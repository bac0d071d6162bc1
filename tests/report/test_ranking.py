"""The table ``ranking``: gains and shares by hand, order, cost; and its figure."""

from dataclasses import replace

import pytest
import torch
from scipy import stats

from dd.data import synthetic
from dd.data.synthetic import SyntheticSet
from dd.errors import DDError
from dd.plan.jobs import Distillation, Snapshot
from dd.plan.kinds import check
from dd.plan.plan import Plan
from dd.plan.validate import check_plan
from dd.report.figures import ranking as scatter
from dd.report.tables.ranking import ranking
from tests.support.tables import cell, fill, render

BASE = {"random": 20.0, "herding": 30.0, "mtt": 60.0, "iadd": 50.0, "full": 80.0}
SECONDS = {"mtt": 30.0, "iadd": 90.0}


def accuracy(job, arch, n):
    made = job.distillation
    scatter = [[0.5, -0.25], [0.0, 1.0]][made.seed][n] * (made.method != "random")
    return BASE.get(made.method, 40.0) + scatter


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Plan:
    plan = fill(
        "iadd-digits", tmp_path_factory.mktemp("ranking"), accuracy, networks=2, seeds=[0, 1]
    )
    for job in plan.of(Distillation):
        seconds = SECONDS.get(job.method, 0.0) + 10 * job.seed * (job.method in SECONDS)
        origin = {"wall_seconds": seconds, "peak_memory_mb": {"host": 500.0 + job.seed}}
        made = SyntheticSet(
            torch.zeros(10, 1, 8, 8), torch.arange(10), torch.zeros(1), torch.ones(1),
            header={"classes": list("0123456789"), "provenance": origin},
        )  # fmt: skip
        synthetic.save(Snapshot(job, job.snapshots[-1]).file(plan.run), made)
    return plan


def test_gains_and_shares_by_hand(plan):
    rows = render(plan, "ranking")
    order = [row["method"] for row in rows if row["ipc"] == "1"]
    assert order[:4] == ["full", "mtt", "iadd", "kcenter"] and order[-1] == "random"
    mtt = cell(rows, ipc=1, method="mtt")
    gains = [40 + 0.125, 40 + 0.5]  # means of the scatter: (0.5 - 0.25) / 2 and (0 + 1) / 2
    low, high = stats.ttest_1samp(gains, 0).confidence_interval(0.9)
    found = [float(mtt[name]) for name in ("over_random", "over_random_low", "over_random_high")]
    assert found == pytest.approx([40.3125, low, high], abs=1e-4)
    shares = [100 * 60.125 / 80.125, 100 * 60.5 / 80.5]
    low, high = stats.ttest_1samp(shares, 0).confidence_interval(0.9)
    found = [float(mtt[name]) for name in ("of_full", "of_full_low", "of_full_high")]
    assert found == pytest.approx([sum(shares) / 2, low, high], abs=1e-4)
    assert (mtt["seconds"], mtt["memory_mb"], mtt["n_sets"]) == ("35.0", "501.0", "2")
    assert cell(rows, ipc=1, method="random")["over_random"] == ""
    assert cell(rows, ipc=1, method="full")["of_full"] == ""


def test_a_run_without_the_baseline_is_refused_before_any_job(plan):
    """It is missing everywhere, or at one IPC."""
    axes = {"ranking": {"method": ["mtt", "full"], "ipc": [1], "arch": ["convnet"]}}
    for change, place in (
        ({"axes_for": axes}, "mtt (dataset digits, ipc 1, arch convnet)"),
        ({"exclude": [{"ipc": [10], "method": ["random"]}]}, "ipc 10, arch convnet)"),
    ):
        with pytest.raises(DDError) as caught:
            check_plan(Plan(replace(plan.run, **change)))
        said = str(caught.value)
        assert said.startswith(
            "run iadd-digits, table ranking: baseline 'random' is missing beside"
        )
        assert place in said and "; keep it in the run, or leave the table out" in said


def test_a_ranking_is_of_methods(plan):
    exhibit = plan.exhibits["table", "ranking"]
    axes = {"what" if axis == "method" else axis: given
            for axis, given in exhibit.definition["axes"].items()}  # fmt: skip
    rows = ["dataset", "ipc", "arch", "what"]
    with pytest.raises(DDError, match=r"ranking\.yaml: a ranking needs an axis 'method'"):
        check(replace(exhibit, definition={**exhibit.definition, "axes": axes, "rows": rows}))


def test_others_do_not_say_what_their_sets_took(plan):
    """An imported set has no cost; one that they did not publish has no row and no mark."""
    entry = {"method": "mtt", "dataset": "digits", "ipc": 1, "iterations": 60, "file": "x",
             "by": "them"}  # fmt: skip
    made = next(job for job in plan.of(Distillation) if (job.method, job.ipc) == ("mtt", 1))
    entry |= {"iterations": made.snapshots[-1]}
    run = replace(plan.run, imported=[entry | {"seed": seed} for seed in (0, 1)], sets_root="x")
    rows, _ = ranking(replace(plan.exhibits["table", "ranking"], run=run))
    (mtt,) = [row for row in rows if row["method"] == "mtt"]  # none at IPC 10
    assert (mtt["ipc"], mtt["seconds"], mtt["memory_mb"]) == (1, "", "")
    assert mtt["mean"] == pytest.approx(60.3125)
    figure = scatter.draw(replace(plan.exhibits["figure", "ranking"], run=run))
    first, second = figure.axes
    assert "MTT" in {line.get_label() for line in first.lines}
    assert "MTT" not in {line.get_label() for line in second.lines}
    assert [bars.get_label() for bars in second.containers] == ["IADD"]


def crosses(panel) -> list[list[float]]:
    return [line.get_xydata().tolist() for line in panel.lines if line.get_marker() == "x"]


def test_diverged_networks_have_a_cross(plan, monkeypatch):
    """At the point of MTT, and on the line of the full dataset, at IPC 1."""
    read = scatter.collect

    def collect(exhibit):
        failed = {("mtt", 1), ("full", 1)}
        return [
            row | {"diverged": int((row["method"], row["ipc"]) in failed)} for row in read(exhibit)
        ]

    assert not any(map(crosses, scatter.draw(plan.exhibits["figure", "ranking"]).axes))
    monkeypatch.setattr(scatter, "collect", collect)
    figure = scatter.draw(plan.exhibits["figure", "ranking"])
    found = sorted(crosses(figure.axes[0]))
    assert found == [[[0.5, pytest.approx(80.3125)]], [[35.0, pytest.approx(60.3125)]]]
    assert crosses(figure.axes[1]) == []
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[-1] == "networks diverged" and names.count("MTT") == 1


def test_the_figure_shows_time_and_accuracy(plan):
    figure = scatter.draw(plan.exhibits["figure", "ranking"])
    panel, _ = figure.axes  # IPC 1 and 10
    points = {
        bars.get_label(): (float(bars[0].get_xdata()[0]), float(bars[0].get_ydata()[0]))
        for bars in panel.containers
    }
    assert points == {"MTT": (35.0, pytest.approx(60.3125)), "IADD": (95.0, pytest.approx(50.3125))}
    lines = {line.get_label(): line.get_ydata()[0] for line in panel.lines}
    assert lines["Random"] == 20.0 and lines["Full dataset"] == pytest.approx(80.3125)


def test_the_legend_has_the_dash_of_each_line(plan):
    """Also where a panel lacks a line that another has."""
    run = replace(plan.run, exclude=[{"ipc": [10], "method": ["herding"]}])
    figure = scatter.draw(replace(plan.exhibits["figure", "ranking"], run=run))
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    shown = dict(zip(names, legend.legend_handles, strict=True))
    for panel in figure.axes:
        lines = [line for line in panel.lines if line.get_label() in ("k-centre", "Full dataset")]
        assert len(lines) == 2
        for line in lines:
            key = shown[line.get_label()]
            # matplotlib's own pattern of the dash, since 'get_linestyle' hides those of tuples
            assert key._unscaled_dash_pattern == line._unscaled_dash_pattern
