"""A page that shows a finished run on a code host: README.md, beside its tables and figures.

The page describes the run and the machines (``run.json``), shows all tables and figures, and says
how to make and check them again. Two more pages beside it, ``run.html`` and ``settings.html``,
describe the run and list its settings; Snakemake's report shows them.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dd.artifacts.atomic import check_out
from dd.artifacts.text import load_json, save_text, through_json
from dd.config.run import OVERRIDES, Run, load_run, read_run
from dd.errors import DDError
from dd.plan.exhibits import Exhibit
from dd.plan.jobs import Evaluation, Import
from dd.plan.plan import Plan, made_sets
from dd.report import escape, fallbacks
from dd.report.captions import caption, in_precision
from dd.report.labels import axis_label, paper_label, value_label
from dd.report.sheet import Sheet, Text
from dd.report.tables.settings import settings_rows
from dd.runtime.say import say

FORMATS = {"csv": "CSV", "tex": "LaTeX", "html": "HTML"}  # formats of a table besides Markdown
UNFINISHED = "is missing; finish the run first: snakemake"
SETTINGS = "How this run trains networks, distils sets and evaluates them."
CLOSING = ("- [Settings](#settings)", "- [How to make and check it again](#again)")


def about(plan: Plan, record: dict[str, Any] | None) -> Sheet:
    """A description of a run, as a table.

    Args:
        plan: the plan of the run.
        record: its ``run.json``; None if there is none yet. Then the description has only what was
            planned.
    """
    run = plan.run
    comparable = (
        "A cell has a published value beside it only if dataset and settings are those of the "
        "paper."
    )
    if run.stands_in_for:
        data = " and ".join(_labels(run))
        comparable = (
            f"{data} in place of {run.stands_in_for}: the numbers cannot be compared with "
            "published ones."
        )
    seeds = ", ".join(map(str, run.seeds))
    scaled = f"{run.width_factor:g} × the published widths, but at least 8"
    kinds = [kind for kind, _ in plan.exhibits]
    described = {
        "Run": run.name,
        "Data": "; ".join(_labels(run)),
        "Networks": "as published" if run.width_factor == 1 else scaled,
        **({} if run.precision == "float32" else {"Precision": run.precision}),
        "Synthetic sets": f"one per method, IPC and seed ({seeds}){_other_seeds(run)}",
        **_whose(plan),
        "Evaluation": f"{run.networks} networks per synthetic set and architecture{_numbers(run)}",
        "Made": f"{kinds.count('table')} tables and {kinds.count('figure')} figures from "
        f"{made_sets(plan)} and {len(plan.of(Evaluation))} evaluations",
        **({} if record is None else _machines(record)),
    }
    return Sheet(
        name="run",
        title=run.title,
        caption=" ".join([comparable, *in_precision(run)]),
        header=["What", "In this run"],
        body=[[Text(name), Text(value)] for name, value in described.items()],
        keys=2,
    )


def _whose(plan: Plan) -> dict[str, str]:
    """Whose the imported sets of a run are."""
    entries = [job.entry(plan.run) for job in plan.of(Import)]
    said = [f"{e['by']} ({e['from']})" if "from" in e else e["by"] for e in entries]
    return {"Imported sets": f"by {'; '.join(dict.fromkeys(said))}"} if said else {}


def _other_seeds(run: Run) -> str:
    """The seeds of tables, figures and papers that have others than the usual ones."""
    return "".join(
        f"; {', '.join(map(str, seeds))} for {name}" for name, seeds in run.seeds_for.items()
    )


def _numbers(run: Run) -> str:
    """The numbers of networks that differ from the usual one."""
    rules = [
        f"{rule['networks']} for "
        + ", ".join(
            f"{axis_label(key)} {' or '.join(value_label(key, value) for value in values)}"
            for key, values in rule.items()
            if key != "networks"
        )
        for rule in run.networks_for
    ]
    return "".join(f"; {rule}" for rule in rules)


def _labels(run: Run) -> list[str]:
    return [options["label"] for options in run.datasets.values()]


def _machines(record: dict[str, Any]) -> dict[str, str]:
    """The machines, the times and the code of a run, from its ``run.json``."""
    hardware, code = record["hardware"], record["code"]
    libraries = (f"{name} {number}" for name, number in record["libraries"].items())
    described = {
        "Processor": ", ".join(hardware["cpu"]),
        "Cores": f"{hardware['cores']} (of the machine that recorded the run)",
        "GPU": ", ".join(hardware["gpu"]) or "none",
        "First artifact": _time(record["started"]),
        "Last artifact": _time(record["ended"]),
        "Code": f"{', '.join(code['artifacts']) or 'none'} (artifacts); "
        f"{code['tables and figures']} (tables and figures)",
        "Plug-ins": ", ".join(record.get("plugins", [])),
        "Torch": ", ".join(hardware["torch"]),
        "Libraries": ", ".join([f"Python {record['python']}", *libraries])
        + " (where the run was recorded)",
    }
    return {name: value for name, value in described.items() if value}


def _time(stamp: str | None) -> str:
    """A time of ``run.json`` in readable form; "" for a run without artifacts."""
    return (stamp or "").replace("T", " ").replace("+00:00", " UTC")


def settings(plan: Plan) -> Sheet:
    """The model pools and hyperparameters of a run, as a table."""
    rows = settings_rows(plan.run)
    return Sheet(
        name="settings",
        title="Settings",
        caption=" ".join([SETTINGS, *in_precision(plan.run), *fallbacks.of_run(plan.run)]),
        header=[axis_label(column) for column in rows[0]] if rows else ["Settings"],
        body=[[Text(str(value)) for value in row.values()] for row in rows],
        keys=len(rows[0]) if rows else 1,
    )


def page(plan: Plan, record: dict[str, Any], root: Path) -> str:
    """The README.md of the run whose files lie in ``root``.

    Raises:
        DDError: if a table or figure is missing; the message names it.
    """
    run = plan.run
    papers = list(dict.fromkeys(e.definition["paper"] for e in plan.exhibits.values()))
    blocks = [
        f"# Results of the run {escape.markdown_code(run.name)}",
        about(plan, record).markdown(),
        "[Record of the run, with a checksum of each file](run.json) · "
        "[configuration](config.json)",
        "## Contents",
        "\n".join([*(_contents(plan, paper) for paper in papers), *CLOSING]),
    ]
    for paper in papers:
        blocks += [f"## {escape.markdown(paper_label(paper))}"]
        for (kind, _), exhibit in _of(plan, paper):
            blocks += _table(exhibit, root) if kind == "table" else _figure(exhibit, root)
    blocks += [_anchor("settings"), "## Settings", _settings(plan)]
    blocks += [_anchor("again"), "## How to make and check it again", _commands(run)]
    return "\n\n".join(block.rstrip("\n") for block in blocks) + "\n"


def _of(plan: Plan, paper: str) -> Iterable[tuple[tuple[str, str], Exhibit]]:
    """The tables, then the figures of a paper."""
    return ((key, e) for key, e in plan.exhibits.items() if e.definition["paper"] == paper)


def _contents(plan: Plan, paper: str) -> str:
    lines = [f"- {escape.markdown(paper_label(paper))}"]
    for (kind, name), exhibit in _of(plan, paper):
        title = escape.markdown(exhibit.definition["title"])
        lines.append(f"  - {kind.capitalize()}: [{title}](#{kind}-{name})")
    return "\n".join(lines)


def _anchor(name: str) -> str:
    """A target for links. Code hosts differ in how they make targets from headings."""
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
    """The settings, or a link if they are already a table of the run."""
    for (kind, name), exhibit in plan.exhibits.items():
        if kind == "table" and exhibit.definition["kind"] == "settings":
            title = escape.markdown(exhibit.definition["title"])
            return f"They are a table of this run: [{title}](#table-{name})."
    return settings(plan).markdown()


def _commands(run: Run) -> str:
    """The commands with which a person makes and checks the run again."""
    again = " ".join(["--config", *config_words(run)])
    folder = "DIR" if Path(run.results).is_absolute() else run.results
    made = escape.one_line(shlex.quote(f"{folder}/{run.name}"))
    return f"""```
snakemake --cores all {again}
python -m dd verify {made} # compare files with their checksums, render tables again
snakemake --report report.html {again} # one page with all of this and the run times
```"""


def config_words(run: Run) -> list[str]:
    """The ``--config`` of a run, with DIR for folders of this machine."""
    usual = _ours(run)
    where = "results=DIR" if Path(run.results).is_absolute() else f"results={run.results}"
    if usual is None:  # other overrides than these are not known
        words = [f"run=DIR/{run.name}.yaml"]
        words += [f"plugins=[{','.join(run.plugins)}]"] if run.plugins else []
        words += [where] if run.results != "results" else []
        return [escape.one_line(shlex.quote(word)) for word in words]
    words = [f"run={run.name}"]
    known = {name: options.get("root") for name, options in usual.datasets.items()}
    if any(options.get("root") != known[name] for name, options in run.datasets.items()):
        words.append("data_root=DIR")
        copies = {name: options.get("copy") for name, options in usual.datasets.items()}
        own = (o["copy"] for name, o in run.datasets.items() if o.get("copy") != copies[name])
        words += [f"copy={copy}" for copy in dict.fromkeys(own)]
    if list(run.datasets) != list(usual.datasets):
        words.append(f"datasets=[{','.join(run.datasets)}]")
    if run.sets_root != usual.sets_root:
        words.append("sets_root=DIR")
    if not _alike(run, usual, "seeds", "seeds_for"):
        words.append(f"seeds=[{','.join(map(str, run.seeds))}]")
    if run.plugins != usual.plugins:
        words.append(f"plugins=[{','.join(run.plugins)}]")
    if not _alike(run, usual, "networks", "networks_for"):
        words.append(f"networks={run.networks}")
    words += [
        f"{key}={getattr(run, key)}"
        for key in ("device", "precision")
        if getattr(run, key) != getattr(usual, key)
    ]
    if run.results != usual.results:
        words.append(where)
    return [escape.one_line(shlex.quote(word)) for word in words]


def _ours(run: Run) -> Run | None:
    """The run of this suite from which ``run`` differs only by overrides; None for other runs."""
    if not Path(run.path("runs", f"{run.name}.yaml")).is_file():
        return None
    ours = load_run(run.name, {}, run.workflow)
    overridden = {*OVERRIDES, "networks_for", "seeds_for", "other_datasets"}
    # what is made on request alone, where and with how much memory makes no other run
    places = {"name", "workflow", "resources", "optional"}
    same = {field.name for field in dataclasses.fields(Run)} - overridden - places
    if not _alike(ours, run, *same) or not ours.datasets.keys() >= run.datasets.keys():
        return None
    for number in ("networks", "seeds"):  # an override is for all, and leaves out the others
        if getattr(run, f"{number}_for") and not _alike(ours, run, number, f"{number}_for"):
            return None
    for name, options in run.datasets.items():  # data_root changes more than the root
        own = ours.datasets[name]
        if options.get("root") == own.get("root") and through_json(options) != own:
            return None
    return ours


def _alike(one: Run, other: Run, *keys: str) -> bool:
    """Whether two runs have the same ``keys``, as config.json has them."""
    return all(through_json(getattr(one, k)) == through_json(getattr(other, k)) for k in keys)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", required=True, type=Path, help="config.json of the run, in its folder"
    )
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        help="README.md, in the same folder; run.html and settings.html are written beside it",
    )


def run(arguments: argparse.Namespace) -> None:
    """Write README.md, run.html and settings.html."""
    root, out = arguments.config.parent, arguments.out
    if out.suffix != ".md" or out.parent.resolve() != root.resolve():
        raise DDError(
            f"--out: {out} must be a .md file beside {arguments.config}, because it has links to "
            "files there"
        )
    check_out(out, ".md", arguments.config)
    plan = Plan(read_run(arguments.config)).main
    record = load_json(root / "run.json")
    try:
        pages = {"run.html": about(plan, record).html(), "settings.html": settings(plan).html()}
    except (AttributeError, KeyError, TypeError):
        raise DDError(f"{root / 'run.json'}: is no record of `python -m dd record`") from None
    for name, text in pages.items():
        save_text(root / name, text)
    save_text(out, page(plan, record, root))
    say(f"{out}: {len(plan.exhibits)} tables and figures; {' and '.join(pages)} beside it")
