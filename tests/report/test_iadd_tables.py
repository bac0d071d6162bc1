"""Tables of IADD: what reweighting explains, and hyperparameters."""

import math
from pathlib import Path

import pytest
import torch
import yaml

from dd.artifacts.text import save_json
from dd.command import main
from dd.config.run import load_run
from dd.data import synthetic
from dd.data.synthetic import SyntheticSet
from dd.errors import DDError
from dd.plan.jobs import Distillation, Snapshot
from dd.plan.kinds import inputs
from dd.plan.plan import Plan
from dd.report.tables.hyperparameters import hyperparameter_rows
from tests.support.runs import every_ipc
from tests.support.tables import TABLES, cell, fill, render

SPECS = {
    "raw": "iadd", "normalised": "iadd@weights=normalised", "layer": "iadd@weights=layer",
    "prune": "iadd@weights=prune", "none": "mtt",
}  # fmt: skip


def fill_weights(tmp_path, kept, **overrides) -> Plan:
    """The smoke run with accuracies 1 to 5 by reading of W, and sets that hold ``kept(job)``."""
    accuracies = dict(zip(SPECS.values(), range(1, 6), strict=True))

    def accuracy(job, arch, network):
        return accuracies.get(job.distillation.method, 0)

    plan = fill("smoke", tmp_path, accuracy, **overrides)
    header = {"classes": list("0123456789"), "width_factor": plan.run.width_factor}
    for job in plan.of(Distillation):
        snapshots = job.snapshots
        if job.method in SPECS.values():
            images, labels = torch.zeros(10, 1, 8, 8), torch.arange(10)
            vectors = {name: torch.tensor(values) for name, values in kept(job).items()}
            made = SyntheticSet(
                images, labels, torch.zeros(1), torch.ones(1), extras=vectors, header=header
            )
            synthetic.save(Snapshot(job, snapshots[-1]).file(plan.run), made)
    return plan


def losses(job):
    """Losses of two seeds: start, and what is left of it, by hand."""
    start = 2.0 if job.seed == 0 else 1.0
    found = {"matching.convnet": [start, start * (0.25 if job.seed == 0 else 0.04)]}
    if job.method not in (SPECS["prune"], SPECS["none"]):
        found["weighted.convnet"] = [start * 0.5, start * (0.125 if job.seed == 0 else 0.02)]
        # of the ConvNet's tensors: convolution, its bias, norm, its bias, linear layer, its bias
        values = [3, 1, 1.5, 0.5, 0.75, 2] if job.seed == 0 else [1, 1, 1, 1, 0.25, 1]
        sizes = [16 * 9, 16, 16, 16, 16 * 4 * 4 * 10, 10]
        found["importance.convnet"] = [
            v for v, n in zip(values, sizes, strict=True) for _ in range(n)
        ]
    return found


def test_weights_none_is_mtt(tmp_path):
    plan = fill_weights(tmp_path, losses)
    rows = [row for row in render(plan, "iadd_weights") if row["ipc"] == "1"]
    assert {row["weights"]: float(row["mean"]) for row in rows} == {
        "raw": 1, "normalised": 2, "layer": 3, "prune": 4, "none": 5,
    }  # fmt: skip
    written = (tmp_path / "smoke/tables/iadd_weights.md").read_text(encoding="utf-8")
    assert "| 1 | none (MTT) |" in written
    assert "Bold: best weights by architecture, and what" in written


def test_what_reweighting_explains(tmp_path):
    """By hand: geometric means over two sets; ln of what W alone leaves over ln of what is left."""
    plan = fill_weights(tmp_path, losses, seeds=[0, 1])
    rows = render(plan, "iadd_weights")
    names = ("moved", "loss_both", "loss_weights", "loss_images", "share")
    # |W - 1| of tensors that learned: 2 .5 .5 .25 1 and .75; 1 is the weight of those without
    # a gradient. The layer's median is of these six, between .5 and .75; the others' is of
    # parameters: .25 has 2560, .5 has 32, .75 has 2560, what is larger 154. sqrt(.125 x .02) = .05,
    # sqrt(.25 x .04) = .1
    share = 100 * math.log(0.5) / math.log(0.05)
    recipe = plan.run.recipes["iadd"]
    for weights, rate, median in (
        ("raw", "lr_weights", 0.75),
        ("normalised", "lr_softmax", 0.75),
        ("layer", "lr_layer", 0.625),
    ):
        row = cell(rows, ipc=1, weights=weights)
        expected = [median, 5.0, 50.0, 10.0, share]
        assert [float(row[name]) for name in names] == pytest.approx(expected, abs=1e-4)
        assert float(row["rate"]) == recipe[rate]
    for weights in ("prune", "none"):  # no W is learned; the loss falls by the images alone
        row = cell(rows, ipc=1, weights=weights)
        assert [row[name] for name in ("rate", *names)] == ["", "", "", "", "10.0", ""]
    written = (tmp_path / "smoke/tables/iadd_weights.md").read_text(encoding="utf-8")
    assert "| 0.75 | 5 | 50 | 10 | 23.1 |" in written and "| – | – | – | – | 10 | – |" in written
    assert "| Median \\|W − 1\\| | Loss left (%) | By W alone (%) |" in written


def test_a_loss_that_did_not_fall_has_no_share(tmp_path):
    def risen(job):
        return losses(job) | {"weighted.convnet": [1.9, 2.1]}

    plan = fill_weights(tmp_path, risen)
    row = cell(render(plan, "iadd_weights"), ipc=1, weights="raw")
    assert (float(row["loss_both"]), row["share"]) == (105.0, "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"matching.convnet": None},
            "has no 'matching.<network>', which sets of mtt and iadd have",
        ),
        (
            {"weighted.convnet": None},
            "has no 'weighted.<network>', which sets of iadd with learned",
        ),
        ({"weighted.convnet": [1.0]}, "'weighted.convnet' must be two losses above 0"),
        ({"matching.convnet": [1.0, 0.0]}, "'matching.convnet' must be two losses above 0"),
    ],
)
def test_sets_without_losses_are_told(tmp_path, changes, message, capsys):
    def kept(job):
        found = losses(job) | changes
        return {name: values for name, values in found.items() if values is not None}

    plan = fill_weights(tmp_path, kept)
    config, table = f"{plan.run.root}/config.json", str(TABLES / "iadd_weights.yaml")
    assert main(["table", "--config", config, "--table", table, "--out", f"{tmp_path}/t.csv"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and message in said and "digits/iadd/ipc1/seed0/it60" in said


def test_reweighting_shows_one_column(tmp_path, capsys):
    plan = fill_weights(tmp_path, losses)
    definition = yaml.safe_load((TABLES / "iadd_weights.yaml").read_text(encoding="utf-8"))
    definition |= {"rows": ["dataset", "ipc"], "columns": ["weights"]}
    path = tmp_path / "wide.yaml"
    path.write_text(yaml.safe_dump(definition), encoding="utf-8")
    config = f"{plan.run.root}/config.json"
    words = ["table", "--config", config, "--table", str(path), "--out", f"{tmp_path}/t.csv"]
    assert main(words) == 2
    assert "axis 'weights' has several values and is in columns" in capsys.readouterr().err


def test_a_table_of_weights_is_made_from_sets_and_evaluations():
    plan = Plan(every_ipc("smoke"))
    files = inputs(plan.exhibits["table", "iadd_weights"], plan.main.jobs)
    for part in ("distilled", "evaluations"):
        place = f"{plan.run.root}/{part}/digits/iadd@weights=layer/ipc1/seed0/it60"
        assert [file for file in files if file.startswith(place)]


def test_hyperparameters_are_those_of_the_papers(tmp_path):
    """MTT's settings by its authors (CIFAR-10: arXiv:2203.11932, Table 6), what IADD adds."""
    plan = Plan(load_run("iadd", {"results": str(tmp_path)}))
    save_json(f"{plan.run.root}/config.json", plan.document())
    rows = render(plan, "iadd_hyperparameters")
    assert len(rows) == 3 * 3 * 2
    names = ("student_steps", "expert_epochs", "max_start_epoch", "batch_syn", "lr_img", "lr_lr",
             "lr_student", "whitening")  # fmt: skip
    wanted = {
        ("CIFAR-10", 1): (50, 2, 2, 0, 100, 1e-7, 0.01, "zca"),
        ("CIFAR-10", 50): (30, 2, 40, 0, 1000, 1e-5, 0.001, "none"),
        ("CIFAR-100", 50): (80, 2, 40, 125, 1000, 1e-5, 0.01, "zca"),
        ("Tiny ImageNet", 10): (20, 2, 40, 200, 10000, 1e-4, 0.01, "none"),
    }
    for (dataset, ipc), values in wanted.items():
        for method in ("mtt", "iadd"):
            row = cell(rows, dataset=dataset, ipc=ipc, method=method)
            assert [float(row[name]) for name in names[:-1]] == list(values[:-1])
            assert row["whitening"] == values[-1]
            assert (row["experts"], row["buffer.epochs"], row["buffer.lr"]) == ("100", "50", "0.01")
            assert row["iterations"] == "5000"
    assert {row["method"]: bool(row["lr_weights"]) for row in rows} == {"mtt": False, "iadd": True}
    assert {row["recipe"] for row in rows} == {"own"}
    written = (tmp_path / "iadd/tables/iadd_hyperparameters.md").read_text(encoding="utf-8")
    assert (
        "| CIFAR-10 | 1 | MTT | 5000 | 50 | 2 | 2 | all | 100 | 0.01 | 1e-07 | – | zca |" in written
    )
    assert "| Iterations | Student steps J | Expert epochs K |" in written
    latex = (tmp_path / "iadd/tables/iadd_hyperparameters.tex").read_text(encoding="utf-8")
    assert r"lr of $\alpha$" in latex


def test_hyperparameters_follow_the_run():
    run = every_ipc("smoke")
    rows = hyperparameter_rows(
        run, Plan(run).main.jobs, ["iadd"], ["iterations", "buffer.epochs", "momentum_lr"], "here"
    )
    label = run.datasets["digits"]["label"]
    place = [{"dataset": label, "ipc": ipc, "method": "iadd"} for ipc in (1, 10)]
    values = {
        "iterations": run.recipes["iadd"]["iterations"],
        "buffer.epochs": run.recipes["buffer"]["epochs"],
        "momentum_lr": 0.5,
    }
    values["recipe"] = (
        "fallback: those for CIFAR-10 at IPC 10, without ZCA and with an initial student rate of "
        "0.01"
    )
    assert rows == [spot | values for spot in place]  # variants such as weights=raw have no row


def test_a_recipe_that_falls_back_is_said(tmp_path):
    """MTT and IADD on a dataset unknown to their recipes: no published value, though the run says
    that they compare; caption and CSV name the fallback, the methods of other columns none."""
    document = yaml.safe_load(Path("workflow/config/runs/iadd.yaml").read_text(encoding="utf-8"))
    document["datasets"] = {"mine": document["datasets"]["cifar10"]}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    plan = fill(str(path), tmp_path, lambda *_: 20.0)
    rows = render(plan, "iadd_sota")
    published = {row["method"]: bool(row["published"]) for row in rows if row["ipc"] == "10"}
    assert published == {
        "random": True, "herding": True, "kcenter": True, "dc": True, "dsa": True, "dm": False,
        "mtt": False, "iadd": False, "full": False,
    }  # fmt: skip
    taken = "those for CIFAR-10 at IPC 10, without ZCA and with an initial student rate of 0.01"
    for row in rows:
        known = {"mtt": f"MTT: {taken}", "iadd": f"IADD: {taken}"}
        known["dm"] = "DM: those for CIFAR-10 up to IPC 50"
        assert row["fallback"] == known.get(row["method"], "")
    for name in ("iadd_sota", "iadd_hyperparameters"):
        render(plan, name)
        for ending in ("md", "tex", "html"):
            text = (tmp_path / f"mine/tables/{name}.{ending}").read_text(encoding="utf-8")
            assert text.count(f"MTT and IADD on CIFAR-10 take {taken}") == 1
    assert text.count("<td>fallback</td>") == 3 * 2
    rows = render(plan, "iadd_hyperparameters")
    assert {row["recipe"] for row in rows} == {f"fallback: {taken}"}


def test_a_run_without_the_methods_has_no_hyperparameters():
    plan = Plan(load_run("cifar10"))
    with pytest.raises(DDError, match="here: run cifar10 does not distil by mtt or iadd"):
        hyperparameter_rows(plan.run, plan.jobs, ["mtt", "iadd"], ["iterations"], "here")
