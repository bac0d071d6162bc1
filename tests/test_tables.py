"""Tables: numbers against those worked out by hand, published values, escaping, bad files."""

import csv
import html
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from runs import every_ipc

from dd.__main__ import main
from dd.artifacts.text import save_json, save_rows
from dd.config.run import load_run
from dd.data import synthetic
from dd.data.synthetic import SyntheticSet
from dd.errors import DDError
from dd.plan.jobs import Distillation, Evaluation, Snapshot
from dd.plan.kinds import inputs
from dd.plan.plan import Plan
from dd.report.sheet import Sheet, Text
from dd.report.tables.hyperparameters import hyperparameter_rows
from dd.report.tables.settings import settings_rows

TABLES = Path("workflow/config/tables")


def fill(run_name: str, results: Path, accuracy, **overrides) -> Plan:
    """A run's config.json and evaluation files; ``accuracy(job, arch, network)`` in percent."""
    plan = Plan(every_ipc(run_name, {"results": str(results), **overrides}))
    save_json(f"{plan.run.root}/config.json", plan.document())
    for job in plan.of(Evaluation):
        archs = job.archs
        rows = [
            {"arch": arch, "network": n, "accuracy": accuracy(job, arch, n)}
            for arch in archs
            for n in range(plan.run.networks)
        ]
        save_rows(job.file(plan.run), rows)
    return plan


def render(plan: Plan, name: str) -> list[dict[str, str]]:
    """The rows of the CSV of a table."""
    out = f"{plan.run.root}/tables/{name}.csv"
    config = f"{plan.run.root}/config.json"
    table = str(TABLES / f"{name}.yaml")
    assert main(["table", "--config", config, "--table", table, "--out", out]) == 0
    with open(out, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def cell(rows, **place):
    """The one row at ``place``."""
    (row,) = [r for r in rows if all(r[axis] == str(value) for axis, value in place.items())]
    return row


def test_mean_and_std_by_hand(tmp_path):
    # networks 0, 1, 2 of seed 0: 20, 21, 22; of seed 7: 30, 31, 32. Mean 26; squared deviations
    # 36 25 16 16 25 36 = 154, over 5: 30.8
    def accuracy(job, arch, n):
        return 20 + n + (10 if job.distillation.seed == 7 else 0)

    plan = fill("smoke", tmp_path, accuracy, networks=3, seeds=[0, 7])
    rows = render(plan, "modelpool_ablation")
    columns = "dataset ipc iterations setting arch mean std n"
    published = "published published_std published_ddof published_n published_source published_note"
    assert list(rows[0]) == f"{columns} {published}".split()
    assert len(rows) == 2 * 2 * (4 * 6 + 2 * 5)
    for row in rows:
        assert row["dataset"] == "digits (scikit-learn, 8x8)"
        assert (float(row["mean"]), int(row["n"])) == (26.0, 6)
        assert float(row["std"]) == pytest.approx(math.sqrt(30.8), abs=1e-4)


def test_cells_come_from_their_own_files(tmp_path):
    def accuracy(job, arch, n):
        made = job.distillation
        value = {"dc": 10, "dc+pool": 20}.get(made.method, 30) + (made.ipc == 10) * 5
        return value + (job.protocol == "kd") * 2 + (job.iterations == 60) + (arch == "mlp") / 2

    rows = render(fill("smoke", tmp_path, accuracy, networks=1), "modelpool_ablation")
    place = {"ipc": 10, "iterations": 60, "setting": "pool+kd", "arch": "mlp"}
    row = cell(rows, **place)
    assert float(row["mean"]) == 20 + 5 + 2 + 1 + 0.5
    assert (row["std"], row["n"]) == ("", "1")
    assert float(cell(rows, **place | {"setting": "baseline", "arch": "lenet"})["mean"]) == 16


def reference(name: str) -> list[dict[str, str]]:
    with open(f"workflow/reference/{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def facts(row) -> tuple[str, ...]:
    """What a row of a table's CSV says of the published value."""
    return tuple(row[f"published{part}"] for part in ("", "_std", "_ddof", "_n", "_source"))


LOG = "Distill-Generalization-Group/Distill-Generalization"
NOTHING = ("", "", "", "", "")


def test_published_values_only_where_comparable(tmp_path):
    plan = fill("cifar10", tmp_path, lambda *_: 20.0, networks=2)
    rows = render(plan, "modelpool_ablation")

    def at(setting, iterations, arch="resnet18", ipc=1):
        return cell(rows, ipc=ipc, iterations=iterations, setting=setting, arch=arch)

    # hard labels: the authors' own, on the sets that they released
    place = f"{LOG} c337374:result/result.txt:90"
    assert facts(at("baseline", 1000)) == ("18.13", "1.16", "0", "10", place)
    place = f"{LOG} 1bb1a3a:result/modelpool_res_DC_CIFAR10_ConvNet_1ipc_3000.pt accs_all_exps"
    assert facts(at("pool", 3000)) == ("18.726", "0.639", "0", "10", place)
    # the pool's sets after 1000 and 2000 iterations whose log there is were not released
    assert facts(at("pool", 1000)) == facts(at("pool", 2000)) == NOTHING
    # Table 4: half the cross-entropy, on the images after 1000 iterations in every row
    paper = ("arXiv:2402.13007, Table 4",)
    assert facts(at("baseline (0.5 CE)", 1000)) == ("14.3", "", "", "", *paper)
    assert facts(at("pool (0.5 CE)", 1000)) == ("15.17", "", "", "", *paper)
    for iterations, printed in ((2000, "14.04"), (3000, "14.09")):
        row = at("pool (0.5 CE)", iterations)
        assert facts(row) == NOTHING
        assert row["published_note"] == (
            f"{printed} (arXiv:2402.13007, Table 4) is not comparable: measured on the images "
            "after 1000 iterations"
        )
    assert at("pool (0.5 CE)", 1000)["published_note"] == ""
    # temperature and alpha of the paper's kd are not known: nothing to compare with
    kd = [row for row in rows if row["setting"] in ("kd", "pool+kd")]
    assert {(*facts(row), row["published_note"]) for row in kd} == {(*NOTHING, "")}
    shown = Counter(row["setting"] for row in rows if row["published"])
    # both ipc: baseline's three rows; the last of the pool; of half the cross-entropy the first,
    # where the pool has no ConvNet
    assert shown == {
        "baseline": 2 * 3 * 6, "pool": 2 * 6, "baseline (0.5 CE)": 2 * 6, "pool (0.5 CE)": 2 * 5,
    }  # fmt: skip
    smoke = render(fill("smoke", tmp_path, lambda *_: 20.0), "modelpool_ablation")
    assert {(*facts(row), row["published_note"]) for row in smoke} == {(*NOTHING, "")}


def test_published_values_of_the_pools(tmp_path):
    plan = fill("cifar10", tmp_path, lambda *_: 20.0, networks=2)
    rows = render(plan, "modelpool_pool_settings")
    row = cell(rows, ipc=10, iterations=3000, setting="main-and-similar", arch="vgg11")
    assert facts(row)[:4] == ("35.5", "0.748", "0", "10")  # equal to the authors' file
    assert row["published_source"].startswith("arXiv:2402.13007, Table 5; std and n: ")
    row = cell(rows, ipc=10, iterations=2000, setting="main-and-similar", arch="vgg11")
    assert facts(row) == ("34.99", "", "", "", "arXiv:2402.13007, Table 5")
    assert all(row["published"] for row in rows)


def test_published_values_of_the_released_reading(tmp_path):
    """Table 4's pool + kd is the maximum over the temperatures of the sweep, so only here."""
    plan = fill("cifar10", tmp_path, lambda *_: 20.0, networks=2)
    rows = render(plan, "modelpool_ablation_released")
    shown = Counter((row["setting"], row["iterations"]) for row in rows if row["published"])
    assert shown == {
        **{("baseline", n): 10 for n in ("1000", "2000", "3000")},
        ("pool-released", "3000"): 10,
        ("baseline (0.5 CE)", "1000"): 10,
        ("pool-released (0.5 CE)", "1000"): 10,
        ("pool-released+kd-released", "1000"): 10,
    }
    place = {"ipc": 10, "setting": "pool-released+kd-released", "arch": "vgg11"}
    assert cell(rows, **place, iterations=1000)["published"] == "33.85"
    assert "after 1000 iterations" in cell(rows, **place, iterations=3000)["published_note"]


def test_published_spread_is_shown_and_explained(tmp_path):
    plan = fill("cifar10", tmp_path, lambda job, arch, n: 20.0 + n, networks=2)
    render(plan, "modelpool_ablation")
    folder = tmp_path / "cifar10/tables"
    markdown, latex, page = (
        (folder / f"modelpool_ablation.{ending}").read_text(encoding="utf-8")
        for ending in ("md", "tex", "html")
    )
    assert "| baseline | **20.50 ± 0.71 \\[27.89 ± 0.61\\]** |" in markdown
    assert r"[27.89 $\pm$ 0.61]" in latex
    said = (
        "In brackets: published values ± their standard deviations, which divide by n (ours by "
        "n − 1)."
    )
    assert said in markdown and said in page


def test_hard_label_values_follow_from_single_networks():
    """The released sets at 3000 iterations: mean and std (ddof 0) of the authors' ten networks."""
    networks: dict[tuple[str, ...], list[float]] = {}
    axes = ("dataset", "ipc", "iterations", "setting", "arch")
    for row in reference("modelpool_released"):
        networks.setdefault(tuple(row[a] for a in axes), []).append(float(row["accuracy"]))
    rows = {
        tuple(row[a] for a in axes): row
        for row in reference("modelpool_hard")
        if row["sets"] == "released" and row["iterations"] == "3000"
    }
    assert rows.keys() == networks.keys() and len(rows) == 2 * 2 * 6
    for place, found in networks.items():
        row, mean = rows[place], sum(found) / len(found)
        spread = math.sqrt(sum((a - mean) ** 2 for a in found) / len(found))
        assert (row["n"], row["ddof"]) == (str(len(found)), "0")
        assert float(row["accuracy"]) == pytest.approx(mean, abs=6e-4)
        assert float(row["std"]) == pytest.approx(spread, abs=6e-4)


def changed(folder: Path, published) -> str:
    """The table of the ablation with other published values, as a file of its own."""
    definition = yaml.safe_load((TABLES / "modelpool_ablation.yaml").read_text(encoding="utf-8"))
    path = folder / "changed.yaml"
    path.write_text(yaml.safe_dump(definition | {"published": published}, sort_keys=False))
    return str(path)


@pytest.mark.parametrize(
    ("published", "message"),
    [
        ({"file": "modelpool_hard.csv"}, "published column 'sets' of"),
        ({"file": "modelpool_hard.csv", "where": {"set": "released"}},
         "published: unknown column 'set': did you mean 'sets'?"),
        ({"file": "modelpool.csv", "where": {"table": 4}, "only": {"settings": ["pool"]}},
         "unknown axis 'settings': did you mean 'setting'?"),
        ({"file": "modelpool.csv", "where": {"table": 4}, "only": {"setting": ["pol"]}},
         "published: unknown value of axis 'setting' 'pol': did you mean 'pool'?"),
        ([{"file": "modelpool_hard.csv", "where": {"sets": "released"}},
          {"file": "modelpool.csv", "where": {"table": 4}, "only": {"setting": ["baseline"]}}],
         "two values for dataset cifar10, ipc 1, iterations 1000, setting baseline, arch convnet"),
        ({"where": {"table": 4}}, "key 'file' is missing in published"),
        ([], "published is empty"),
        ([{"file": "modelpool.csv", "were": {"table": 4}}],
         "unknown key of published.0 'were': did you mean 'where'?"),
        ("modelpool.csv", "published is 'modelpool.csv', it must be a block of keys or a list"),
        ({"file": "nowhere.csv"}, "nowhere.csv: no such file"),
    ],
)  # fmt: skip
def test_published_values_that_do_not_fit(tmp_path, capsys, published, message):
    plan = fill("cifar10", tmp_path, lambda *_: 20.0, networks=1)
    table, out = changed(tmp_path, published), tmp_path / "out.csv"
    config = f"{plan.run.root}/config.json"
    assert main(["table", "--config", config, "--table", table, "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and not out.exists()


@pytest.mark.parametrize(
    ("column", "text", "message"),
    [
        ("accuracy", "high", "accuracy 'high' is no percentage from 0 to 100"),
        ("accuracy", "128.9", "accuracy '128.9' is no percentage from 0 to 100"),
        ("std", "-1", "std is '-1', it must be a number of at least 0"),
        ("std", "nan", "std is 'nan', it must be a number of at least 0"),
        ("ddof", "2", "ddof is '2', it must be 0 or 1"),
        ("n", "1.5", "n is '1.5', it must be a whole number"),
    ],
)
def test_published_values_that_are_no_numbers(tmp_path, capsys, monkeypatch, column, text, message):
    rows = [row | {column: text} for row in reference("modelpool_hard")]
    save_rows(tmp_path / "broken.csv", rows)
    plan = fill("cifar10", tmp_path, lambda *_: 20.0, networks=1)
    broken = str(tmp_path / "broken.csv")
    monkeypatch.setattr("dd.report.read.published.published_files", lambda _: [broken])
    table = changed(tmp_path, {"file": "modelpool_hard.csv", "where": {"sets": "released"}})
    config, out = f"{plan.run.root}/config.json", str(tmp_path / "out.csv")
    assert main(["table", "--config", config, "--table", table, "--out", out]) == 2
    said = capsys.readouterr().err
    assert message in said and broken in said and said.count("\n") == 1


def test_other_settings_are_not_comparable(tmp_path):
    changes = {"recipes": {"evaluation": {"epochs": 299}}}
    document = yaml.safe_load(Path("workflow/config/runs/cifar10.yaml").read_text()) | changes
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(document))
    plan = fill(str(tmp_path / "short.yaml"), tmp_path, lambda *_: 20.0, networks=1)
    assert {row["published"] for row in render(plan, "modelpool_ablation")} == {""}


def test_selection_on_test_data_is_said(tmp_path):
    def accuracy(job, arch, n):
        best = job.protocol == "kd-released@temperature=0.5"
        return (50 if best else 40) + n

    rows = render(fill("cifar10", tmp_path, accuracy, networks=3), "modelpool_ablation_released")
    note = "maximum over 13 temperatures, selected on test data"
    selected = cell(rows, ipc=1, iterations=1000, setting="kd-released", arch="mlp")
    assert (selected["mean"], selected["n"], selected["note"]) == ("51.0", "3", note)
    plain = cell(rows, ipc=1, iterations=1000, setting="baseline", arch="mlp")
    assert (plain["mean"], plain["note"]) == ("41.0", "")
    for ending in ("md", "tex", "html"):
        written = tmp_path / "cifar10" / "tables" / f"modelpool_ablation_released.{ending}"
        assert note in written.read_text(encoding="utf-8")


def test_renderings_say_what_is_shown(tmp_path):
    def accuracy(job, arch, n):
        return 20 + n + (job.distillation.method == "dc+pool") * 9

    plan = fill("smoke", tmp_path, accuracy, networks=2)
    render(plan, "modelpool_ablation")
    folder = tmp_path / "smoke" / "tables"
    markdown, latex, page = (
        (folder / f"modelpool_ablation.{ending}").read_text(encoding="utf-8")
        for ending in ("md", "tex", "html")
    )
    for text in (markdown, latex, page):
        assert "digits (scikit-learn, 8x8)" in text
        assert f"stands in for {plan.run.stands_in_for}" in html.unescape(text)
        assert "2 networks on one synthetic set" in text
        assert "scaled by 0.125" in text
    # 20 and 21: mean 20.5, std 0.71; the pool's 29 and 30 are the best and stand in bold
    line = "| digits (scikit-learn, 8x8) | 1 | 20 | baseline | 20.50 ± 0.71 | 20.50 ± 0.71 |"
    assert line in markdown
    assert "| 1 | 20 | pool | **29.50 ± 0.71** |" in markdown
    assert "| 1 | 20 | kd | – | 20.50 ± 0.71 |" in markdown
    assert r"\textbf{29.50 $\pm$ 0.71}" in latex
    assert r"mean $\pm$ standard deviation" in latex and r"in \%" in latex
    assert "<td><b>29.50 ± 0.71</b></td>" in page


def test_taxonomy_says_what_the_suite_runs(tmp_path):
    plan = Plan(load_run("smoke", {"results": str(tmp_path)}))
    save_json(f"{plan.run.root}/config.json", plan.document())
    rows = render(plan, "modelpool_taxonomy")
    runs = {row["method"]: row["in this suite"] for row in rows}
    assert runs["DC"] == "dc" and runs["DC + model pool"] == "dc+pool" and runs["DD"] == "–"


def test_settings_are_those_that_run():
    rows = settings_rows(load_run("smoke"))
    pools = [row for row in rows if row["part"] == "pool"]
    by_pool = {}
    for row in pools:
        by_pool.setdefault(row["name"], []).append(float(row["probability"]))
    assert {name: round(sum(shares), 3) for name, shares in by_pool.items()} == {
        "main-and-similar (dc+pool)": 1.0,
        "total-random (dc+pool-random)": 1.0,
        "main-and-various (dc+pool-various)": 1.0,
    }
    similar = pools[1]["settings"]
    assert "activation relu or sigmoid or leakyrelu or swish" in similar
    ten = next(row["settings"] for row in rows if row["name"] == "dc, IPC 10")
    assert "iterations 60" in ten and "outer 3, inner 5" in ten
    evaluation = {row["name"]: row["settings"] for row in rows if row["part"] == "evaluation"}
    assert "epochs 120" in evaluation["sets of dc, IPC 1"]
    assert "epochs 40" in evaluation["sets of dc, IPC 10"]
    distilled = {row["name"] for row in rows if row["part"] == "distillation"}
    fallback = "(fallback for digits (scikit-learn, 8x8))"
    assert {f"mtt, IPC 1 {fallback}", f"sre2l, IPC 1 {fallback}", "dc, IPC 1"} < distilled
    assert {"glad with mtt", "metadd with mtt"} < distilled  # theirs were chosen on digits


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("", "has no column 'arch'"),
        ("arch,seed\nmlp,0\n", "has no column 'accuracy'"),
        ("arch,accuracy\nconvnet,high\n", "accuracy 'high' is no percentage"),
        ("arch,accuracy\nconvnet,nan\n", "accuracy 'nan' is no percentage"),
        ("arch,accuracy\nconvnet,101\n", "accuracy '101' is no percentage"),
        ("arch,accuracy\nconvnet,20\n", "has 1 networks of convnet, the run needs 2"),
    ],
)
def test_bad_evaluation_files(tmp_path, capsys, content, message):
    plan = fill("smoke", tmp_path, lambda *_: 20.0)
    broken = tmp_path / "smoke/evaluations/digits/dc/ipc1/seed0/it20/hard.csv"
    broken.unlink() if content is None else broken.write_text(content)
    table = str(TABLES / "modelpool_ablation.yaml")
    config, out = f"{plan.run.root}/config.json", tmp_path / "out.csv"
    words = ["table", "--config", config, "--table", table, "--out", str(out)]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert message in said and str(broken) in said and said.count("\n") == 1
    assert not out.exists()


def sheet(text: str) -> Sheet:
    return Sheet("t", text, text, [text, "x"], [[Text(text), Text("1", bold=True)]], keys=1)


@pytest.mark.parametrize(
    ("text", "markdown", "latex", "html"),
    [
        ("a_b", r"a\_b", r"a\_b", "a_b"),
        ("50 % & more", r"50 % \& more", r"50 \% \& more", "50 % &amp; more"),
        ("dc+pool", "dc+pool", "dc+pool", "dc+pool"),
        ("<b>|x|", r"\<b\>\|x\|", r"\textless{}b\textgreater{}\textbar{}x\textbar{}",
         "&lt;b&gt;|x|"),
        ("a\\b{c}$#~^", r"a\\b{c}<span>\$</span>#\~^",
         r"a\textbackslash{}b\{c\}\$\#\textasciitilde{}\textasciicircum{}", "a\\b{c}$#~^"),
        ("*x*", r"\*x\*", "{}*x*", "*x*"),
    ],
)  # fmt: skip
def test_escaping(text, markdown, latex, html):
    made = sheet(text)
    assert f"| {markdown} | **1** |" in made.markdown()
    assert f"{latex} & \\textbf{{1}} \\\\" in made.latex()
    assert f'<th scope="row">{html}</th><td><b>1</b></td>' in made.html()


def test_latex_says_what_rows_share_once():
    body = [[Text(t) for t in row] for row in (["d", "1", "a", "5"], ["d", "1", "b", "6"],
                                               ["d", "2", "a", "7"])]  # fmt: skip
    lines = Sheet("t", "T", "C", ["D", "I", "S", "v"], body, keys=3).latex().splitlines()
    start = lines.index(r"\midrule") + 1
    assert lines[start : start + 4] == [
        r"d & 1 & a & 5 \\",
        r" &  & b & 6 \\",
        r"\midrule",
        r" & 2 & a & 7 \\",
    ]


def test_diverged_networks_are_told(tmp_path):
    plan = fill("smoke", tmp_path, lambda job, arch, n: 10 + n, networks=2)
    for file in (tmp_path / "smoke/evaluations").rglob("kd.csv"):
        first, *lines = file.read_text(encoding="utf-8").splitlines()
        flags = ["1" if line.startswith("mlp,") else "0" for line in lines]
        lines = [f"{line},{flag}" for line, flag in zip(lines, flags, strict=True)]
        file.write_text("\n".join([f"{first},diverged", *lines]) + "\n", encoding="utf-8")
    rows = render(plan, "modelpool_ablation")
    place = {"ipc": 1, "iterations": 20, "setting": "kd"}
    assert "2 of 2 networks diverged" in cell(rows, **place, arch="mlp")["note"]
    assert cell(rows, **place, arch="lenet")["note"] == ""
    markdown = (tmp_path / "smoke/tables/modelpool_ablation.md").read_text(encoding="utf-8")
    assert "Networks whose loss became NaN" in markdown


def test_baselines_stand_beside_comparable_numbers(tmp_path):
    def accuracy(job, arch, n):
        return {"full": 90.0, "mtt": 50.0}.get(job.distillation.method, 40.0) + n

    rows = render(fill("iadd", tmp_path, accuracy, networks=2), "iadd_sota")
    assert len(rows) == 3 * 3 * 9

    def published(dataset, ipc, method):
        row = cell(rows, dataset=dataset, ipc=ipc, method=method)
        return row["published"] and float(row["published"])

    assert published("CIFAR-10", 1, "mtt") == 46.3
    assert published("CIFAR-10", 50, "dc") == 53.9
    assert published("CIFAR-100", 10, "dm") == 29.7
    assert published("CIFAR-100", 50, "dc") == ""  # nobody reports it
    assert published("CIFAR-10", 1, "full") == ""  # published, but under another training
    assert {row["published"] for row in rows if row["method"] == "iadd"} == {""}
    written = (tmp_path / "iadd/tables/iadd_sota.md").read_text(encoding="utf-8")
    line = next(line for line in written.splitlines() if line.startswith("| CIFAR-10 | 1 |"))
    # the best but for the full dataset, which is a ceiling
    assert "| **50.50 ± 0.71 \\[46.30 ± 0.80\\]** | 40.50 ± 0.71 | 90.50 ± 0.71 |" in line
    assert line.count("**") == 2
    assert "Bold: best method of each row; Full dataset does not compete." in written
    assert "their standard deviations, of unknown divisor (ours: n − 1)." in written


def test_the_full_dataset_is_evaluated_once(tmp_path):
    plan = fill("smoke", tmp_path, lambda job, *_: 10.0 + (job.distillation.method == "full"))
    found = {str(job) for job in plan.of(Evaluation) if job.distillation.method == "full"}
    assert found == {"digits/full/ipc0/seed0/it0/hard"}
    rows = [row for row in render(plan, "iadd_sota") if row["method"] == "full"]
    assert [(row["ipc"], row["mean"]) for row in rows] == [("1", "11.0"), ("10", "11.0")]


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
    assert "Bold: best weights by architecture." in written


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
    assert "wide.yaml: columns: only one column of accuracies" in capsys.readouterr().err


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
        run, ["iadd"], ["iterations", "buffer.epochs", "momentum_lr"], "here"
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


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("iadd_sota", {"best_except": ["ful"]},
         "best_except: unknown method 'ful': did you mean 'full'?"),
        ("iadd_weights", {"best_of": None, "best_except": ["none"]}, "key 'best_of' is missing"),
        ("iadd_sota", {"published": {"file": "baselines.csv", "where": {"archs": "convnet"}}},
         "published: unknown column 'archs': did you mean 'arch'?"),
        ("iadd_cross_arch", {"published": {"file": "baselines.csv", "where": {"net": "convnet"}}},
         "published: unknown column 'net'"),
        ("iadd_hyperparameters", {"columns": ["student_step"]},
         "columns: unknown setting 'student_step': did you mean 'student_steps'?"),
        ("iadd_hyperparameters", {"objectives": ["mt"]}, "unknown objective 'mt'"),
        ("iadd_hyperparameters", {"objectives": None}, "key 'objectives' is missing"),
    ],
)  # fmt: skip
def test_bad_definitions(tmp_path, capsys, name, change, message):
    plan = fill("smoke", tmp_path, lambda *_: 20.0)
    definition = yaml.safe_load((TABLES / f"{name}.yaml").read_text(encoding="utf-8")) | change
    path, out = tmp_path / "table.yaml", tmp_path / "out.csv"
    path.write_text(yaml.safe_dump({k: v for k, v in definition.items() if v is not None}))
    config = f"{plan.run.root}/config.json"
    assert main(["table", "--config", config, "--table", str(path), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and not out.exists()


def test_a_run_without_the_methods_has_no_hyperparameters():
    with pytest.raises(DDError, match="here: run cifar10 does not distil by mtt or iadd"):
        hyperparameter_rows(load_run("cifar10"), ["mtt", "iadd"], ["iterations"], "here")


def test_a_wide_table_is_made_to_fit():
    def latex(columns: int) -> str:
        header = ["D", *("12.34 ± 0.50" for _ in range(columns))]
        return Sheet("t", "T", "C", header, [[Text("d")] * len(header)], keys=1).latex()

    assert "resizebox" not in latex(6)  # 3 + 6 * 14 = 87 characters
    assert r"\resizebox{\linewidth}{!}{%" in latex(7)
    assert r"\end{tabular}}" in latex(7) and latex(7).count("{") == latex(7).count("}")
