"""Tables and pages of runs whose sets are imported: whose they are, holes, numbers, costs."""

import pytest
from matplotlib import pyplot

from dd.artifacts.text import load_json
from dd.command import main
from dd.config.documents import read_yaml
from dd.config.run import load_run
from dd.plan.plan import Plan
from dd.report import judging
from dd.report.captions import caption
from dd.report.figures import bars
from dd.report.index import about, config_words
from dd.report.tables.settings import settings_rows
from tests.support.figures import exhibit_of
from tests.support.smoke import write_run
from tests.support.tables import cell, fill, fill_plan, render

THEM = "by the authors of Model Pool (public repository Distill-Generalization-Group/"
ENTRY = {
    "method": "dc", "dataset": "digits", "ipc": 1, "iterations": 20, "seed": 0, "file": "a.pt",
    "by": "them_all",
}  # fmt: skip


def markdown(plan: Plan, name: str) -> str:
    with open(f"{plan.run.root}/tables/{name}.md", encoding="utf-8") as file:
        return file.read()


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Plan:
    """The run of the released sets on a JPEG copy, with made-up accuracies."""
    folder = tmp_path_factory.mktemp("released")
    for name in ("train/a", "test/a"):
        (folder / "images" / name).mkdir(parents=True)
    given = {"data_root": str(folder / "images"), "copy": "JPEG", "sets_root": "elsewhere"}
    run = load_run("modelpool-released", given | {"results": str(folder)})
    return fill_plan(Plan(run), lambda job, arch, n: 20.0 + n)


def test_published_values_stand_beside_the_authors_own_sets(released):
    rows = render(released, "modelpool_ablation")
    row = cell(rows, ipc=1, iterations=1000, setting="baseline", arch="mlp")
    assert (row["published"], row["published_std"], row["n"]) == ("25.87", "0.9", "10")
    row = cell(rows, ipc=10, iterations=3000, setting="pool", arch="alexnet")
    assert row["published"] and row["n"] == "3"
    row = cell(rows, ipc=1, iterations=1000, setting="pool (0.5 CE)", arch="vgg11")
    assert row["published"] == "26.51"
    rows = render(released, "modelpool_pool_settings")
    assert {row["setting"] for row in rows} == {"main-and-similar"}
    assert cell(rows, ipc=1, iterations=2000, arch="mlp")["published"] == "27.49"
    text = markdown(released, "modelpool_ablation")
    assert "Published values are for the original images, ours for a JPEG copy." in text


def test_bold_is_explained_where_settings_compete(released):
    render(released, "modelpool_pool_settings")  # one setting: nothing to compare
    assert "Bold" not in markdown(released, "modelpool_pool_settings")
    render(released, "modelpool_ablation")
    assert "Bold: best setting" in markdown(released, "modelpool_ablation")


def test_panels_that_the_run_leaves_out_say_so(released):
    """Only their title is left; the next panel takes the label of the axis."""
    figure = bars.draw(exhibit_of(released, "modelpool_ablation"))
    by_title = {panel.get_title(): panel for panel in figure.axes}
    empty = [panel for panel in figure.axes if not panel.axison]
    assert [panel.get_title() for panel in empty] == [
        "IPC 10, 1000 iterations", "IPC 10, 2000 iterations",
    ]  # fmt: skip
    assert [text.get_text() for panel in empty for text in panel.texts] == ["no data"] * 2
    labels = {title: panel.get_ylabel() for title, panel in by_title.items() if panel.axison}
    assert [title for title, label in labels.items() if label] == [
        "IPC 1, 1000 iterations", "IPC 10, 3000 iterations",
    ]  # fmt: skip
    pyplot.close(figure)


def test_each_cell_tells_its_own_number(released):
    rows = render(released, "modelpool_ablation")
    assert {row["n"] for row in rows} == {"10", "5", "3"}
    text = markdown(released, "modelpool_ablation")
    assert "over 10 networks (in some cells 3 to 5) on one synthetic set." in text
    # 20, 21, 22; 20 to 24
    assert "21.00 ± 1.00 (n = 3)" in text and "22.00 ± 1.58 (n = 5)" in text
    assert "24.50 ± 3.03 (n = 10)" not in text and "24.50 ± 3.03" in text


def test_the_table_of_every_network_says_whose_the_sets_are(released):
    rows = render(released, "evaluations")
    text = markdown(released, "evaluations")
    assert f"Synthetic sets {THEM}Distill-Generalization), imported." in text
    assert len(rows) == 1028 and "Fallback" not in text


def test_one_network_is_singular():
    plan = Plan(load_run("families")).main
    said = caption(plan.exhibits["table", "families_cross_arch"])
    assert "over 1 network (in some cells 5) on each of 3 synthetic sets." in said


def test_captions_say_whose_the_sets_are_and_what_is_left_out(released):
    for kind, name in (("table", "modelpool_ablation"), ("figure", "modelpool_images")):
        said = caption(released.exhibits[kind, name])
        assert f"Synthetic sets {THEM}Distill-Generalization), imported." in said
        assert "fallback" not in said.lower()
    said = caption(released.exhibits["table", "modelpool_ablation"])
    assert (
        "Left out in this run: IPC 1, Iterations 1000 or 2000, Architecture ResNet18; IPC 10, "
        "Iterations 1000 or 2000; IPC 10, Architecture VGG11 or ResNet18." in said
    )
    assert "Left out" not in caption(released.exhibits["figure", "modelpool_images"])


def test_page_and_settings_name_them(released):
    shown = {row[0].text: row[1].text for row in about(released.main, None).body}
    assert shown["Imported sets"] == f"{THEM}Distill-Generalization)"
    assert "8 imported sets and 24 evaluations" in shown["Made"]
    assert "; 3 for IPC 10, Architecture AlexNet" in shown["Evaluation"]
    rows = [row for row in settings_rows(released.run) if row["part"] == "import"]
    assert len(rows) == 8 and rows[0]["name"] == "dc, IPC 1, 1000 iterations, seed 0"
    assert "file res_DC_CIFAR10_ConvNet_1ipc_1000.pt, entry last" in rows[0]["settings"]
    assert not [row for row in settings_rows(released.run) if row["part"] == "distillation"]


def test_claims_are_judged_on_them(released):
    rows = render(released, "claims")
    # pool and baseline have the same made-up numbers
    mlp = [row for row in rows if row["claim"] == "modelpool-pool-mlp"]
    assert len(mlp) == 4 and {row["limit"] for row in mlp} == {"for this set"}
    assert {float(row["difference"]) for row in mlp} == {0.0}


def test_a_temperature_chosen_on_test_data_is_said():
    plan = Plan(load_run("cifar10"))
    cells = plan.exhibits["table", "modelpool_ablation_released"].cells()
    said = judging._temperatures(plan.run, cells)
    assert "kd-released at the best temperature on test data" in said and len(said) == len(
        set(said)
    )


def test_a_claim_on_distillation_says_at_which_temperature(released):
    rows = {row["claim"]: row for row in render(released, "claims")}
    scale, whose = "IPC 1, 10; 1000, 2000, 3000 iterations", "sets by the authors of Model Pool"
    half = "kd at temperature 3; kd-released at temperature 0"
    assert rows["modelpool-pool-kd"]["scale"] == f"{scale}; kd at temperature 3; {whose}"
    assert rows["modelpool-pool-kd-half"]["scale"] == f"{scale}; {half}; {whose}"
    assert "temperature" not in rows["modelpool-pool-mlp"]["scale"]


def test_a_set_that_is_not_released_is_a_hole(tmp_path):
    """Shown as such, with a note; the rest of its row competes without it."""
    entries = [ENTRY, ENTRY | {"ipc": 10, "iterations": 60}]
    run = write_run(tmp_path, imported=entries, sets_root="x")
    plan = fill(str(run), tmp_path, lambda job, arch, n: 50.0 + n + len(job.distillation.method))
    rows = render(plan, "modelpool_ablation")
    hole = cell(rows, ipc=1, iterations=60, setting="baseline", arch="mlp")
    assert (hole["mean"], hole["n"], hole["note"]) == ("", "0", "no set was released")
    there = cell(rows, ipc=1, iterations=20, setting="baseline", arch="mlp")
    assert (there["mean"], there["n"], there["note"]) == ("52.5", "2", "")
    text = markdown(plan, "modelpool_ablation")
    assert "| 1 | 60 | baseline | –† | –† |" in text and "† no set was released." in text
    assert "Imported synthetic sets: those of DC by them\\_all." in text


def test_costs_of_others_are_not_known(tmp_path):
    """Nobody measured them: a dash, and no ratio to them."""
    made = [ENTRY | {"method": "dm", "iterations": n} for n in (20, 60)]
    changes = {"tables": ["metadd_cost"], "figures": ["modelpool_images"], "imported": made}
    narrowed = {"metadd_cost": {"ipc": [1], "method": ["dm"]}}
    axes = {"ipc": [1], "iterations": [20, 60]}
    run = write_run(tmp_path, sets_root="x", axes=axes, axes_for=narrowed, **changes)
    plan = fill(str(run), tmp_path, lambda *_: 50.0)
    (row,) = render(plan, "metadd_cost")
    assert (row["seconds"], row["host_mb"], row["hardware"]) == ("", "", "")
    text = markdown(plan, "metadd_cost")
    assert "Not measured, since no set was distilled here." in text


def test_commands_of_the_page_name_no_folder_of_this_machine(released):
    words = config_words(released.run)
    assert "sets_root=DIR" in words and "data_root=DIR" in words
    assert not [word for word in words if "elsewhere" in word]


def test_the_configuration_reads_back(released):
    stored = load_json(f"{released.run.root}/config.json")["run"]
    written = read_yaml("workflow/config/runs/modelpool-released.yaml")
    assert stored["imported"] == written["imported"] and stored["exclude"] == written["exclude"]


def drawn(plan: Plan, name: str, out) -> bool:
    """Whether a figure is drawn, and is no empty page."""
    words = ["--config", f"{plan.run.root}/config.json", "--out", str(out)]
    assert main(["figure", "--figure", f"workflow/config/figures/{name}.yaml", *words]) == 0
    return out.stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["modelpool_ablation", "claims"])
def test_figures_are_drawn_without_what_is_left_out(released, tmp_path, name):
    """Whole panels of it are empty."""
    assert drawn(released, name, tmp_path / "out.png")


@pytest.mark.slow
def test_figures_are_drawn_with_holes(tmp_path):
    changes = {
        "imported": [ENTRY], "sets_root": "x", "figures": ["modelpool_ablation"], "tables": [],
        "axes": {"ipc": [1, 10], "iterations": [20, 60], "arch": ["mlp", "lenet"]},
        "axes_for": {},
    }  # fmt: skip
    plan = fill(str(write_run(tmp_path, **changes)), tmp_path, lambda job, arch, n: 50.0 + n)
    assert drawn(plan, "modelpool_ablation", tmp_path / "out.png")
