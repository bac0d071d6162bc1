"""The page of evidence: verdicts come from files of runs alone, and what a broken file says."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, stdev

import pytest
from scipy import stats

from dd.artifacts.text import file_digest, load_json, load_rows, save_json, save_rows
from dd.command import main
from dd.config.run import load_run
from dd.errors import DDError
from dd.plan.needs import seen
from dd.report.evidence import BEGIN, END, findings, page, short
from tests.support.runs import ROOT
from tests.support.tables import fill, record_of_claims, render

DOCS = ROOT / "docs"


def committed() -> list[Path]:
    """The folders of docs/ that hold the claims of a run."""
    return sorted(path.parent for path in DOCS.glob("*/claims.csv"))


@pytest.fixture
def runs(tmp_path):
    """Two finished runs: CIFAR-10, one set; digits, three sets."""

    def accuracy(job, arch, n):
        return 20 + n + (job.distillation.method == "dc+pool") * (2 + 0.1 * n)

    folders = []
    for name, overrides in (("cifar10", {}), ("smoke", {"seeds": [0, 1, 2]})):
        plan = fill(name, tmp_path, accuracy, networks=3, **overrides)
        folder = Path(plan.run.root)
        only = {"tables": ["modelpool_ablation", "claims"], "figures": []}
        document = load_json(folder / "config.json")
        document["run"] |= only
        save_json(folder / "config.json", document)
        render(plan, "claims")
        table, title = folder / "tables/claims.csv", f"Title of {name}"
        record = record_of_claims(table, run=name, title=title, configuration=document)
        save_json(folder / "run.json", record)
        folders.append(folder)
    return folders


def record_again(folder: Path) -> None:
    """Make ``run.json`` say that the table of claims is as it should be, though it was changed."""
    files = record_of_claims(folder / "tables/claims.csv")["files"]
    save_json(folder / "run.json", load_json(folder / "run.json") | {"files": files})


def test_verdicts_of_several_runs(runs, tmp_path):
    (tmp_path / "pages").mkdir()
    out, into = tmp_path / "pages/evidence.md", tmp_path / "front.md"
    into.write_text(f"before\n{BEGIN}\nreplaced\n{END}\nafter\n")
    words = ["evidence", *map(str, runs), "--out", str(out), "--into", str(into)]
    assert main(words) == 0
    text = out.read_text(encoding="utf-8")
    section = text.partition("### modelpool-pool-mlp")[2].partition("###")[0]
    lines = [line for line in section.splitlines() if "Title of" in line]
    assert len(lines) == 2
    assert "| CIFAR-10 | [Title of cifar10](../cifar10) | IPC 1, 10;" in lines[0]
    assert "| **holds for this set** |" in lines[0]
    assert "1 × 3 networks" in lines[0] and "points, IPC" in lines[0]
    assert "IPC 1, 10; 1000, 2000, 3000 iterations" in lines[0]
    assert "IPC 1, 10; 20, 60 iterations; widths × 0.125" in lines[1]
    assert "digits (scikit-learn, 8x8), standing in" in lines[1]
    front = into.read_text(encoding="utf-8")
    assert front.startswith("before\n") and front.endswith("after\n") and "replaced" not in front
    assert "**holds for this set**" in front and "digits" not in front
    assert "pages/evidence.md#modelpool-pool-mlp" in front
    # without a run its verdicts are gone
    assert main(["evidence", str(runs[1]), "--out", str(out), "--into", str(into)]) == 0
    assert "CIFAR-10" not in out.read_text(encoding="utf-8")
    assert "holds" not in into.read_text(encoding="utf-8")


def test_copies_in_a_flat_folder_are_read(runs, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for name in ("run.json", "tables/claims.csv"):
        shutil.copy(runs[0] / name, flat)
    assert [f.about["claim"] for f in findings(flat)] == [
        f.about["claim"] for f in findings(runs[0])
    ]


def test_what_was_not_compared_stands_beside_a_verdict(runs, tmp_path):
    """The pairs in the long form; and the number of the table's weakest cell."""
    path = runs[0] / "tables/claims.csv"
    rows = load_rows(path)
    for row in rows:
        row["note"] = "not in this run: DC + MetaDD − DC"
        row["scale"] = "IPC 1; sets by the authors of Model Pool"
    save_rows(path, rows)
    record_again(runs[0])
    found = findings(runs[0])
    out = tmp_path / "evidence.md"
    said = "IPC 1; sets by the authors of Model Pool"
    gaps = "; not in this run: DC + MetaDD − DC"
    long, front = page(found, out), short(found, tmp_path / "front.md", out)
    lines = [line for line in long.splitlines() if "for this set" in line]
    assert lines and all(said + gaps in line for line in lines)
    assert front.count(said) == 1 and front.splitlines()[0].endswith(":") and gaps not in front
    for text in (long, front):
        assert "**holds for this set, as far as tested**" in text
        assert "**holds for this set**" not in text
    for one in found:
        if one.tested:
            (weakest,) = [row for row in one.rows if row["weakest"] == "yes"]
            assert one.difference().startswith("+" if float(weakest["difference"]) >= 0 else "−")


def test_the_short_form_says_once_what_claims_of_a_run_share(runs, tmp_path):
    """And beside each claim what is its own; a list for each run."""
    path = runs[0] / "tables/claims.csv"
    rows = load_rows(path)
    for row in rows:
        own = "; kd at temperature 3" if row["claim"] == "modelpool-pool-kd" else ""
        row["scale"], row["dataset"] = f"IPC 1; 9 iterations{own}; widths × 0.5", "A *set*"
    save_rows(path, rows)
    record_again(runs[0])
    found = findings(runs[0])
    lines = short(found, tmp_path / "front.md", tmp_path / "evidence.md").splitlines()
    assert (
        lines[0].startswith(r"[A \*set\*](") and "); IPC 1; 9 iterations; widths × 0.5" in lines[0]
    )
    claims = [line for line in lines if line.startswith("- **")]
    assert len(claims) == sum(one.tested for one in found) == len(lines) - 2
    (own,) = [line for line in claims if "temperature" in line]
    assert "#modelpool-pool-kd)" in own and "kd at temperature 3" in own.rpartition("](")[2]
    assert not any("iterations" in line or "widths" in line for line in claims)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("run.json", None, None, "run.json: no such file"),
        ("run.json", '"title"', '"titel"', "is no record"),
        ("run.json", '"files"', '"file"', "is no record"),
        ("run.json", '"tables/', '"table/', "does not list tables/claims.csv"),
        ("tables/claims.csv", None, None, "claims.csv: no such file"),
        ("tables/claims.csv", "verdict", "verdicts", "has no column 'verdict'"),
        ("tables/claims.csv", ",holds,", ",held,", "verdict is 'held'"),
        ("tables/claims.csv", ",yes,", ",no,", "one row must be the weakest"),
        ("tables/claims.csv", ",accuracy,", ",accurcy,", "'accurcy': did you mean 'accuracy'"),
        (
            "tables/claims.csv",
            ",1,3,",
            ",one,3,",
            "n_sets is 'one', it must be a whole number from 0",
        ),
    ],
)
def test_broken_files_are_named(runs, tmp_path, capsys, name, old, new, message):
    path = runs[0] / name
    if old is None:
        path.unlink()
    else:
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")
        if name == "tables/claims.csv":
            record_again(runs[0])
    assert main(["evidence", str(runs[0]), "--out", str(tmp_path / "page.md")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "page.md").exists()


@pytest.mark.parametrize("flat", [False, True])
def test_verdicts_that_the_record_does_not_have_are_refused(runs, tmp_path, capsys, flat):
    folder = runs[0]
    table = folder / "tables/claims.csv"
    if flat:
        table = table.rename(folder / "claims.csv")
    text = table.read_text(encoding="utf-8")
    assert ",holds," in text
    table.write_text(text.replace(",holds,", ",refuted,"), encoding="utf-8")
    assert main(["evidence", str(folder), "--out", str(tmp_path / "page.md")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{table}: is not what {folder}/run.json recorded" in said
    assert not (tmp_path / "page.md").exists()


def test_a_page_of_no_runs_is_refused(tmp_path, capsys):
    assert main(["evidence", "--out", str(tmp_path / "page.md")]) == 2
    assert "DIR" in capsys.readouterr().err and not (tmp_path / "page.md").exists()


def test_a_page_without_markers_is_left(runs, tmp_path, capsys):
    into = tmp_path / "front.md"
    into.write_text("nothing\n")
    words = ["evidence", str(runs[0]), "--out", str(tmp_path / "e.md"), "--into", str(into)]
    assert main(words) == 2
    assert "needs a line <!-- evidence: begin -->" in capsys.readouterr().err
    assert into.read_text() == "nothing\n" and not (tmp_path / "e.md").exists()


def test_a_run_given_twice_counts_once(runs, tmp_path):
    pages = []
    for words in ([runs[0]], [runs[0], f"{runs[0]}/../{runs[0].name}"]):
        assert main(["evidence", *map(str, words), "--out", str(tmp_path / "e.md")]) == 0
        pages.append((tmp_path / "e.md").read_text(encoding="utf-8"))
    assert pages[0] == pages[1]


def test_pages_of_the_project_are_those_of_the_committed_claims():
    """README and docs/evidence.md have the verdicts of the runs in docs/, no others."""
    found = [one for folder in committed() for one in findings(folder)]
    order = list(dict.fromkeys(one.about["claim"] for one in found))
    found.sort(key=lambda one: order.index(one.about["claim"]))
    out = DOCS / "evidence.md"
    assert out.read_text(encoding="utf-8") == page(found, out)
    front = ROOT / "README.md"
    text = front.read_text(encoding="utf-8")
    between = text.partition(BEGIN)[2].partition(END)[0].strip()
    assert between == short(found, front, out)


def test_committed_tables_and_figures_are_those_of_their_records():
    """None was changed by hand after its run was recorded."""
    compared = 0
    for record in DOCS.glob("*/run.json"):
        for name, digest in load_json(record).get("files", {}).items():
            copy = record.with_name(Path(name).name)
            if name.startswith(("tables/", "figures/")) and copy.is_file():
                assert file_digest(copy) == digest, copy
                compared += 1
    assert compared > 50


def differences(
    run: str,
    quantile: float,
    columns: Sequence[str] = ("method", "protocol", "arch"),
    digits: int = 1,
) -> Callable[[Sequence[str], Sequence[str]], str]:
    """``told(first, second)``: the difference between two cells, given by their ``columns``, of the
    networks committed with a run, with its 90 % interval over sets, as pages say it.

    ``quantile`` is t(0.95, n − 1) for n sets.
    """
    by_set: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for row in load_rows(DOCS / run / "evaluations.csv"):
        cell = by_set.setdefault(tuple(row[column] for column in columns), {})
        cell.setdefault(row["set"], []).append(float(row["accuracy"]))

    def told(first: Sequence[str], second: Sequence[str]) -> str:
        one, other = by_set[tuple(first)], by_set[tuple(second)]
        parts = [fmean(one[seed]) - fmean(other[seed]) for seed in one]
        half = quantile * stdev(parts) / len(parts) ** 0.5
        low, mean, high = (fmean(parts) + sign * half for sign in (-1, 0, 1))
        return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})".replace("-", "−")

    return told


def test_the_differences_of_the_families_are_those_of_their_networks():
    """The table of docs/papers/families.md, from every network."""
    told = differences("families", 2.919986)
    page_of_families = (DOCS / "papers/families.md").read_text(encoding="utf-8")
    wide = "convnet:growth=2,norm=none"
    for name, first in {
        "DD, its own steps": ("dd", "steps", "convnet"),
        "DD, ordinary training": ("dd", "hard", "convnet"),
        "FRePo, its authors' network": ("frepo", "regression", wide),
        "FRePo, the ConvNet of the others": ("frepo", "regression", "convnet"),
    }.items():
        cells = " | ".join(
            told(first, (second, "hard", "convnet")) for second in ("random", "dc", "dm")
        )
        assert f"| {name} | {cells} |" in page_of_families
    for name, second in {"DC": "dc", "DM": "dm"}.items():
        cells = " | ".join(
            told(("frepo", "regression", arch), (second, "hard", arch))
            for arch in ("vgg11", "alexnet")
        )
        assert f"| FRePo − {name} | {cells} |" in page_of_families
    seconds: dict[str, list[float]] = {}
    for row in load_rows(DOCS / "families/distillations.csv"):
        seconds.setdefault(row["method"], []).append(float(row["seconds"]))
    dc, dm, dd, frepo = (
        f"{min(all_):.0f} to {max(all_):.0f}"
        for all_ in (seconds[method] for method in ("dc", "dm", "dd", "frepo"))
    )
    assert f"took {dc} s (DC), {dm} (DM), {dd} (DD) and {frepo} (FRePo)" in " ".join(
        page_of_families.split()
    )


def test_what_is_said_of_the_released_sets_is_what_their_networks_say():
    """docs/papers/modelpool.md, from every network; the published values by Welch's test."""
    folder = DOCS / "modelpool-released"
    said = " ".join((DOCS / "papers/modelpool.md").read_text(encoding="utf-8").split())
    networks: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in load_rows(folder / "evaluations.csv"):
        place = (row["arch"], row["ipc"], row["iterations"], row["protocol"], row["method"])
        networks.setdefault(place, []).append(row)

    def gain(arch: str, first: tuple[str, str], second: tuple[str, str]) -> list[float]:
        """The differences of two protocols and methods, smallest first."""
        means = {p: fmean(float(row["accuracy"]) for row in networks[p]) for p in networks}
        places = dict.fromkeys(p[:3] for p in means if p[0] == arch)
        return sorted(means[*p, *first] - means[*p, *second] for p in places)

    pool, baseline, both = ("hard", "dc+pool"), ("hard", "dc"), ("kd", "dc+pool")
    mlp, convnet = gain("mlp", pool, baseline), gain("convnet", pool, baseline)
    assert len(mlp) == 4 and f"(+{mlp[0]:.2f} to +{mlp[-1]:.2f} points)" in said
    assert f"ConvNet loses at most {-convnet[0]:.2f} points" in said
    vgg = gain("vgg11", both, baseline)
    assert f"they cost VGG11 {-vgg[-1]:.1f} to {-vgg[0]:.1f} points" in said
    kd = [r for p, rows in networks.items() if (p[0], p[1], p[3]) == ("alexnet", "1", "kd")
          for r in rows]  # fmt: skip
    failed = [row for row in kd if row["diverged"] == "1"]
    assert len(failed) > len(kd) / 2 and f"({len(failed)} of {len(kd)}, with the pool" in said
    (mean,) = [r for r in load_rows(folder / "claims.csv") if r["claim"] == "modelpool-pool-unseen"]
    low, middle, high = (f"+{float(mean[name]):.2f}" for name in ("low", "difference", "high"))
    assert f"by {middle} ({low} to {high}) points on average" in said

    cells = [r for r in load_rows(folder / "modelpool_ablation.csv") if r["published_std"]]
    assert f"For {len(cells)} cells the authors' files or tables give" in said
    for row in cells:
        n = int(row["published_n"])
        assert row["published_ddof"] == "0"
        spread = float(row["published_std"]) * (n / (n - 1)) ** 0.5
        ours = float(row["mean"]), float(row["std"]), int(row["n"])
        theirs = float(row["published"]), spread, n
        assert stats.ttest_ind_from_stats(*ours, *theirs, equal_var=False).pvalue > 0.05, row


def test_the_differences_of_iadd_are_those_of_its_networks():
    """The table of docs/discrepancies.md, from every network."""
    told = differences("iadd-digits", 2.919986, ("method", "ipc", "iterations"), digits=2)
    readings = (DOCS / "discrepancies.md").read_text(encoding="utf-8")
    for name, method in {
        "raw": "iadd",
        "normalised": "iadd@weights=normalised",
        "layer": "iadd@weights=layer",
        "prune": "iadd@weights=prune",
    }.items():
        (line,) = [one for one in readings.splitlines() if one.startswith(f"| `{name}` | 9")]
        cells = [cell.strip() for cell in line.split("|")]
        assert cells[3] == told((method, "1", "300"), ("mtt", "1", "300"))
        assert cells[6] == told((method, "10", "300"), ("mtt", "10", "300"))


def test_the_differences_of_metadd_are_those_of_its_networks():
    """The table of docs/discrepancies.md, from every network; ˢ marks networks that were used."""
    told = differences("metadd-cpu", 2.015048)
    readings = (DOCS / "discrepancies.md").read_text(encoding="utf-8")
    run = load_run("metadd-cpu")
    specs = {"ConvNet": "convnet", "VGG11": "vgg11", "ResNet18": "resnet18", "LeNet": "lenet",
             "ResNet18-BN": "resnet18_bn", "AlexNet": "alexnet", "ViT": "vit:depth=2"}  # fmt: skip
    for name, arch in specs.items():
        cells = []
        for base, protocol in (("dm", "hard"), ("sre2l", "soft")):
            for addition in ("metadd", "glad"):
                method = f"{base}+{addition}"
                used = {network for m in (base, method) for network in seen(run, m, "cifar10", 10)}
                mark = " ˢ" if arch in used else ""
                cells.append(told((method, protocol, arch), (base, protocol, arch)) + mark)
        assert f"| {name} | {' | '.join(cells)} |" in readings


@pytest.mark.parametrize("how", ["name", "link"])
def test_the_page_is_not_written_over_by_the_long_form(how, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"a\n{BEGIN}\n{END}\nb\n")
    out = page
    if how == "link":
        (out := tmp_path / "link.md").symlink_to(page)
    before = page.read_text()
    assert main(["evidence", str(tmp_path), "--out", str(out), "--into", str(page)]) == 2
    assert f"--out: {out} is read by this command" in capsys.readouterr().err
    assert page.read_text() == before


def test_links_lead_to_folders_with_any_name(runs, tmp_path):
    folder = runs[0].rename(tmp_path / "my (best) results")
    pages = tmp_path / "the pages"
    out = pages / "which hold.md"
    long, front = page(findings(folder), out), short(findings(folder), tmp_path / "a.md", out)
    assert "[Title of cifar10](../my%20%28best%29%20results)" in long
    assert "](my%20%28best%29%20results)" in front
    assert "](the%20pages/which%20hold.md#modelpool-pool-mlp)" in front


def test_a_table_that_the_record_does_not_list_is_said(runs):
    """As of a run that makes it on request."""
    record = load_json(runs[0] / "run.json")
    save_json(runs[0] / "run.json", record | {"files": {}})
    with pytest.raises(DDError) as caught:
        findings(runs[0])
    said = str(caught.value)
    assert "run.json: does not list tables/claims.csv" in said and "checksum" not in said
