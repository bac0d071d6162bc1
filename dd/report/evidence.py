"""Which claims hold: the verdicts of several finished runs on one page, claim by claim.

It reads ``claims.csv`` and ``run.json`` of each run, from the run's folder (``results/NAME``) or
from a folder that holds copies of both. Nothing is judged here: a verdict that no run's file has
cannot appear, nor one from a file that is not what ``run.json`` recorded. The page has a long form,
and a short form that goes between two markers of another page.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dd.artifacts.atomic import check_out
from dd.artifacts.fields import BLOCK, NUMBER, TEXT, Field, check_fields, missing, shown, whole
from dd.artifacts.text import file_digest, load_json, load_rows, read_text, save_text
from dd.config.run import check_run_folder
from dd.errors import DDError, unknown
from dd.report import escape
from dd.report.compare import FOR, HOLDS, NOT_TESTED, REFUTED, UNDECIDED, worded
from dd.report.labels import paper_label
from dd.report.numbers import counted, interval, number
from dd.report.read.claims import QUANTITIES
from dd.runtime.say import say

BEGIN, END = "<!-- evidence: begin -->", "<!-- evidence: end -->"
_TABLE = "tables/claims.csv"  # its name in the record
_RUN: Mapping[str, Field] = {"run": TEXT, "title": TEXT, "configuration": BLOCK, "files": BLOCK}
_COLUMNS = (
    "claim", "paper", "says", "source", "dataset", "verdict", "limit", "scale", "place",
    "cell", "weakest", "difference", "low", "high", "unit", "quantity", "n_sets", "n_networks",
    "each", "note",
)  # fmt: skip
_DIVERGED = ("diverged_first", "diverged_second")  # not in the tables of older versions
_INNER = ("n_least", "n_networks")  # the first is not in the tables of older versions
_WORDS = (HOLDS, REFUTED, UNDECIDED, NOT_TESTED)


@dataclass(frozen=True)
class Finding:
    """The verdict of a run on a claim, for a dataset.

    Attributes:
        folder: of the run's files.
        run: the run's name and title.
        stands_in: whether its datasets stand in for those of the paper.
        rows: the rows of the claim and dataset in ``claims.csv``.
    """

    folder: Path
    run: str
    title: str
    stands_in: bool
    rows: Sequence[Mapping[str, str]]

    @property
    def about(self) -> Mapping[str, str]:
        """What all rows share: claim, dataset, verdict."""
        return self.rows[0]

    @property
    def word(self) -> str:
        """The verdict with its limit."""
        return worded(self.about["verdict"], self.about["limit"], self.about["note"])

    @property
    def bold(self) -> str:
        """The verdict in Markdown; if it is not for a claim of several cells, how many are."""
        leaning = [row["cell"] for row in self.rows]
        if self.about["verdict"] not in (REFUTED, UNDECIDED) or len(leaning) == 1:
            return f"**{self.word}**"
        return f"**{self.word}**, {leaning.count(FOR)} of {len(leaning)} cells for it"

    @property
    def weakest(self) -> Mapping[str, str]:
        """The row that supports the claim the least."""
        return next(row for row in self.rows if row["weakest"] == "yes")

    @property
    def tested(self) -> bool:
        """Whether the run tests the claim."""
        return self.about["verdict"] != NOT_TESTED

    @property
    def data(self) -> str:
        """The dataset, and whether it stands in for another one."""
        name = self.about["dataset"]
        return f"{name}, standing in" if self.stands_in else name

    @property
    def scale(self) -> str:
        """At what scale the claim was tested, which part of it was not, and what limits it."""
        shares, note = self.about.get("shared"), self.about["note"]
        failed = any(int(row.get(name) or 0) for row in self.rows for name in _DIVERGED)
        parts = [
            self.about["scale"],
            f"the sets share {shares.replace('; ', ' and ')}" if shares else "",
            "some networks diverged" if failed else "",
            note,
        ]
        return "; ".join(filter(None, parts))

    def difference(self) -> str:
        """The difference of the weakest cell, and its interval."""
        row = self.weakest
        digits = QUANTITIES[row["quantity"]].digits
        said = number(float(row["difference"]), digits, "+")
        if row["low"]:
            said += f" ({interval((float(row['low']), float(row['high'])), digits, '+')})"
        return ", ".join(filter(None, (f"{said} {row['unit']}".strip(), row["place"])))

    def evidence(self) -> str:
        """On how many sets and networks it rests."""
        sets = [int(row["n_sets"]) for row in self.rows]
        inner = [int(row[name]) for row in self.rows for name in _INNER if row.get(name)]
        return counted(sets, inner, self.about["each"])


def findings(folder: Path) -> list[Finding]:
    """The verdicts of the run in ``folder``.

    Raises:
        DDError: if ``claims.csv`` or ``run.json`` is missing or malformed, or if the one is not
            what the other recorded; the message names it.
    """
    check_run_folder(folder)
    record = folder / "run.json"
    document = load_json(record)
    if not isinstance(document, dict) or missing(document, _RUN):
        raise DDError(f"{record}: is no record of `python -m dd record`")
    check_fields(record, document, _RUN)
    configured = document["configuration"].get("run", {})
    stands_in = bool(configured.get("stands_in_for")) if isinstance(configured, dict) else False
    path = next((p for p in (folder / _TABLE, folder / "claims.csv") if p.is_file()),
                folder / "claims.csv")  # fmt: skip
    if path.is_file() and _TABLE not in document["files"]:
        raise DDError(
            f"{record}: does not list {_TABLE}, as of a run in which this table is optional; list "
            "claims in tables of the run, and run snakemake again"
        )
    if path.is_file() and file_digest(path) != document["files"][_TABLE]:
        raise DDError(
            f"{path}: is not what {record} recorded (its checksum differs); take both from the "
            "same finished run, or run snakemake again"
        )
    grouped: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in load_rows(path):
        given = {name: text for name, text in row.items() if text is not None}
        if (name := missing(given, _COLUMNS)) is not None:
            raise DDError(f"{path}: has no column '{name}'; make the table claims again")
        _check(path, row)
        grouped.setdefault((row["claim"], row["dataset"]), []).append(row)
    for (claim, dataset), rows in grouped.items():
        tested = rows[0]["verdict"] != NOT_TESTED
        if tested and [row["weakest"] for row in rows].count("yes") != 1:
            raise DDError(f"{path}: {claim}, {dataset}: one row must be the weakest")
    return [
        Finding(folder, document["run"], document["title"], stands_in, rows)
        for rows in grouped.values()
    ]


_NUMBERS: Mapping[str, Field] = {
    "difference": NUMBER,
    "n_sets": whole(0),
    "n_networks": whole(1),
}
_OPTIONAL: Mapping[str, Field] = {"n_least": whole(1), **dict.fromkeys(_DIVERGED, whole(0))}


def _check(path: Path, row: Mapping[str, str]) -> None:
    """Raise a :class:`DDError` unless a row is one of the table ``claims``."""
    if row["verdict"] not in _WORDS:
        raise DDError(f"{path}: verdict is '{row['verdict']}', it must be {' or '.join(_WORDS)}")
    if row["verdict"] == NOT_TESTED:
        return
    if row["quantity"] not in QUANTITIES:
        raise unknown(f"quantity in {path}", row["quantity"], QUANTITIES)
    fields = dict(_NUMBERS)
    fields |= {name: NUMBER for name in ("low", "high") if row["low"] or row["high"]}
    fields |= {name: field for name, field in _OPTIONAL.items() if row.get(name)}
    for name, field in fields.items():
        try:
            value = float(row[name]) if field is NUMBER else int(row[name])
        except ValueError:
            value = math.nan
        if not field.fits(value):
            raise DDError(f"{path}: {name} is {shown(row[name])}, it must be {field.what}")


def page(found: Iterable[Finding], out: Path) -> str:
    """The long form: for each claim, the verdict of each run, with its numbers."""
    papers: dict[str, dict[str, list[Finding]]] = {}
    for one in found:
        papers.setdefault(one.about["paper"], {}).setdefault(one.about["claim"], []).append(one)
    lines = [
        "# Which claims hold",
        "",
        "Made by `python -m dd evidence` from the claims of finished runs; "
        "[how claims are judged](claims.md). A verdict is about the dataset and the settings of "
        "its run: one that holds *as far as tested* lacks what the column At says; cells *for it* "
        "support the claim alone, by a one-sided test at 5 %. The difference "
        "is that of the cell that supports the claim the least, with its 90 % interval. Evidence: "
        "synthetic sets × networks (or images) of each set and architecture.",
    ]
    if not papers:
        lines += ["", "No run with claims is here yet."]
    for paper, claims in papers.items():
        lines += ["", f"## {escape.markdown(paper_label(paper))}"]
        for claim, members in claims.items():
            about = members[0].about
            lines += [
                "",
                f"### {claim}",
                "",
                f"{escape.markdown(about['says'])} ({escape.markdown(about['source'])})",
                "",
                "| Data | Run | At | Verdict | Difference | Evidence |",
                "| --- | --- | --- | --- | --- | --- |",
            ]
            for one in members:
                numbers = (one.difference(), one.evidence()) if one.tested else ("–", "–")
                cells = [
                    escape.markdown(one.data),
                    f"[{escape.markdown(one.title)}]({_link(one.folder, out)})",
                    escape.markdown(one.scale) or "–",
                    one.bold,
                    *map(escape.markdown, numbers),
                ]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _link(target: Path, out: Path) -> str:
    """``target`` as the address of a link in ``out``: spaces and brackets would end it."""
    return quote(os.path.relpath(target, out.parent))


def short(found: Iterable[Finding], out: Path, page: Path) -> str:
    """The short form: what was tested on data that does not stand in for other data.

    A list for each run and dataset. Above it is what all its claims share of scale and numbers of
    sets and networks; what is a claim's own is behind it. Which pairs a run lacks is left to the
    long form; the verdict says that there are some.
    """
    groups: dict[tuple[Path, str], list[Finding]] = {}
    for one in found:
        if one.tested and not one.stands_in:
            groups.setdefault((one.folder, one.data), []).append(one)
    parts = [line for members in groups.values() for line in ("", *_run(members, out, page))]
    return (
        "\n".join(parts[1:]) or "No verdict on the papers' datasets yet: no such run is committed."
    )


def _run(members: Sequence[Finding], out: Path, page: Path) -> list[str]:
    """The lines of a run in the short form."""
    first = members[0]
    said = [[*one.about["scale"].split("; "), one.evidence()] for one in members]
    shared = [part for part in said[0] if part and all(part in other for other in said)]
    data = f"[{escape.markdown(first.data)}]({_link(first.folder, out)})"
    lines = [f"{'; '.join([data, *map(escape.markdown, shared)])}:", ""]
    for one, parts in zip(members, said, strict=True):
        link = f"{_link(page, out)}#{one.about['claim']}"
        own = "; ".join(escape.markdown(part) for part in parts if part and part not in shared)
        claim = f"[{escape.markdown(one.about['says'].removesuffix('.'))}]({link})"
        lines.append(f"- {one.bold}: {claim}{f' ({own})' if own else ''}")
    return lines


def updated(text: str, path: Path, form: str) -> str:
    """The page ``text`` of the file ``path`` with ``form`` between its markers.

    Raises:
        DDError: if the page has no markers.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise DDError(f"{path}: needs a line {BEGIN} and, after it, a line {END}")
    return f"{before}{BEGIN}\n\n{form}\n\n{END}{after}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="DIR", help="folders with claims.csv and run.json"
    )
    parser.add_argument("--out", type=Path, required=True, help="Markdown file of the long form")
    parser.add_argument(
        "--into",
        type=Path,
        help="Markdown file that takes the short form between its markers (default: none)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Write the long form, and the short form if asked."""
    check_out(arguments.out, ".md", arguments.into)
    folders = {folder.resolve(): folder for folder in arguments.runs}  # each once
    found: list[Any] = [one for folder in folders.values() for one in findings(folder)]
    order = {claim: n for n, claim in enumerate(dict.fromkeys(o.about["claim"] for o in found))}
    found.sort(key=lambda one: order[one.about["claim"]])
    pages = {arguments.out: page(found, arguments.out)}
    if arguments.into:
        form = short(found, arguments.into, arguments.out)
        text = read_text(arguments.into, "Markdown")
        pages[arguments.into] = updated(text, arguments.into, form)
    for path, text in pages.items():
        save_text(path, text)
    tested = sum(one.tested for one in found)
    say(f"{arguments.out}: {len(found)} verdicts, {tested} tested; runs: {len(folders)}")
