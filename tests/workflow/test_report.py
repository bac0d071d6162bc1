"""What a reader opens: README.md of a run, and Snakemake's report in a real browser."""

import json
import re
import shlex
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from dd.command import main
from dd.config.run import load_run, read_run
from dd.plan.plan import Plan
from dd.report.index import config_words
from dd.report.labels import paper_label
from tests.support.runs import TINY, copy_workflow, jobs, snakemake

WORDS = ("--config", "run=tiny.yaml")
RUN = (
    TINY.replace("[baseline, pool]", "[baseline]")
    .replace(
        "modelpool_taxonomy, modelpool_settings, modelpool_ablation", "modelpool_ablation, cost"
    )
    .replace("figures: []", "figures: [cost]")
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A workflow with a finished run of two tables and a figure."""
    folder = copy_workflow(tmp_path_factory.mktemp("report"))
    (folder / "tiny.yaml").write_text(RUN)
    done = snakemake(folder, *WORDS)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def plan(folder, monkeypatch) -> Plan:
    """The plan of the finished run, from inside the workflow's folder."""
    monkeypatch.chdir(folder)
    return Plan(read_run("results/tiny/config.json"))


@pytest.mark.slow
def test_readme_shows_every_table_and_figure(folder, plan):
    root = folder / "results/tiny"
    text = (root / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) == (2 + 3 + 2) + 2 * 3 + 2  # contents; by table; by figure
    for link in links:
        if link.startswith("#"):
            assert f'<a id="{link[1:]}"></a>' in text
        else:
            assert (root / link).is_file(), link
    assert len(plan.exhibits) == 3
    for (kind, name), exhibit in plan.exhibits.items():
        assert exhibit.definition["title"] in text
        assert exhibit.definition["caption"].split("(")[0] in text
        if kind == "table":
            assert (root / f"tables/{name}.md").read_text(encoding="utf-8") in text
            assert {f"tables/{name}.{ending}" for ending in ("csv", "tex", "html")} <= set(links)
        else:
            assert {f"figures/{name}.png", f"figures/{name}.pdf"} <= set(links)
    record = json.loads((root / "run.json").read_text())
    for fact in (record["code"]["tables and figures"], record["hardware"]["cpu"][0], "digits"):
        assert fact in text
    assert str(folder) not in text

    made = {name: (root / name).read_bytes() for name in ("README.md", "run.html", "settings.html")}
    words = ["--config", "results/tiny/config.json", "--out", "results/tiny/README.md"]
    assert main(["index", *words]) == 0
    assert {name: (root / name).read_bytes() for name in made} == made
    assert b"batch_real 8" in made["settings.html"]


@pytest.mark.slow
def test_index_says_what_is_missing(folder, plan, tmp_path, capsys):
    def error(*words):
        assert main(["index", *words]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return said

    config = tmp_path / "tiny" / "config.json"
    config.parent.mkdir()
    shutil.copy("results/tiny/config.json", config)
    out = ("--out", str(config.with_name("README.md")))
    assert "run.json: no such file" in error("--config", str(config), *out)
    config.with_name("run.json").write_text("{}")
    assert "run.json: is no record" in error("--config", str(config), *out)
    assert "must be a .md file beside" in error("--config", str(config), "--out", "README.md")
    shutil.copy("results/tiny/run.json", config.parent)
    assert "is missing; finish the run first" in error("--config", str(config), *out)


def test_the_command_that_makes_a_run_again(tmp_path):
    assert config_words(load_run("smoke")) == ["run=smoke"]
    changed = {"networks": 3, "seeds": [0, 1], "device": "cpu", "results": str(tmp_path)}
    again = ["run=smoke", "'seeds=[0,1]'", "networks=3", "device=cpu", "results=DIR"]
    assert config_words(load_run("smoke", changed)) == again
    (tmp_path / "cifar10").mkdir()
    assert config_words(load_run("cifar10")) == ["run=cifar10"]  # its root is the run's own
    own = tmp_path / "smoke.yaml"  # a person's run of a name that the suite has, too
    document = yaml.safe_load(Path("workflow/config/runs/smoke.yaml").read_text())
    own.write_text(yaml.safe_dump(document | {"title": "mine"}))
    assert config_words(load_run(str(own))) == ["run=DIR/smoke.yaml"]
    odd = own.rename(own.with_name("é & 'x' 1.yaml"))
    words = config_words(load_run(str(odd), {"results": "other", "plugins": []}))
    assert [*map(shlex.split, words)] == [["run=DIR/é & 'x' 1.yaml"], ["results=other"]]
    words = config_words(load_run("iadd", {"datasets": "cifar10", "data_root": str(tmp_path)}))
    assert words == ["run=iadd", "data_root=DIR", "'datasets=[cifar10]'"]


def test_titles_tell_tables_and_figures_of_a_paper_apart():
    """Snakemake's report lists them by title."""
    for name in ("smoke", "paper"):
        exhibits = Plan(load_run(name)).exhibits
        titles = [
            (kind, exhibit.definition["paper"], exhibit.definition["title"])
            for (kind, _), exhibit in exhibits.items()
        ]
        assert len(set(titles)) == len(titles)


@pytest.mark.slow
def test_text_of_a_run_is_text_in_the_report(tmp_path):
    """A run, a table and a dataset that try to bring a page to life, or a file into it."""
    folder = copy_workflow(tmp_path)
    secret = folder / "secret.txt"
    secret.write_text("precious")
    evil = (
        "</script><script>alert(1)</script> <b>b</b> `l <javascript:x>`_ |s| {table} {{ 6 * 7 }} "
        "{% endraw %} $x$ 100 % & \\\\ .. raw:: html * _"
    )
    more = f"{evil}\n\n.. raw:: html\n\n   <i>live</i>\n\n.. include:: {secret}\n\n=====\n"
    words = TINY.replace("modelpool_taxonomy, modelpool_settings, modelpool_ablation", "mine")
    run = yaml.safe_load(words) | {"title": evil, "stands_in_for": evil}
    run["datasets"]["digits"]["label"] = evil
    run["axes"] = {"ipc": [1], "iterations": [1], "setting": ["one"], "arch": ["mlp"]}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(run))
    table = {
        "paper": "mine", "title": evil, "caption": more, "kind": "results", "rows": ["dataset"],
        "columns": ["setting"], "axes": {"ipc": [1], "iterations": [1], "arch": ["mlp"],
                                         "setting": {"one": {"method": "dc"}}},
    }  # fmt: skip
    (folder / "workflow/config/tables/mine.yaml").write_text(yaml.safe_dump(table))
    done = snakemake(folder, *WORDS)
    assert done.returncode == 0, done.stderr
    done = snakemake(folder, "--report", "report.html", *WORDS)
    assert done.returncode == 0, done.stderr
    report = (folder / "report.html").read_text()
    assert "precious" not in report and "<script>alert" not in report
    results, start = (
        json.loads(re.search(rf"<script id=.*>\s*var {name} = (.*);\n", report)[1])
        for name in ("results", "workflow_desc")
    )
    shown = results["results/tiny/tables/mine.html"]
    assert shown["labels"]["Table"].replace("\u2060", "") == evil
    plain = " ".join(more.split())
    for page, said in ((shown["caption"], [plain, evil]), (start, [evil, evil])):
        tags, text = read(page)
        assert not tags & {"script", "b", "i", "img"}
        assert all(" ".join(text.split()).count(what) >= 1 for what in said), text
        assert [link for link in re.findall('href="([^"]*)"', page) if "javascript:x" in link] == []
        assert "system-message" not in page
    for name in ("run.html", "settings.html", "tables/mine.html"):
        tags, text = read((folder / "results/tiny" / name).read_text())
        assert not tags & {"script", "i", "img"} and (evil in text or name == "settings.html")
    readme = (folder / "results/tiny/README.md").read_text()
    assert r"\<script\>alert(1)\</script\>" in readme and "<script>" not in readme
    assert "<i>" not in readme and "\n.. raw" not in readme


def read(page: str) -> tuple[set[str], str]:
    """The tags of HTML, and its text."""
    tags, text = set(), []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.add(tag)
    parser.handle_data = text.append
    parser.feed(page)
    parser.close()
    return tags, "".join(text)


@pytest.mark.browser
@pytest.mark.slow
def test_the_report_opens_offline_and_shows_everything(folder, plan, browser):
    assert jobs(folder, *WORDS) == {}
    done = snakemake(folder, "--report", "report.html", *WORDS)
    assert done.returncode == 0, done.stderr
    browser.call("Page.navigate", url=(folder / "report.html").as_uri())
    start = browser.wait_for("document.querySelector('.prose')?.innerText")
    for said in ("two distillations", "seed (0)", "digits", "Model Pool", "Processor"):
        assert said in start
    browser.wait_for("document.querySelector('#rulegraph canvas')?.width > 100")
    assert browser.run("document.querySelector('.prose h1').getBoundingClientRect().top") >= 0
    browser.click("Statistics")
    browser.wait_for("document.querySelector('#runtimes canvas')?.width > 100")

    entries = "[...document.querySelectorAll('nav tbody tr')].map(tr => tr.firstChild.innerText)"
    for (kind, name), exhibit in plan.exhibits.items():
        paper, title = paper_label(exhibit.definition["paper"]), exhibit.definition["title"]
        browser.run("document.querySelector('nav nav a').click()")  # home
        browser.click(paper)
        if browser.run("!document.querySelector('nav tbody')"):  # the paper has both
            browser.click(f"{kind.capitalize()}s")
        number = browser.run(entries).index(title)
        row = f"document.querySelectorAll('nav tbody tr')[{number}]"
        browser.run(f"{row}.querySelector('a').click()")
        if kind == "table":
            shown = browser.framed(f"{name}.html")
            made = (folder / f"results/tiny/tables/{name}.csv").read_text().splitlines()
            assert title in shown and shown.count("\n") > len(made) - 1
        else:
            picture = f"document.querySelector('#app img[src*=\"filename={name}.png;\"]')"
            assert browser.wait_for(f"{picture}?.naturalWidth") > 500
            assert browser.run(f"{picture}.getBoundingClientRect().top") >= 0
        browser.run(f"{row}.querySelectorAll('a')[1].click()")
        described = browser.run("document.querySelector('nav .prose').innerText")
        assert exhibit.definition["caption"].split(" (")[0].strip() in described
    browser.run("document.querySelector('nav nav a').click()")
    browser.click("The run")
    assert sorted(browser.run(entries)) == ["Record (JSON)", "Settings", "What it is"]
    browser.run("document.querySelectorAll('nav tbody tr')[1].querySelector('a').click()")
    assert "batch_real 8" in browser.framed("settings.html")

    browser.check_that_it_stayed_here()
