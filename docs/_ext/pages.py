"""What the site has beyond the Markdown of this folder.

- ``generated/runs/``: a page for each committed run (a folder of ``docs/`` with a record).
- ``generated/papers/``: for each paper, its tables and figures of all committed runs.
- ``generated/api/``: a page for each module of the package.
- Links to folders of runs, to modules and to pages elsewhere in the repository lead to their pages.
- Classes of settings list their settings.
- Equations are MathML, which browsers show without a script.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx import addnodes
from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
GENERATED = DOCS / "generated"
PAPERS = ("modelpool", "iadd", "metadd", "families")
INCLUDED = {  # pages that include a file from elsewhere, by what they include
    ROOT / "README.md": "index",
    ROOT / "benchmarks/README.md": "benchmarks",
    ROOT / "CONTRIBUTING.md": "contributing",
    ROOT / "CHANGELOG.md": "changelog",
}
FOLDERS = {page: path.parent for path, page in INCLUDED.items()}
RECORDS = ("run.json", "config.json")
# folders of the package whose modules have pages of their own; of the others each folder has one
SEPARATE = ("data", "networks", "training", "pretrain", "distill", "evaluate", "analyse")
INTERNAL = ("artifacts", "runtime", "__main__")  # no reference of these


# pages of committed runs


def runs() -> list[Path]:
    """The folders of committed runs."""
    found = {path.parent for name in RECORDS for path in DOCS.glob(f"*/{name}")}
    return sorted(found)


def record(folder: Path) -> dict[str, Any]:
    """What is recorded of a run, from the first of its records."""
    path = next(folder / name for name in RECORDS if (folder / name).is_file())
    return json.loads(path.read_text(encoding="utf-8"))


def title_of(folder: Path) -> str:
    known = record(folder)
    said = known.get("title") or known.get("run")
    return (said.get("title") if isinstance(said, dict) else said) or folder.name


@cache
def definition(kind: str, name: str) -> dict[str, Any]:
    """The definition of a table or figure; {} for a file that is neither."""
    path = ROOT / "workflow/config" / f"{kind}s" / f"{name}.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}


def exhibits(folder: Path, paper: str | None = None) -> Iterator[tuple[str, Path]]:
    """The figures and tables of a run, as ``figure`` or ``table`` and the file to show."""
    for kind, ending in (("figure", "png"), ("table", "md")):
        for path in sorted(folder.glob(f"*.{ending}")):
            if paper in (None, definition(kind, path.stem).get("paper")):
                yield kind, path


def shown(kind: str, path: Path, page: Path, heading: str) -> list[str]:
    """Lines of ``page`` that show a figure or table under a heading."""
    title = definition(kind, path.stem).get("title", path.stem)
    lines = [
        f"({path.parent.name}-{kind}-{path.stem})=",
        f"{heading} {kind.capitalize()}: {title}",
        "",
    ]
    if kind == "figure":
        return [*lines, f"![{title}]({os.path.relpath(path, page.parent)})", ""]
    text = path.read_text(encoding="utf-8").strip()
    return [*lines, re.sub(r"^\*\*.*?\*\* ", "", text), ""]  # its caption begins with the title


def run_page(folder: Path) -> str:
    """Facts, figures, tables and files of a committed run or measurement."""
    page = GENERATED / "runs" / f"{folder.name}.md"
    known = record(folder)
    what = "Run" if known.get("run") else "Measurement"
    lines = [f"# {what} {folder.name}", "", f"{title_of(folder)}.", ""]
    facts = {
        "Code": ", ".join(_texts(known.get("code"))),
        "Processor": ", ".join(_texts((known.get("hardware") or {}).get("cpu"))),
        "GPU": ", ".join(_texts((known.get("hardware") or {}).get("gpu"))),
        "From": known.get("started", ""),
        "To": known.get("ended", ""),
    }
    lines += [f"- {name}: {value}" for name, value in facts.items() if value]
    lines.append("")
    for kind, path in exhibits(folder):
        lines += shown(kind, path, page, "##")
    lines += ["## Files", ""]
    for path in sorted(folder.iterdir()):
        lines.append(f"- [{path.name}](<path:{os.path.relpath(path, page.parent)}>)")
    return "\n".join(lines) + "\n"


def _texts(value: Any) -> list[str]:
    """The texts in a value of a record, whatever its form."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return list(dict.fromkeys(text for part in value for text in _texts(part)))
    return [value] if isinstance(value, str) else []


def paper_results(paper: str) -> str:
    """Its tables and figures of all committed runs, to be included in the page of a paper."""
    page = DOCS / "papers" / f"{paper}.md"
    lines = []
    for folder in runs():
        own = list(exhibits(folder, paper))
        if own:
            place = os.path.relpath(folder, page.parent)
            lines += [f"### Run {folder.name}", "", f"[{title_of(folder)}]({place}/).", ""]
        for kind, path in own:
            lines += shown(kind, path, page, "####")[1:]  # its label is that of the run's page
    return "\n".join(lines) or "None yet.\n"


# reference of the code


def modules() -> dict[str, Path]:
    """The public packages and modules, by their names."""
    found = {}
    for path in sorted((ROOT / "dd").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[1] not in INTERNAL:
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def summary(path: Path) -> str:
    """The first line of a module's docstring, or what Architecture says of a folder."""
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return said.partition("\n")[0] or folders().get(path.parent.name, "")


@cache
def folders() -> dict[str, str]:
    """What is in the folders of the package, from the table of Architecture."""
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| `dd/(\w+)/` \| (.+) \|$", text, re.M)
    return {name: said.replace("`", "``") for name, said in found}


def has_page(name: str, path: Path) -> bool:
    """Whether a module has a page of its own, not a section on the page of its package."""
    return path.name == "__init__.py" or name.split(".")[1] in SEPARATE


def module_page(name: str, known: dict[str, Path]) -> str:
    """reStructuredText: what a module has, or the modules of a package."""
    lines = [name, "=" * len(name), ""]
    if known[name].name != "__init__.py":
        return "\n".join([*lines, f".. automodule:: {name}", ""])
    lines += [summary(known[name]), ""]
    inside = [one for one in known if one.rpartition(".")[0] == name]
    pages = [one for one in inside if has_page(one, known[one])]
    for one in pages:
        lines += [f":doc:`{one}`", f"    {summary(known[one])}", ""]
    lines += [".. toctree::", "    :hidden:", "", *map(entry, pages), ""]
    for one in inside:
        if one not in pages:
            lines += [one, "-" * len(one), "", f".. automodule:: {one}", ""]
    return "\n".join(lines)


def entry(name: str) -> str:
    """An entry of a table of contents, which shows where the module is by its place."""
    return f"    {name.rpartition('.')[2]} <{name}>"


def generate(app: Sphinx) -> None:
    """Write the pages, each only if it changed, and remove those of what is no more."""
    known = modules()
    pages = {GENERATED / "runs" / f"{folder.name}.md": run_page(folder) for folder in runs()}
    pages |= {GENERATED / "papers" / f"{paper}.md": paper_results(paper) for paper in PAPERS}
    pages |= {
        GENERATED / "api" / f"{name}.rst": module_page(name, known)
        for name, path in known.items()
        if has_page(name, path)
    }
    for path in GENERATED.glob("*/*"):
        if path not in pages:
            path.unlink()
    for path, text in pages.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


# links


def page_of(target: Path) -> tuple[str, str] | None:
    """The page of the site that shows a file or folder of the repository, and the place in it."""
    if target in INCLUDED:
        return INCLUDED[target], ""
    if target in runs():
        return f"generated/runs/{target.name}", ""
    if target.parent in runs() and target.suffix == ".md":
        return f"generated/runs/{target.parent.name}", f"{target.parent.name}-table-{target.stem}"
    if target.suffix == ".py" and (name := _module_of(target)):
        if has_page(name, target):
            return f"generated/api/{name}", ""
        return f"generated/api/{name.rpartition('.')[0]}", f"module-{name}"
    if target.suffix == ".md" and DOCS in target.parents:
        return target.relative_to(DOCS).with_suffix("").as_posix(), ""
    return None


@cache
def _module_of(path: Path) -> str | None:
    return next((name for name, one in modules().items() if one == path), None)


def lead_links(app: Sphinx, tree: nodes.document) -> None:
    """Lead links that MyST knows no page for to the page, or else to a copy of the file."""
    docname = app.env.docname
    for node in list(tree.findall(addnodes.pending_xref)) + list(
        tree.findall(addnodes.download_reference)
    ):
        if node.get("reftype") != "myst" or node["reftarget"].startswith("#"):
            continue
        if node.get("refdomain") == "doc":
            if node["reftarget"] in app.env.found_docs:
                continue
            said, anchor = f"/{node['reftarget']}.md", node.get("reftargetid") or ""
        else:
            said, _, anchor = node["reftarget"].partition("#")
        bases = [DOCS / Path(docname).parent, FOLDERS.get(docname, ROOT)]
        places = [DOCS / said[1:]] if said.startswith("/") else [base / said for base in bases]
        target = next((one.resolve() for one in places if one.exists()), None)
        if target is None or ((found := page_of(target)) is None and not target.is_file()):
            continue  # MyST warns of it
        if docname.startswith("generated/runs/") and target.parent in runs():
            found = None  # a run's page offers its files as they are
        common = {"refdoc": docname, "reftype": "myst", "refexplicit": True}
        if found is None:
            place = os.path.relpath(target, DOCS / Path(docname).parent)
            new = addnodes.download_reference(refdomain=None, reftarget=place, **common)
        else:
            page, place = found
            new = addnodes.pending_xref(
                refdomain="doc", reftarget=page, reftargetid=anchor or place or None, **common
            )
        new.source, new.line = node.source, node.line
        new += node.children
        node.replace_self(new)


# settings and equations


def complete(app: Sphinx, what: str, name: str, item: Any, options: Any, lines: list[str]) -> None:
    """Complete a docstring: list the settings of a dataclass of settings.

    Names that share a line of a docstring (``images, labels: ...``) are also kept together, which
    Sphinx would take for a type and a name.
    """
    for number, line in enumerate(lines):
        if names := re.match(r":(?:param|ivar) (\w+(?:, \w+)+):", line):
            lines[number] = line.replace(names[1], names[1].replace(" ", ""), 1)
    if what != "class" or not dataclasses.is_dataclass(item):
        return
    own = [field for field in dataclasses.fields(item) if "help" in field.metadata]
    if own:
        lines += ["", ".. rubric:: Settings", ""]
    for field in own:
        rules = field.metadata
        limits = [
            f"{words} {rules[rule]}"
            for rule, words in (
                ("at_least", "at least"),
                ("above", "above"),
                ("at_most", "at most"),
            )
            if rules.get(rule) is not None
        ]
        if rules.get("choices"):
            limits.append("one of " + ", ".join(map(str, rules["choices"])))
        kind = field.type if isinstance(field.type, str) else field.type.__name__
        said = rules["help"].replace("\\", "\\\\").replace("*", "\\*").replace("|", "\\|")
        lines.append(f"``{field.name}`` ({kind}{''.join(f', {limit}' for limit in limits)})")
        lines += [f"    {said}", ""]


def visit_math(translator: Any, node: nodes.Element) -> None:
    block = isinstance(node, nodes.math_block)
    said = latex2mathml.tex2mathml(node.astext(), as_block=block)
    translator.body.append(f'<div class="math">{said}</div>' if block else said)
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", generate)
    app.connect("doctree-read", lead_links, priority=100)  # before files are collected
    app.connect("autodoc-process-docstring", complete, priority=900)  # after napoleon
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
