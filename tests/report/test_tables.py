"""Tables: numbers against those worked out by hand, what they say, escaping, bad files."""

import html
import math

import pytest
import yaml

from dd.artifacts.text import save_json
from dd.command import main
from dd.config.run import load_run
from dd.plan.jobs import Evaluation
from dd.plan.plan import Plan
from dd.report.sheet import Sheet, Text
from dd.report.tables.pivot import rounded
from dd.report.tables.settings import settings_rows
from tests.support.tables import TABLES, cell, fill, render


def test_mean_and_std_by_hand(tmp_path):
    # networks 0, 1, 2 of seed 0: 20, 21, 22; of seed 7: 30, 31, 32. Mean 26; squared deviations
    # 36 25 16 16 25 36 = 154, over 5: 30.8
    def accuracy(job, arch, n):
        return 20 + n + (10 if job.distillation.seed == 7 else 0)

    plan = fill("smoke", tmp_path, accuracy, networks=3, seeds=[0, 7])
    rows = render(plan, "modelpool_ablation")
    columns = "dataset ipc iterations setting arch mean std n n_sets n_networks std_sets std_within"
    published = "published published_std published_ddof published_n published_source published_note"
    assert list(rows[0]) == f"{columns} {published}".split()
    assert len(rows) == 2 * 2 * (4 * 6 + 2 * 5)
    for row in rows:
        assert row["dataset"] == "digits (scikit-learn, 8x8)"
        assert (float(row["mean"]), int(row["n"])) == (26.0, 6)
        assert float(row["std"]) == pytest.approx(math.sqrt(30.8), abs=1e-4)
        # the sets' means are 21 and 31; within each set the variance is 1
        assert (row["n_sets"], row["n_networks"], row["std_within"]) == ("2", "3", "1.0")
        assert float(row["std_sets"]) == pytest.approx(math.sqrt(50), abs=1e-4)


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
        return 20 + n + (job.distillation.method == "dc+pool") * (9 + n)

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
    # 20 and 21: mean 20.5, std 0.71; the pool's 29 and 31 are the best and stand in bold
    line = "| digits (scikit-learn, 8x8) | 1 | 20 | baseline | 20.50 ± 0.71 | 20.50 ± 0.71 |"
    assert line in markdown
    assert "| 1 | 20 | pool | **30.00 ± 1.41** |" in markdown
    assert "| 1 | 20 | kd | – | 20.50 ± 0.71 |" in markdown
    assert r"\textbf{30.00 $\pm$ 1.41}" in latex
    assert r"mean $\pm$ standard deviation" in latex and r"in \%" in latex
    assert "<td><b>30.00 ± 1.41</b></td>" in page


@pytest.mark.parametrize(
    ("values", "bold"),
    [
        # pool − baseline: 1 and 3 by set, so 2 ± 6.3: not separated; kd is far below
        ({"dc": ([30, 30], [30, 30]), "dc+pool": ([30, 32], [33, 33])}, {"baseline", "pool"}),
        # 2.9 and 3.1, so 3 ± 0.6
        ({"dc": ([30, 30], [30, 30]), "dc+pool": ([32.9, 32.9], [33.1, 33.1])}, {"pool"}),
        # nothing is separated from anything: nothing is bold
        ({"kd": ([10, 60], [20, 40]), "dc+pool": ([30, 32], [33, 33])}, set()),
    ],
)
def test_bold_is_what_is_not_separated_from_the_best(tmp_path, values, bold):
    def accuracy(job, arch, n):
        made = job.distillation
        name = "kd" if job.protocol == "kd" and "kd" in values else made.method
        low = 10 + 0.1 * n + made.seed if "kd" not in values else 28 + 9 * n - 5 * made.seed
        hard = job.protocol == "hard" or "kd" in values
        return values[name][made.seed][n] if hard and name in values else low

    plan = fill("smoke", tmp_path, accuracy, networks=2, seeds=[0, 1])
    render(plan, "modelpool_ablation")
    written = (tmp_path / "smoke/tables/modelpool_ablation.md").read_text(encoding="utf-8")
    lines = [line.split(" | ") for line in written.splitlines() if " | 1 | 20 | " in line]
    assert {line[3] for line in lines if "**" in line[5]} == bold  # line[5]: the MLP


def test_taxonomy_says_what_the_suite_runs(tmp_path):
    plan = Plan(load_run("smoke", {"results": str(tmp_path)}))
    save_json(f"{plan.run.root}/config.json", plan.document())
    rows = render(plan, "modelpool_taxonomy")
    runs = {row["method"]: row["in this suite"] for row in rows}
    assert runs["DC"] == "dc" and runs["DC + model pool"] == "dc+pool" and runs["KIP"] == "–"
    assert runs["DD"] == "dd"
    families = {}
    for row in rows:
        families.setdefault((row["in Table 1"], row["family"]), []).append(row["method"])
    assert families == {  # of the paper: "Meta Model Learning: DD, KIP, FRePO etc." and so on
        ("yes", "meta-model learning"): ["DD", "KIP", "FRePo"],
        ("yes", "gradient matching"): ["DC", "DSA", "DCC"],
        ("–", "gradient matching"): ["IDC", "DC + model pool"],
        ("yes", "trajectory matching"): ["MTT", "HaBa", "TESLA"],
        ("–", "trajectory matching"): ["IADD"],
        ("yes", "distribution matching"): ["DM", "CAFE", "KFS"],
        ("–", "decoupled (squeeze, recover, relabel)"): ["SRe2L"],
    }


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


def test_settings_that_differ_name_their_dataset():
    """And no others: all sets of MTT on one dataset are trained on alike."""
    names = [
        row["name"] for row in settings_rows(load_run("iadd")) if row["part"] == "distillation"
    ]
    own = [name for name in names if name.startswith("mtt, IPC 10")]
    assert [name for name in own if "fallback" not in name] == [
        "mtt, IPC 10, CIFAR-10", "mtt, IPC 10, CIFAR-100", "mtt, IPC 10, Tiny ImageNet",
    ]  # fmt: skip
    assert "full, IPC 0" not in names or names.count("full, IPC 0") == 1
    assert not any("digits" in row["name"].replace("fallback for digits", "")
                   for row in settings_rows(load_run("smoke")))  # fmt: skip


def test_small_numbers_keep_their_digits():
    row = {"lr": 3e-5, "mean": 12.345678, "std": 0.123456789, "variance": 0.000123456789}
    row |= {"seconds": 12345.67891, "ratio": 2.0, "n": 3, "none": None}
    assert rounded(row) == {
        "lr": 3e-5, "mean": 12.3457, "std": 0.1235, "variance": 0.000123457,
        "seconds": 12345.6789, "ratio": 2.0, "n": 3, "none": "",
    }  # fmt: skip
    assert rounded(row, points=["variance"])["variance"] == 0.0001


def test_settings_of_protocols_are_those_of_the_evaluations():
    rows = {row["name"]: row["settings"] for row in settings_rows(load_run("smoke"))}
    for name, variant in (("kd-released", "released"), ("kd", "paper")):
        assert f"variant {variant}, temperature 0 or 3 or 10, " in rows[name]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("", "has no rows"),
        ("arch,accuracy\n", "has no rows"),
        ("network,accuracy\n1,5\n", "has no column 'arch'"),
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
    assert "10.50 ± 0.71† |" in markdown and "† 2 of 2 networks diverged" in markdown
    assert "†¹" not in markdown


def test_each_of_several_notes_has_its_own_sign(tmp_path):
    """In the order of the table; cells of one note share its sign."""
    plan = fill("smoke", tmp_path, lambda job, arch, n: 10 + n, networks=2)
    numbers = iter((1, 2, 1))
    for name in ("kd", "kd@temperature=0.25", "hard"):
        for file in sorted((tmp_path / "smoke/evaluations").rglob(f"dc/**/it20/{name}.csv")):
            failed = next(numbers, 0)
            first, *lines = file.read_text(encoding="utf-8").splitlines()
            mlps = [line for line in lines if line.startswith("mlp,")]
            lines = [f"{line},{int(line in mlps[:failed])}" for line in lines]
            file.write_text("\n".join([f"{first},diverged", *lines]) + "\n", encoding="utf-8")
    rows = [row for row in render(plan, "modelpool_ablation") if row["note"]]
    assert len(rows) == 3
    text = (tmp_path / "smoke/tables/modelpool_ablation.md").read_text(encoding="utf-8")
    order = list(dict.fromkeys(row["note"] for row in rows))
    for number, note in zip("¹²", order, strict=True):
        assert text.count(f"†{number} |") == sum(row["note"] == note for row in rows)
        assert f"\n†{number} {note}.\n" in text


def test_baselines_stand_beside_comparable_numbers(tmp_path):
    def accuracy(job, arch, n):
        ours = {"full": 90.0, "mtt": 50.0}.get(job.distillation.method, 40.0) + n
        return ours + 0.4 * n * (job.distillation.method == "mtt")

    rows = render(fill("iadd", tmp_path, accuracy, networks=2), "iadd_sota")
    assert len(rows) == 3 * 3 * 9

    def published(dataset, ipc, method):
        row = cell(rows, dataset=dataset, ipc=ipc, method=method)
        return row["published"] and float(row["published"])

    assert published("CIFAR-10", 1, "mtt") == 46.3
    assert published("CIFAR-10", 50, "dc") == 53.9
    assert published("CIFAR-10", 10, "dm") == 48.9
    assert published("CIFAR-100", 10, "mtt") == 40.1
    assert published("CIFAR-100", 10, "dm") == ""  # published, but of images in other units
    assert published("Tiny ImageNet", 50, "dc") == ""  # nobody reports it
    assert published("CIFAR-10", 1, "full") == ""  # published, but under another training
    assert {row["published"] for row in rows if row["method"] == "iadd"} == {""}
    written = (tmp_path / "iadd/tables/iadd_sota.md").read_text(encoding="utf-8")
    line = next(line for line in written.splitlines() if line.startswith("| CIFAR-10 | 1 |"))
    # the best but for the full dataset, which is a ceiling
    assert "| **50.70 ± 0.99 \\[46.30 ± 0.80\\]** | 40.50 ± 0.71 | 90.50 ± 0.71 |" in line
    assert line.count("**") == 2
    assert "Bold: best method of each row, and what" in written
    assert "separates nothing; Full dataset does not compete." in written
    assert "their standard deviations, of unknown divisor (ours: n − 1)." in written


def test_the_full_dataset_is_evaluated_once(tmp_path):
    plan = fill("smoke", tmp_path, lambda job, *_: 10.0 + (job.distillation.method == "full"))
    found = {str(job) for job in plan.of(Evaluation) if job.distillation.method == "full"}
    assert found == {"digits/full/ipc0/seed0/it0/hard"}
    rows = [row for row in render(plan, "iadd_sota") if row["method"] == "full"]
    assert [(row["ipc"], row["mean"]) for row in rows] == [("1", "11.0"), ("10", "11.0")]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("iadd_sota", {"best_except": ["ful"]},
         "best_except: unknown value of axis 'method' 'ful': did you mean 'full'?"),
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


def test_a_wide_table_is_made_to_fit():
    def latex(columns: int) -> str:
        header = ["D", *("12.34 ± 0.50" for _ in range(columns))]
        return Sheet("t", "T", "C", header, [[Text("d")] * len(header)], keys=1).latex()

    assert "resizebox" not in latex(6)  # 3 + 6 * 14 = 87 characters
    assert r"\resizebox{\linewidth}{!}{%" in latex(7)
    assert r"\end{tabular}}" in latex(7) and latex(7).count("{") == latex(7).count("}")
