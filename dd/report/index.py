"""A page that shows a finished run on a code host: README.md, beside its tables and figures.

It says what the run is and what it ran on (``run.json``), shows all tables and figures, and says
how to make and check them again. ``run.html`` and ``settings.html``, beside it, say what the run is
and which settings it has; Snakemake's report shows them.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dd.artifacts.text import load_json, save_text
from dd.config.run import Run, load_run, read_run
from dd.errors import DDError
from dd.plan.exhibits import Exhibit
from dd.plan.jobs import Distillation, Evaluation
from dd.plan.plan import Plan
from dd.report import escape, fallbacks
from dd.report.captions import caption
from dd.report.labels import axis_label, paper_label
from dd.report.sheet import Sheet, Text
from dd.report.tables.settings import settings_rows

FORMATS = {"csv": "CSV", "tex": "LaTeX", "html": "HTML"}  # of a table, beside the Markdown shown
UNFINISHED = "is missing; finish the run first: snakemake"
SETTINGS = "How this run trains networks, distils sets and evaluates them."
CLOSING = ("- [Settings](#settings)", "- [To make it again, to check it](#again)")


def about(plan: Plan, record: dict[str, Any] | None) -> Sheet:
    """What a run is.

    Args:
        record: its ``run.json``; None if there is none yet: then only what was planned is said.
    """
    run = plan.run
    comparable = (
        "A published value stands beside a cell only where dataset and settings are the paper's."
    )
    if run.stands_in_for:
        data = " and ".join(_labels(run))
        comparable = (
            f"{data} in place of {run.stands_in_for}: nothing here compares with published numbers."
        )
    seeds = ", ".join(map(str, run.seeds))
    scaled = f"{run.width_factor:g} × the published widths, to no less than 8"
    kinds = [kind for kind, _ in plan.exhibits]
    said = {
        "Run": run.name,
        "Data": "; ".join(_labels(run)),
        "Networks": "as published" if run.width_factor == 1 else scaled,
        "Synthetic sets": f"one a method, IPC and seed ({seeds})",
        "Evaluation": f"{run.networks} networks a synthetic set and architecture",
        "Made": f"{kinds.count('table')} tables and {kinds.count('figure')} figures from "
        f"{len(plan.of(Distillation))} distillations and {len(plan.of(Evaluation))} evaluations",
        **({} if record is None else _machines(record)),
    }
    return Sheet(
        name="run",
        title=run.title,
        caption=comparable,
        header=["What", "In this run"],
        body=[[Text(name), Text(value)] for name, value in said.items()],
        keys=2,
    )


def _labels(run: Run) -> list[str]:
    return [options["label"] for options in run.datasets.values()]


def _machines(record: dict[str, Any]) -> dict[str, str]:
    """Where and when a run ran, and which code, from its ``run.json``."""
    hardware, code = record["hardware"], record["code"]
    libraries = (f"{name} {number}" for name, number in record["libraries"].items())
    said = {
        "Processor": ", ".join(hardware["cpu"]),
        "Cores": str(hardware["cores"]),
        "GPU": ", ".join(hardware["gpu"]) or "none",
        "First artifact": _time(record["started"]),
        "Last artifact": _time(record["ended"]),
        "Code": f"{', '.join(code['artifacts']) or 'none'} (artifacts); "
        f"{code['tables and figures']} (tables and figures)",
        "Libraries": ", ".join([f"Python {record['python']}", *libraries]),
    }
    return {name: value for name, value in said.items() if value}


def _time(stamp: str | None) -> str:
    """A time of ``run.json`` for people; a run without artifacts has none."""
    return (stamp or "").replace("T", " ").replace("+00:00", " UTC")


def settings(plan: Plan) -> Sheet:
    """The pools and hyperparameters of a run."""
    rows = settings_rows(plan.run)
    return Sheet(
        name="settings",
        title="Settings",
        caption=" ".join([SETTINGS, *fallbacks.of_run(plan.run)]),
        header=[axis_label(column) for column in rows[0]] if rows else ["Settings"],
        body=[[Text(str(value)) for value in row.values()] for row in rows],
        keys=len(rows[0]) if rows else 1,
    )


def page(plan: Plan, record: dict[str, Any], root: Path) -> str:
    """The README.md of the run whose files lie in ``root``.

    Raises:
        DDError: naming a table or figure that is missing.
    """
    run, papers = (
        plan.run,
        list(dict.fromkeys(g.definition["paper"] for g in plan.exhibits.values())),
    )
    blocks = [
        f"# Results of the run {escape.markdown_code(run.name)}",
        about(plan, record).markdown(),
        "[Everything recorded of the run, with a checksum of each file](run.json) · "
        "[configuration](config.json)",
        "## Contents",
        "\n".join([*(_contents(plan, paper) for paper in papers), *CLOSING]),
    ]
    for paper in papers:
        blocks += [f"## {escape.markdown(paper_label(paper))}"]
        for (kind, _), exhibit in _of(plan, paper):
            blocks += _table(exhibit, root) if kind == "table" else _figure(exhibit, root)
    blocks += [_anchor("settings"), "## Settings", _settings(plan)]
    blocks += [_anchor("again"), "## To make it again, to check it", _commands(run)]
    return "\n\n".join(block.rstrip("\n") for block in blocks) + "\n"


def _of(plan: Plan, paper: str) -> Iterable[tuple[tuple[str, str], Exhibit]]:
    """The tables, then the figures of a paper."""
    return ((key, g) for key, g in plan.exhibits.items() if g.definition["paper"] == paper)


def _contents(plan: Plan, paper: str) -> str:
    lines = [f"- {escape.markdown(paper_label(paper))}"]
    for (kind, name), exhibit in _of(plan, paper):
        title = escape.markdown(exhibit.definition["title"])
        lines.append(f"  - {kind.capitalize()}: [{title}](#{kind}-{name})")
    return "\n".join(lines)


def _anchor(name: str) -> str:
    """A place to link to; code hosts make those of headings each in its own way."""
    return f'<a id="{name}"></a>'


def _table(exhibit: Exhibit, root: Path) -> list[str]:
    made = root / "tables" / f"{exhibit.name}.md"
    try:
        shown = made.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DDError(f"{made}: {UNFINISHED}") from None
    links = [f"[{title}](tables/{exhibit.name}.{ending})" for ending, title in FORMATS.items()]
    return [_anchor(f"table-{exhibit.name}"), shown, " · ".join(links)]


def _figure(exhibit: Exhibit, root: Path) -> list[str]:
    made = root / "figures" / f"{exhibit.name}.png"
    if not made.is_file():
        raise DDError(f"{made}: {UNFINISHED}")
    title = exhibit.definition["title"]
    return [
        _anchor(f"figure-{exhibit.name}"),
        f"![{escape.markdown_alt(title)}](figures/{exhibit.name}.png)",
        f"**{escape.markdown(title)}.** {escape.markdown(caption(exhibit))}",
        f"[PDF](figures/{exhibit.name}.pdf)",
    ]


def _settings(plan: Plan) -> str:
    """The settings, or where they stand already."""
    for (kind, name), exhibit in plan.exhibits.items():
        if kind == "table" and exhibit.definition["kind"] == "settings":
            title = escape.markdown(exhibit.definition["title"])
            return f"They are a table of this run: [{title}](#table-{name})."
    return settings(plan).markdown()


def _commands(run: Run) -> str:
    """What a person types to get the same."""
    again = " ".join(["--config", *config_words(run)])
    folder = "DIR" if Path(run.results).is_absolute() else run.results
    made = escape.one_line(shlex.quote(f"{folder}/{run.name}"))
    return f"""```
snakemake --cores all {again}
python -m dd verify {made} # is every file as it was, every table what its files give?
snakemake --report report.html {again} # all of this, and run times, in one page
```"""


def config_words(run: Run) -> list[str]:
    """The ``--config`` of a run, with DIR for folders that are this machine's own."""
    usual = _ours(run)
    if usual is None:
        return [f"run=DIR/{run.name}.yaml"]  # what it overrides is not known
    words = [f"run={run.name}"]
    known = {name: options.get("root") for name, options in usual.datasets.items()}
    if any(options.get("root") != known[name] for name, options in run.datasets.items()):
        words.append("data_root=DIR")
    if list(run.datasets) != list(usual.datasets):
        words.append(f"datasets=[{','.join(run.datasets)}]")
    if run.seeds != usual.seeds:
        words.append(f"seeds=[{','.join(map(str, run.seeds))}]")
    words += [
        f"{key}={getattr(run, key)}"
        for key in ("networks", "device")
        if getattr(run, key) != getattr(usual, key)
    ]
    if run.results != usual.results:
        words.append("results=DIR" if Path(run.results).is_absolute() else f"results={run.results}")
    return [escape.one_line(shlex.quote(word)) for word in words]


def _ours(run: Run) -> Run | None:
    """The run of the suite that ``run`` is, its overrides apart; None if it is a person's own."""
    if not Path(run.path("runs", f"{run.name}.yaml")).is_file():
        return None
    found = load_run(run.name, {}, run.workflow)
    same = ("title", "axes", "axes_for", "recipes", "tables", "figures", "width_factor")
    return found if all(getattr(found, key) == getattr(run, key) for key in same) else None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", required=True, type=Path, help="config.json of the run, in its folder"
    )
    parser.add_argument(
        "--out", required=True, type=Path, help="README.md, in the same folder; pages go beside"
    )


def run(arguments: argparse.Namespace) -> None:
    """Write README.md, run.html and settings.html."""
    root, out = arguments.config.parent, arguments.out
    if out.suffix != ".md" or out.parent.resolve() != root.resolve():
        raise DDError(f"--out: {out} must be a .md file beside {arguments.config}, to link to")
    plan = Plan(read_run(arguments.config)).main
    record = load_json(root / "run.json")
    try:
        pages = {"run.html": about(plan, record).html(), "settings.html": settings(plan).html()}
    except (AttributeError, KeyError, TypeError):
        raise DDError(f"{root / 'run.json'}: is no record of `python -m dd record`") from None
    for name, text in pages.items():
        save_text(root / name, text)
    save_text(out, page(plan, record, root))
    print(f"{out}: {len(plan.exhibits)} tables and figures; {' and '.join(pages)} beside it")
