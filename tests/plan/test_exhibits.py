"""Mistakes in the YAML of a table or figure stop before any job; each is named where it stands."""

from dataclasses import replace

import pytest

from dd.command import main
from dd.config.run import load_run
from dd.errors import DDError
from dd.plan.exhibits import load_exhibit
from dd.plan.kinds import check
from dd.plan.plan import Plan
from dd.plan.validate import check_plan
from tests.support.runs import copy_workflow
from tests.support.smoke import write_run

ABLATION = "tables/modelpool_ablation"
BARS = "figures/modelpool_ablation"
ROWS = ("rows: [dataset, ipc, iterations, setting]", "rows: [dataset, ipc, setting]")


def configured(folder, capsys, name, change, **run) -> str:
    """What ``configure`` says of a run of one table or figure, after a ``change`` of its YAML."""
    kind, _, stem = name.partition("/")
    copied = copy_workflow(folder) / "workflow"
    path = copied / "config" / f"{name}.yaml"
    text = path.read_text(encoding="utf-8")
    assert change[0] in text
    path.write_text(text.replace(*change), encoding="utf-8")
    own = {"tables": [], "figures": [], "axes_for": {}} | {kind: [stem]}
    own["axes"] = {"ipc": [1, 10]} | ({"iterations": [20, 60]} if "  iterations:" in text else {})
    words = ["--run", str(write_run(folder, **own | run)), "--workflow", str(copied)]
    assert main(["configure", *words, "--out", str(folder / "config.json")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and not (folder / "config.json").exists()
    return said


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (BARS, ("color:", "colour:"), "layout has no 'color'; it needs x, color, column, row"),
        (BARS, ("x: [arch], ", ""), "layout has no 'x'"),
        (BARS, ("layout: {", "layout: {columns: [arch], "), "'columns': did you mean 'column'?"),
        (
            BARS,
            ("column: [iterations]", "column: [dataset]"),
            "axis 'iterations' has several values but no place; put it into x or color or column "
            "or row of layout",
        ),
        ("figures/iadd_curves", ("x: [iterations]", "x: [ipc]"), "x must be [iterations]"),
        ("figures/iadd_weights", ("x: [iterations]", "x: [ipc]"), "x must be [iterations]"),
        ("figures/metadd_variance", ("x: [iterations]", "x: [ipc]"), "x must be [iterations]"),
        (
            ABLATION,
            ROWS,
            "axis 'iterations' has several values but no place; put it into rows or columns",
        ),
        (
            "tables/iadd_weights",
            ("rows: [dataset, ipc, weights]", "rows: [dataset, weights]"),
            "axis 'ipc' has several values but no place; put it into rows or columns",
        ),
        (
            "tables/iadd_weights",
            ("ipc, weights]\ncolumns: [arch]", "weights]\ncolumns: [arch, ipc]"),
            "axis 'ipc' has several values and is in columns, where a table of kind reweighting",
        ),
        (
            "tables/metadd_meta_area",
            ("rows: [dataset, ipc, method]", "rows: [dataset, method]"),
            "axis 'ipc' has several values but no place; put it into rows or columns",
        ),
        ("tables/metadd_meta_area", ("columns: [when]", "columns: [wen]"), "unknown axis 'wen'"),
        (
            "tables/metadd_cost",
            ("rows: [dataset, ipc, method]", "rows: [dataset, ipc]"),
            "axis 'method' has several values but no place; put it into rows",
        ),
        (
            "tables/ranking",
            ("rows: [dataset, ipc, arch, method]", "rows: [dataset, ipc, method]"),
            "axis 'arch' has several values but no place; put it into rows",
        ),
        (
            "tables/baselines",
            ("{file: baselines.csv", "{file: baseline.csv"),
            "published.file: unknown file in",
        ),
        (
            "tables/baselines",
            ("where: {arch: convnet}}", "where: {network: convnet}}"),
            "published: unknown column 'network'",
        ),
        (
            "tables/baselines",
            ("where: {arch: convnet}}", "only: {method: [hering]}}"),
            "published: unknown value of axis 'method' 'hering': did you mean 'herding'?",
        ),
        (
            "tables/iadd_covid",
            ("best_except: [full]", "best_except: [ful]"),
            "best_except: unknown value of axis 'method' 'ful': did you mean 'full'?",
        ),
        (
            "tables/ranking",
            ("baseline: random", "baseline: randon"),
            "baseline: unknown value of axis 'method' 'randon': did you mean 'random'?",
        ),
        (
            "tables/ranking",
            ("    random: {method: random, protocol: hard}\n", ""),
            "baseline: unknown value of axis 'method' 'random'",
        ),
        (
            ABLATION,
            ("baseline: {method: dc,", "baseline: {methood: dc,"),
            "no axis binds 'method'; did you mean it by 'methood'? (cell: dataset digits, ipc 1, "
            "iterations 20, setting baseline, arch",
        ),
        (
            ABLATION,
            ("arch: [convnet, mlp,", "arch: [convnet, mpl,"),
            f"{ABLATION}.yaml: axes.arch: unknown network 'mpl': did you mean 'mlp'?",
        ),
        (
            "tables/families",
            ('arch: "convnet:growth=2,norm=none"', "arch: convnett"),
            "families.yaml: axes.method.frepo: unknown network 'convnett'",
        ),
        (
            "tables/baselines",
            ("where: {arch: convnet}}", "where: {arch: convnett}}"),
            "published.where: unknown value of column 'arch' of",
        ),
        (
            "tables/baselines",
            ("axes:\n", "exclude: [{method: [hering]}]\naxes:\n"),
            "exclude.0: unknown value of axis 'method' 'hering': did you mean 'herding'?",
        ),
        (
            "tables/iadd_covid",
            ("  arch: [convnet]\n", ""),
            "no axis binds 'arch', the network whose accuracy a table of kind results shows (cell: "
            "dataset digits, ipc 1, method random)",
        ),
        (
            "figures/iadd_curves",
            ("  arch: [convnet]\n", ""),
            "no axis binds 'arch', the network whose accuracy a figure of kind curves shows (cell",
        ),
        (
            "tables/modelpool_ablation_released",
            ("axis: temperature", "axes: temperature"),
            "'select', which an axis binds, must be",
        ),
    ],
)
def test_a_mistake_in_a_definition_stops_before_any_job(tmp_path, capsys, name, change, message):
    said = configured(tmp_path, capsys, name, change)
    assert message in said
    assert f"{name}.yaml" in said


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("iadd_hyperparameters", ("- lr_img", "- lr_image"), "columns: unknown setting 'lr_image'"),
        ("iadd_hyperparameters", ("[mtt, iadd]", "[mtt, iad]"), "unknown objective 'iad'"),
        ("iadd_hyperparameters", ("[mtt, iadd]", "[dd]"), "run mine does not distil by dd"),
        ("modelpool_taxonomy", (", year: 2018", ""), "entries.0 has no 'year'"),
    ],
)
def test_a_mistake_in_a_table_without_cells_stops_before_any_job(
    tmp_path, capsys, name, change, message
):
    beside = {"tables": ["iadd_covid", name], "axes": {"ipc": [1]}}
    assert message in configured(tmp_path, capsys, f"tables/{name}", change, **beside)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            {"axes": {"ipc": [1], "iteration": [20]}},
            "axes.iterations is 'last', but run mine lists no iterations in axes, only ipc, "
            "iteration",
        ),
        (
            {"axes_for": {"modelpool": {"iterations": [20], "setting": ["pol"]}}},
            "run mine, axes_for.modelpool.setting: unknown value of axis 'setting' of "
            "modelpool_images 'pol': did you mean 'pool'",
        ),
    ],
)
def test_a_mistake_in_the_run_is_named_there(tmp_path, capsys, run, message):
    change = ("  iterations: [1000, 2000, 3000]\n", "  iterations: last\n")
    assert message in configured(tmp_path, capsys, "figures/modelpool_images", change, **run)


def test_a_network_that_the_run_names_is_found_there(tmp_path, capsys):
    run = {"axes_for": {"modelpool_ablation": {"arch": ["mlp", "vgg12"]}}}
    said = configured(tmp_path, capsys, ABLATION, ("paper:", "paper:"), **run)
    assert "run mine, axes_for.modelpool_ablation.arch: unknown network 'vgg12'" in said


def test_an_axis_whose_other_values_are_left_out_needs_no_place(tmp_path):
    path = copy_workflow(tmp_path) / f"workflow/config/{ABLATION}.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace(*ROWS), encoding="utf-8")
    run = load_run("smoke")
    with pytest.raises(DDError, match="axis 'iterations'"):
        check(load_exhibit("table", path, run))
    check(load_exhibit("table", path, replace(run, exclude=[{"iterations": [60]}])))


def test_weights_for_networks_that_no_method_uses():
    run = replace(load_run("smoke"), tables=["baselines"], figures=[], optional=[], axes_for={})
    run = replace(run, axes={"ipc": [1]}, pretrained={"digits": {"resnet18": "x"}}, recipes={})
    with pytest.raises(DDError, match="no method of the run uses frozen networks of digits; leave"):
        check_plan(Plan(run))


SETS = [
    {"method": "dc", "dataset": "digits", "ipc": 1, "iterations": n, "seed": 0, "file": "a.pt",
     "by": "them"}
    for n in (20, 60)
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "name", "change", "message"),
    [
        ("figure", "metadd_variance", {"cam_networks": ["mlp"]}, "a comparison of maps needs at "),
        ("figure", "metadd_cams", {"cam_networks": ["mlp"]}, "cam_networks are mlp: a comparison"),
        ("table", "metadd_meta_area", {"cam_networks": ["mlp"]}, "a comparison of maps needs at "),
        *(
            (
                kind,
                name,
                {"imported": SETS, "sets_root": "x", "axes_for": {name: axes}},
                f"run smoke, {kind} {name}: has no synthetic set to show (its sets are imported, "
                "and imported lists none of them); leave it out",
            )
            for kind, name, axes in (
                ("figure", "modelpool_images", {"ipc": [10], "setting": ["baseline"]}),
                ("figure", "modelpool_ablation", {"ipc": [10], "setting": ["baseline"]}),
                ("table", "modelpool_ablation", {"ipc": [10], "setting": ["baseline"]}),
            )
        ),
        (
            "figure",
            "modelpool_images",
            {"exclude": [{"setting": ["baseline", "pool"]}]},
            "has no synthetic set to show (no cell is left); leave it out",
        ),
    ],
)
def test_what_no_result_could_show_stops_before_any_job(kind, name, change, message):
    exhibit = Plan(load_run("smoke")).exhibits[kind, name]
    check(exhibit)
    with pytest.raises(DDError) as caught:
        check(replace(exhibit, run=replace(exhibit.run, **change)))
    assert message in str(caught.value)


def test_one_iteration_has_no_cost_unless_the_distillation_goes_on():
    """Another table may show more iterations of it; all of them are timed."""
    run = replace(load_run("smoke"), tables=["metadd_cost"], figures=[], optional=[])
    run = replace(run, axes={"ipc": [1]}, axes_for={"metadd_cost": {"method": ["dm"]}})
    run = replace(run, recipes={"dm": {"iterations": 1}})
    with pytest.raises(DDError) as caught:
        check_plan(Plan(run))
    assert str(caught.value) == (
        "run smoke, table metadd_cost: a cost needs at least 2 iterations, dm on digits at IPC 1 "
        "has 1; give it more, or leave it out"
    )
    beside = {"axes": {"ipc": [1], "iterations": [20]}, "figures": ["metadd_variance"]}
    check_plan(Plan(replace(run, **beside)))
