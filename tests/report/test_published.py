"""Published values in tables: where they stand, and what does not fit."""

import csv
import math
from collections import Counter
from pathlib import Path

import pytest
import yaml

from dd.artifacts.text import save_rows
from dd.command import main
from tests.support.tables import TABLES, cell, fill, render


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
    assert "| baseline | 20.50 ± 0.71 \\[27.89 ± 0.61\\] |" in markdown
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
        ({"file": "nowhere.csv"}, "published.file: unknown file in"),
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
