"""The documentation: pages for code hosts, and the site that Sphinx makes of them, in a browser."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from tests.support.runs import ROOT

PAPERS = ("modelpool", "iadd", "metadd", "families")
WIDE = "document.querySelector('article img[src*={}]')?.naturalWidth > 500"


def targets(paper: str) -> set[str]:
    """The tables and figures of a paper."""
    found = {}
    for kind in ("tables", "figures"):
        for path in (ROOT / "workflow/config" / kind).glob("*.yaml"):
            found[path.stem] = yaml.safe_load(path.read_text(encoding="utf-8"))["paper"]
    return {name for name, owner in found.items() if owner == paper}


@pytest.mark.parametrize("paper", PAPERS)
def test_the_page_of_a_paper_lists_its_tables_and_figures(paper):
    text = (ROOT / f"docs/papers/{paper}.md").read_text(encoding="utf-8")
    section = text.partition("## Tables and figures\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.+?) \|", section, re.M)
    listed = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(listed) == sorted(targets(paper))


def test_the_front_page_is_short_and_begins_with_the_evidence():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) < 900
    order = ["Which of these claims hold?", "evidence: begin", "![", "snakemake --cores all  ",
             "run=cifar10", "| question | page |"]  # fmt: skip
    places = [text.index(part) for part in order]
    assert places == sorted(places)


def test_every_run_is_on_the_start_page():
    text = (ROOT / "docs/start.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([\w-]+)` \| .+ \| (?:the default|`--config run=\1\b)", text, re.M)
    runs = [path.stem for path in (ROOT / "workflow/config/runs").glob("*.yaml")]
    assert sorted(listed) == sorted(runs)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site; a warning of Sphinx is an error."""
    for module in ("sphinx", "myst_parser", "furo"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module} (pip install -e '.[docs]')")
    out = tmp_path_factory.mktemp("site")
    words = ["-q", "-W", "--keep-going", "-d", str(out / "trees"), "docs", str(out / "html")]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return out / "html"


class Page(HTMLParser):
    """What a page needs to be shown (scripts, styles, images), its links, and its ids."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.needed, self.links, self.ids = [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        known = dict(attributes)
        self.ids.add(known.get("id"))
        if tag in ("script", "img") and "src" in known:
            self.needed.append(known["src"])
        if tag == "link" and known.get("rel") == "stylesheet":
            self.needed.append(known["href"])
        if tag == "a" and "href" in known:
            self.links.append(known["href"])


@pytest.mark.slow
def test_the_site_is_whole_and_needs_no_network(site):
    pages = {path.resolve(): Page(path) for path in site.rglob("*.html")}
    assert len(pages) > 80
    wrong = []
    for path, page in pages.items():
        wrong += [(path.name, url) for url in page.needed if "://" in url]
        for url in page.links + page.needed:
            if "://" in url or url.startswith(("mailto:", "data:")):
                continue
            file, _, place = url.partition("#")
            file = file.partition("?")[0]
            target = (path.parent / file).resolve() if file else path
            if not target.exists() or (
                place and target in pages and place not in pages[target].ids
            ):
                wrong.append((path.name, url))
    assert not wrong


@pytest.mark.slow
def test_every_committed_run_has_a_page_that_folders_lead_to(site):
    runs = {path.parent.name for path in (ROOT / "docs").glob("*/run.json")}
    assert runs and runs <= {path.stem for path in (site / "generated/runs").glob("*.html")}
    links = Page(site / "discrepancies.html").links
    assert "generated/runs/iadd-digits.html" in links  # from (iadd-digits/)
    assert any(link.endswith("/rates.csv") for link in links)
    assert "generated/api/dd.distill.objectives.mtt.html" in {
        link.removeprefix("../").partition("#")[0] for link in Page(site / "papers/iadd.html").links
    }


@pytest.mark.browser
@pytest.mark.slow
def test_the_site_in_a_browser(site, browser):
    def follow(words):
        browser.run(
            "[...document.querySelectorAll('.sidebar-tree a')]"
            f".find(a => a.textContent.trim() == {words!r}).click()"
        )

    def heading(words):
        said = "document.querySelector('article h1')?.innerText"
        browser.wait_for("document.readyState == 'complete'")
        browser.wait_for(f"({said} || '').startsWith({words!r})")

    browser.call("Page.navigate", url=(site / "index.html").as_uri())
    heading("Dataset distillation, reproduced")
    browser.wait_for(WIDE.format("claims"))

    follow("IADD")
    heading("IADD")
    browser.wait_for(WIDE.format("iadd_weights"))
    height = "document.querySelector('math[display=block]').getBoundingClientRect().height"
    assert browser.run(height) > 20  # a fraction, not a line of text

    follow("API")
    heading("API")
    for name in ("dd.distill.objectives", "dd.distill.objectives.iadd"):
        browser.run(f"document.querySelector('article a[href$=\"{name}.html\"]').click()")
        heading(name)
    shown = browser.run("document.querySelector('article').innerText")
    for said in ("ImportanceAware", "arXiv:2401.15863", "lr_weights (float, at least 0)"):
        assert said in shown

    browser.run("document.querySelector('.sidebar-search').value = 'reweighting'")
    browser.run("document.querySelector('.sidebar-search-container').submit()")
    found = "[...document.querySelectorAll('#search-results li > a')].map(a => a.innerText)"
    for title in ("IADD", "dd.report.tables.reweighting"):
        browser.wait_for(f"{found}.includes({title!r})")
    browser.check_that_it_stayed_here()
