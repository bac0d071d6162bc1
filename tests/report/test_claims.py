"""Claims and their verdicts: from made accuracies, maps, costs and erasings; what a table says."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from scipy import stats

from dd.artifacts.text import load_rows, save_rows
from dd.config.run import load_run
from dd.errors import DDError
from dd.plan import kinds
from dd.plan.claims import load_claims
from dd.plan.exhibits import Exhibit
from dd.plan.jobs import Erasing, Evaluation
from dd.plan.kinds import inputs
from dd.plan.plan import Plan
from dd.report.compare import average, compare
from dd.report.figures import claims as forest
from dd.report.judging import judged
from dd.report.read import claims as read_claims
from dd.report.read.accuracies import rows_of_networks
from dd.report.read.claims import found
from dd.report.tables.claims import claims as table
from tests.support.metadd import erasing_rows
from tests.support.runs import copy_workflow
from tests.support.tables import fill, render

JITTER = [[0.0, 0.3, -0.2], [0.1, -0.3, 0.2], [0.2, 0.1, 0.0]]  # by seed and network


def workflow(folder: Path, claims: str, **axes) -> Path:
    """A copy of the workflow with these claims, and a run of the ablation alone."""
    copied = copy_workflow(folder) / "workflow"
    for path in (copied / "config/claims").iterdir():
        path.unlink()
    (copied / "config/claims/modelpool.yaml").write_text(claims)
    run = yaml.safe_load((copied / "config/runs/smoke.yaml").read_text(encoding="utf-8"))
    run |= {"tables": ["modelpool_ablation", "claims"], "figures": ["claims"], "axes_for": {}}
    run |= {"seeds": [0, 1, 2], "networks": 3}
    run["axes"] = {"ipc": [1, 10], "iterations": [20], "arch": ["convnet", "mlp"], **axes}
    (copied / "config/runs/own.yaml").write_text(yaml.safe_dump(run))
    return copied


def filled(copied: Path, accuracy) -> Plan:
    """The plan of the run, with made accuracies."""
    results = copied.parent / "results"
    plan = Plan(load_run("own", {"results": str(results)}, copied))
    for job in plan.of(Evaluation):
        rows = [
            {"arch": arch, "network": n, "accuracy": accuracy(job, arch, n)}
            for arch in job.archs
            for n in range(3)
        ]
        save_rows(job.file(plan.run), rows)
    return plan


CLAIM = """
- id: pool-helps
  says: The pool helps.
  source: "arXiv:2402.13007, Table 4"
  table: modelpool_ablation
  compare: {setting: [[pool, baseline]]}
"""


def gains(**by_place):
    """Accuracies where the pool gains ``by_place[arch]`` points, with some scatter."""

    def accuracy(job, arch, n):
        made = job.distillation
        base = 40 + 5 * made.seed + n + made.ipc
        gain = by_place.get(f"{arch}{made.ipc}", by_place.get(arch, 0.0))
        return base + (gain + JITTER[made.seed][n]) * (made.method == "dc+pool")

    return accuracy


@pytest.mark.parametrize(
    ("extra", "accuracy", "expected"),
    [
        ("", gains(convnet=2, mlp=3), "holds"),
        ("", gains(convnet=2), "undecided"),
        ("", gains(convnet=2, mlp=3, mlp10=-2), "refuted"),
        ("  cells: {arch: [mlp]}\n", gains(convnet=-2, mlp=3), "holds"),
        ("  cells: {arch: [mlp], ipc: [10]}\n", gains(mlp10=3, mlp=-2), "holds"),
        ("  average_over: all\n", gains(convnet=-1, mlp=4), "holds"),
        ("  average_over: [arch]\n", gains(convnet=-1, mlp=4), "holds"),
        ("  average_over: [ipc]\n", gains(convnet=-1, mlp=4), "refuted"),
        ("  expect: lower\n", gains(convnet=-2, mlp=-2), "holds"),
        ("  margin: 1\n", gains(convnet=2, mlp=2), "holds"),
        ("  margin: 3\n", gains(convnet=2, mlp=2), "refuted"),
        ("  expect: not lower\n  margin: 1\n", gains(), "holds"),
        ("  expect: not lower\n  margin: 1\n", gains(mlp=-2), "refuted"),
        ("  expect: equal\n  margin: 1\n", gains(), "holds"),
        ("  expect: equal\n  margin: 0.05\n", gains(), "undecided"),
        ("  expect: equal\n  margin: 1\n", gains(mlp=3), "refuted"),
    ],
)
def test_verdicts_on_made_data(tmp_path, extra, accuracy, expected):
    plan = filled(workflow(tmp_path, CLAIM + extra), accuracy)
    (one,) = judged(plan.run)
    assert one.verdict == expected
    assert (one.limit, one.note) == ("", "")


def test_the_numbers_behind_a_verdict(tmp_path):
    """The difference of a cell is over sets: means of the networks of each, in pairs by seed."""
    plan = filled(workflow(tmp_path, CLAIM), gains(convnet=2, mlp=3))
    rows, sheet = table(plan.exhibits["table", "claims"])
    assert [(row["place"], row["cell"]) for row in rows] == [
        ("IPC 1, ConvNet", "for"), ("IPC 1, MLP", "for"),
        ("IPC 10, ConvNet", "for"), ("IPC 10, MLP", "for"),
    ]  # fmt: skip
    d = [2 + sum(by_network) / 3 for by_network in JITTER]
    low, high = stats.ttest_1samp(d, 0).confidence_interval(0.9)
    row = rows[0]
    assert row["difference"] == pytest.approx(sum(d) / 3, abs=1e-4)
    assert (row["low"], row["high"]) == pytest.approx((low, high), abs=1e-4)
    expected = stats.ttest_1samp(d, 0, alternative="greater").pvalue
    assert float(row["p_for"]) == pytest.approx(expected, rel=5e-3)
    assert (row["n_sets"], row["n_networks"], row["counted"]) == (3, 3, "sets")
    assert (row["verdict"], row["compared"], row["unit"]) == ("holds", "pool − baseline", "points")
    files = row["files"].split(" ")
    assert len(files) == 6 and files[0] == "evaluations/digits/dc+pool/ipc1/seed0/it20/hard.csv"
    assert all((Path(plan.run.root) / file).is_file() for file in files)
    assert {Path(plan.run.root) / file for file in files} <= {
        Path(file) for file in inputs(plan.exhibits["table", "claims"], plan.main.jobs)
    }
    assert [row["weakest"] for row in rows].count("yes") == 1
    assert row["scale"] == "IPC 1, 10; 20 iterations; widths × 0.125" and row["each"] == "networks"
    markdown = sheet.markdown()
    assert "| pool-helps | digits (scikit-learn, 8x8) | **holds** | 4 (4 for it) |" in markdown
    assert "+2.04 points" in markdown and "3 × 3 networks |" in markdown
    assert "It stands in for the papers' datasets" in markdown


def test_one_set_is_said(tmp_path):
    copied = workflow(tmp_path, CLAIM)
    path = copied / "config/runs/own.yaml"
    path.write_text(path.read_text().replace("- 1\n- 2\n", "", 1))
    run = yaml.safe_load(path.read_text()) | {"seeds": [1]}
    path.write_text(yaml.safe_dump(run))
    plan = filled(copied, gains(convnet=2, mlp=3))
    (one,) = judged(plan.run)
    assert (one.verdict, one.limit) == ("holds", "for this set")
    rows, sheet = table(plan.exhibits["table", "claims"])
    expected = stats.ttest_1samp([2 + j for j in JITTER[1]], 0).confidence_interval(0.9)
    assert (rows[0]["low"], rows[0]["high"]) == pytest.approx(tuple(expected), abs=1e-4)
    assert rows[0]["counted"] == "networks"
    assert "**holds for this set**" in sheet.markdown()


def test_what_is_not_in_a_run_is_said(tmp_path):
    claim = CLAIM.replace("[[pool, baseline]]", "[[pool, baseline], [pool+kd, kd]]")
    copied = workflow(tmp_path, claim + "- " + CLAIM[3:].replace("pool-helps", "vgg11").rstrip()
                      + "\n  cells: {arch: [vgg11]}\n")  # fmt: skip
    plan = filled(copied, gains(convnet=2, mlp=3))
    first, second = judged(plan.run)
    assert (first.verdict, first.note) == ("holds", "")
    assert (second.verdict, second.note) == ("not tested", "this run has no such cells")
    narrow = workflow(tmp_path / "narrow", claim, setting=["baseline", "pool"])
    (one,) = judged(filled(narrow, gains(convnet=2, mlp=3)).run)
    assert (one.verdict, one.note) == ("holds", "not in this run: pool+kd − kd")
    assert (first.word, one.word) == ("holds", "holds as far as tested")
    refuted = workflow(tmp_path / "refuted", claim, setting=["baseline", "pool"])
    (one,) = judged(filled(refuted, gains(convnet=2, mlp=-3)).run)
    assert one.note and one.word == "refuted"  # what is missing could not save the claim


def test_cells_that_a_run_leaves_out_are_said(tmp_path):
    """A claim about every cell, or about their mean, holds only as far as its cells are there."""
    for extra in ("", "  average_over: all\n"):
        copied = workflow(tmp_path / extra.strip().replace(": ", ""), CLAIM + extra)
        path = copied / "config/runs/own.yaml"
        left_out = [{"ipc": [10], "arch": ["mlp"]}, {"iterations": [20], "arch": ["vgg11"]}]
        run = yaml.safe_load(path.read_text()) | {"exclude": left_out}
        path.write_text(yaml.safe_dump(run, sort_keys=False))
        (one,) = judged(filled(copied, gains(convnet=2, mlp=3)).run)
        assert one.note == "left out in this run: IPC 10, Architecture MLP"
        assert one.word == "holds as far as tested"
    narrow = CLAIM + "  cells: {arch: [convnet]}\n"  # a claim that the rule leaves whole
    copied = workflow(tmp_path / "narrow", narrow)
    (copied / "config/runs/own.yaml").write_text(yaml.safe_dump(run))
    (one,) = judged(filled(copied, gains(convnet=2)).run)
    assert (one.note, one.word) == ("", "holds")


def test_what_is_compared_counts_for_the_scale(tmp_path):
    """An IPC of which no pair is there does not stand beside the verdict."""
    copied = workflow(tmp_path, CLAIM, iterations=[20, 60])
    path = copied / "config/runs/own.yaml"
    rules = [{"iterations": [60], "setting": ["pool"]}]
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"exclude": rules}))
    (one,) = judged(filled(copied, gains(convnet=2, mlp=3)).run)
    assert one.scale == "IPC 1, 10; 20 iterations; widths × 0.125"
    assert one.note == "left out in this run: Iterations 60, Setting pool"


def test_diverged_networks_are_counted_once(tmp_path):
    """The baseline stands in two pairs. One of its networks and two of the pool's diverged."""
    claim = CLAIM.replace("[[pool, baseline]]", "[[pool, baseline], [kd, baseline]]")
    copied = workflow(tmp_path, claim + "  average_over: all\n")
    plan = filled(copied, gains(convnet=2, mlp=3))
    for job in plan.of(Evaluation):
        made = job.distillation
        if (made.seed, made.ipc, job.protocol) != (0, 1, "hard"):
            continue
        failed = {"dc": [("mlp", "0")], "dc+pool": [("mlp", "1"), ("convnet", "2")]}[made.method]
        rows = [
            row | {"diverged": int((row["arch"], row["network"]) in failed)}
            for row in load_rows(job.file(plan.run))
        ]
        save_rows(job.file(plan.run), rows)
    rows_of_networks.cache_clear()
    (row,), sheet = table(plan.exhibits["table", "claims"])
    assert (row["diverged_first"], row["diverged_second"]) == (2, 1)
    said = "pool-helps, digits (scikit-learn, 8x8): 3 of the networks diverged"
    assert said in sheet.markdown()
    by_cell = claim.replace("pool-helps", "by-cell")  # the baseline is in several differences
    file = copied / "config/claims/modelpool.yaml"
    file.write_text(by_cell)
    rows, sheet = table(plan.exhibits["table", "claims"])
    assert sum(row["diverged_second"] for row in rows) == 2
    assert said.replace("pool-helps", "by-cell") in sheet.markdown()


def test_numbers_of_networks_that_differ_are_a_range(tmp_path):
    one = compare({0: [1.0, 2.0], 1: [3.0, 4.0, 5.0]}, {0: [0.0, 1.0], 1: [2.0, 3.0]})
    other = compare({0: [1.0], 1: [3.0]}, {0: [0.0], 1: [2.0]})
    assert one.inner == (2, 3) and average([one, other]).inner == (1, 3)


def test_the_table_counts_the_cells_that_support_a_claim_alone(tmp_path):
    """MLPs gain in both cells; ConvNets do not, though one difference may lie above 0."""
    plan = filled(workflow(tmp_path, CLAIM), gains(mlp=3))
    rows, sheet = table(plan.exhibits["table", "claims"])
    assert [row["cell"] for row in rows].count("for") == 2
    markdown = sheet.markdown()
    assert "**undecided** | 4 (2 for it) |" in markdown
    assert "Cells for it support the claim alone" in markdown


def test_a_pair_is_named_if_the_claim_has_several(tmp_path):
    claim = CLAIM.replace("[[pool, baseline]]", "[[pool, baseline], [kd, baseline]]")
    narrow = workflow(tmp_path, claim, setting=["baseline", "pool"], arch=["mlp"], ipc=[1])
    plan = filled(narrow, gains(mlp=3))
    (one,) = judged(plan.run)
    assert [one.words(group) for group in one.groups] == ["pool − baseline"]
    figure = forest.draw(plan.exhibits["figure", "claims"])
    (heading,) = [text.get_text() for text in figure.axes[0].texts]
    assert heading.startswith("pool-helps: pool − baseline: ")


def test_a_claim_without_its_table_is_not_judged():
    run = load_run("covid")
    assert {claim.id for claim in load_claims(run)} == {"iadd-covid"}
    everything = {claim.id for claim in load_claims(load_run("smoke"))}
    files = Path("workflow/config/claims").glob("*.yaml")
    assert everything == {c["id"] for file in files for c in yaml.safe_load(file.read_text())}
    assert {"modelpool-pool-kd", "iadd-mtt", "metadd-erasing"} < everything


@pytest.mark.parametrize("run", [p.stem for p in Path("workflow/config/runs").glob("*.yaml")])
def test_every_run_judges_claims(run):
    """Those about its tables and figures; there is none about the baselines alone."""
    plan = Plan(load_run(run))
    judges = ("table", "claims") in plan.exhibits and ("figure", "claims") in plan.exhibits
    assert judges == bool(load_claims(plan.run)) == (run != "fashion-mnist")
    if judges:
        assert plan.targets()["claims"] == (["claims"], ["claims"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("table: modelpool_ablation", "table: modelpool_ablaton"), "unknown table"),
        (("setting: [[", "settings: [["), "unknown axis of modelpool_ablation 'settings'"),
        (("[[pool, baseline]]", "[[pol, baseline]]"), "'pol': did you mean 'pool'"),
        (("[[pool, baseline]]", "[[pool, pool]]"), "compare.setting: compares 'pool' with itself"),
        (
            ("[[pool, baseline]]", "[[pool, kd], [kd, pool]]"),
            "compare.setting: compares 'kd' and 'pool' twice",
        ),
        (
            ("source:", "average_over: [setting]\n  source:"),
            "average_over: 'setting' is the axis that is compared",
        ),
        (
            ("source:", "average_over: [dataset]\n  source:"),
            "average_over: each dataset has a verdict of its own",
        ),
        (
            ("source:", "cells: {setting: [pool]}\n  source:"),
            "cells: 'setting' is the axis that is compared",
        ),
        (
            ("{setting: [[pool, baseline]]}", '{ipc: [["10", 1]]}'),
            "axis 'ipc' of modelpool_ablation has no text '10', but the number 10; write it "
            "without quotes",
        ),
        (
            ("[[pool, baseline]]", "[[pool]]"),
            "pool-helps.compare.setting.0 has 1 entry, it must have at least 2",
        ),
        (
            ("[[pool, baseline]]", "[[pool, kd, baseline]]"),
            "pool-helps.compare.setting.0 has 3 entries, it must have at most 2",
        ),
        (
            ("source:", "average_over: arch\n  source:"),
            "pool-helps.average_over is 'arch', it must be 'all' or a list",
        ),
        (("source:", "unseen: false\n  source:"), "pool-helps.unseen is False, it must be true"),
        (("id: pool-helps", "id: Pool helps"), "id"),
        (("- id: pool-helps\n  says", "- says"), "key 'id' is missing in entry 0"),
        (("source:", "margin: -1\n  source:"), "pool-helps.margin is -1, it must be at least 0"),
        (("source:", "expect: equal\n  source:"), "'margin'"),
        (("source:", "expect: better\n  source:"), "expect"),
        (("source:", "cells: {arch: [mpl]}\n  source:"), "'mpl': did you mean 'mlp'"),
        (("source:", "average_over: [archs]\n  source:"), "unknown axis"),
        (
            ("  table: modelpool_ablation\n", ""),
            "pool-helps must have exactly one of the keys 'table' or 'figure'",
        ),
        (
            ("  table:", "  figure: modelpool_ablation\n  table:"),
            "pool-helps must have exactly one of the keys 'table' or 'figure'",
        ),
    ],
)
def test_bad_claims_stop_the_plan(tmp_path, change, message):
    assert change[0] in CLAIM
    copied = workflow(tmp_path, CLAIM.replace(*change))
    with pytest.raises(DDError) as error:
        Plan(load_run("own", {}, copied)).jobs  # noqa: B018
    assert message in str(error.value)
    assert "claims/modelpool.yaml" in str(error.value)


ERASING = """
- id: erasing
  says: Erasing hurts.
  source: "arXiv:2410.05103, Fig. 4"
  figure: metadd_erasing
  quantity: erased_accuracy
  compare: {erased: [[meta, heterogeneous]]}
"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("heterogeneous", "heterogen"), "'heterogen': did you mean 'heterogeneous'"),
        (("{erased:", "{kind:"), "unknown axis of metadd_erasing 'kind'"),
        (("  compare", "  cells: {ipc: [1]}\n  compare"), "unknown axis of metadd_erasing 'ipc'"),
        (("  compare", "  average_over: [ipc]\n  compare"), "unknown axis"),
        (("  compare", "  unseen: true\n  compare"), "unseen is about distillations"),
    ],
)
def test_bad_claims_on_erasing_stop_the_plan(tmp_path, change, message):
    copied = workflow(tmp_path, ERASING.replace(*change))
    run = replace(load_run("metadd-digits"), workflow=str(copied))
    with pytest.raises(DDError) as error:
        load_claims(run)
    assert message in str(error.value)


def test_quantities_are_the_same_everywhere():
    """What a claim may be about: its schema, what is read for it, how it is read."""
    schema = yaml.safe_load(Path("workflow/schemas/claims.schema.yaml").read_text())
    listed = schema["items"]["properties"]["quantity"]["enum"]
    assert set(listed) == kinds.QUANTITIES.keys() == read_claims.QUANTITIES.keys()


def test_a_claim_twice_is_refused(tmp_path):
    copied = workflow(tmp_path, CLAIM)
    (copied / "config/claims/other.yaml").write_text(CLAIM)
    with pytest.raises(DDError, match="pool-helps: is also in"):
        load_claims(load_run("own", {}, copied))


def test_claims_on_a_generator_of_others_are_not_tested_with_ours():
    run = load_run("metadd")
    claims = {claim.id: claim for claim in load_claims(run)}
    for name in ("metadd-glad", "metadd-memory"):
        assert "own generator" in claims[name].untested("tiny_imagenet")
    own = {"tiny_imagenet": {"weights": "w.safetensors", "adapter": "a:b"}}
    again = {claim.id: claim for claim in load_claims(replace(run, generators=own))}
    assert again["metadd-glad"].untested("tiny_imagenet") == ""
    assert claims["metadd-unseen"].untested("tiny_imagenet") == ""


def test_erasing_is_judged_over_test_images(tmp_path):
    """A network is right on 6 images of 100 with only heterogeneous regions erased, on 1 with only
    meta regions erased: a mean of ±1 and 0 over images."""
    plan = Plan(load_run("metadd-digits", {"results": str(tmp_path)}))
    rows = erasing_rows()
    for row in rows:
        row |= {f"beyond_{kind}": 0 for kind in ("nothing", "meta", "heterogeneous", "random")}
        row |= {"images": 100}
        row["beyond_heterogeneous"] = {"meta": 1}.get(row["erased"], 0)
        row["beyond_meta"] = {"heterogeneous": 6}.get(row["erased"], 0)
    save_rows(Erasing("digits").file(plan.run), rows)
    claim = next(c for c in load_claims(plan.run) if c.id == "metadd-erasing")
    groups = found(claim)
    assert len(groups) == len({row["network"] for row in rows})
    by_image = [-1.0] * 6 + [1.0] + [0.0] * 93
    low, high = stats.ttest_1samp([100 * v for v in by_image], 0).confidence_interval(0.9)
    for group in groups:
        assert group.difference.estimate.value == pytest.approx(-5)
        assert group.difference.estimate.interval() == pytest.approx((low, high))
        assert (group.difference.unit, group.difference.inner) == ("images", (100, 100))
        assert group.difference.sets == 0
    only = found(replace(claim, cells={"arch": [rows[0]["network"]]}))
    assert [group.place["arch"] for group in only] == [rows[0]["network"]]


@pytest.mark.parametrize(("gap", "interval"), [(0.0, False), (40.0, True)])
def test_the_memory_of_a_distillation_counts_once(tmp_path, monkeypatch, gap, interval):
    """Not once for each network, protocol and number of iterations beside which it stands."""
    claim = CLAIM + "  quantity: memory\n  expect: lower\n"
    plan = filled(workflow(tmp_path, claim, iterations=[60, 20]), gains())

    def origin(path):
        pool, seed = "dc+pool" in path, int("seed1" in path)
        return {"peak_memory_mb": {"host": 900.0 - 100 * pool * (1 + gap * seed / 100)}}

    monkeypatch.setattr(read_claims, "origin", origin)
    (one,) = judged(plan.run)
    assert [group.place["ipc"] for group in one.groups] == [1, 10]
    assert all("it60" in file for group in one.groups for file in group.files)
    assert [len(group.files) for group in one.groups] == [6, 6]
    for low, high in (estimate.interval() for estimate in one.estimates):
        assert (high - low > 1) == interval
    assert one.verdict == "holds" and "60 iterations" in one.scale


def test_methods_without_iterations_are_compared_once(tmp_path):
    claim = CLAIM.replace("modelpool_ablation", "random").replace("setting", "method")
    claim = claim.replace("pool, baseline", "herding, random")
    copied = workflow(tmp_path, claim)
    text = (copied / "config/tables/baselines.yaml").read_text()
    text = text.replace("  arch: [convnet]", "  arch: [convnet]\n  iterations: [20, 60]")
    text = text.replace("rows: [dataset, ipc]", "rows: [dataset, ipc, iterations]")
    (copied / "config/tables/random.yaml").write_text(text)
    run = replace(load_run("own", {}, copied), tables=["random"], axes={"ipc": [1]})
    (claim,) = load_claims(run)
    assert len(read_claims.planned(claim)) == 1


def test_forest_plot_shows_every_difference(tmp_path):
    plan = filled(workflow(tmp_path, CLAIM), gains(convnet=2, mlp=3, mlp10=-2))
    exhibit = plan.exhibits["figure", "claims"]
    drawn = forest.draw(exhibit)
    (panel,) = drawn.axes
    names = [text.get_text() for text in panel.get_yticklabels()]
    assert names == ["IPC 1, ConvNet", "IPC 1, MLP", "IPC 10, ConvNet", "IPC 10, MLP"]
    marked = [line for line in panel.lines if line.get_marker() in ("o", "s", "d")]
    (one,) = judged(plan.run)
    assert [float(line.get_xdata()[0]) for line in marked] == pytest.approx(
        [group.difference.estimate.value for group in one.groups]
    )
    assert [line.get_marker() for line in marked] == ["o", "o", "o", "s"]
    assert "refuted" in panel.texts[0].get_text()
    nothing = workflow(tmp_path / "none", CLAIM.rstrip() + "\n  cells: {arch: [vgg11]}\n")
    empty = forest.draw(filled(nothing, gains()).exhibits["figure", "claims"])
    assert empty.axes[0].texts[0].get_text() == "No claim could be tested."


@pytest.mark.parametrize("cut", [False, True])
def test_a_forest_plot_explains_the_marks_that_it_has(tmp_path, monkeypatch, cut):
    monkeypatch.setattr(forest, "_reach", lambda members: 0.1 if cut else 100.0)
    plan = filled(workflow(tmp_path, CLAIM), gains(convnet=2, mlp=3, mlp10=-2))
    drawn = forest.draw(plan.exhibits["figure", "claims"])
    arrows = [line for line in drawn.axes[0].lines if line.get_marker() in ("<", ">")]
    caption = drawn.texts[-1].get_text().replace("\n", " ")
    assert bool(arrows) == (forest.ARROW in caption) == cut
    assert "Hollow" not in caption  # nothing is published of this dataset


def test_published_differences_stand_beside_comparable_ones(tmp_path):
    """Model Pool's Table 4: hard labels of both sets of a cell, from the authors' files."""

    def accuracy(job, arch, n):
        return 20 + n + (job.distillation.method == "dc+pool") * (1 + n % 2)

    plan = fill("cifar10", tmp_path, accuracy, networks=3)
    rows = render(plan, "claims")
    with open("workflow/reference/modelpool_hard.csv", newline="", encoding="utf-8") as file:
        printed = {
            row["setting"]: float(row["accuracy"])
            for row in csv.DictReader(file)
            if (row["ipc"], row["iterations"], row["arch"]) == ("1", "3000", "mlp")
            and row["sets"] == "released"
        }
    of_mlp = [row for row in rows if row["claim"] == "modelpool-pool-mlp"]
    (row,) = [row for row in of_mlp if row["place"].startswith("IPC 1, 3000")]
    expected = printed["pool"] - printed["baseline"]
    assert float(row["published_difference"]) == pytest.approx(expected, abs=1e-4)
    assert row["limit"] == "for this set"
    drawn = forest.draw(plan.exhibits["figure", "claims"])
    assert forest.HOLLOW in drawn.texts[-1].get_text().replace("\n", " ")


def test_claims_read_what_their_tables_read():
    plan = Plan(load_run("metadd-digits"))
    read = set(inputs(plan.exhibits["table", "claims"], plan.main.jobs))
    for name in ("metadd_cross_arch", "metadd_meta_area"):
        exhibit: Exhibit = plan.exhibits["table", name]
        assert set(inputs(exhibit, plan.main.jobs)) <= read
    assert "workflow/config/claims/metadd.yaml" in read
    assert "workflow/config/tables/metadd_cost.yaml" in read
