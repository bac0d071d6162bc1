"""A table ready to be written, as Markdown, LaTeX (booktabs) or HTML of the same cells."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from dd.report import escape

PAGE = 95  # characters in a line of LaTeX's standard page


@dataclass(frozen=True)
class Text:
    """The text that a cell shows."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table.

    Attributes:
        name: its name, for references.
        title, caption: plain text.
        header: one heading per column.
        body: rows of cells.
        keys: number of leading columns that are row headings. Rows with the same headings, except
            the last one, form a group.
        notes: lines below the table.
    """

    name: str
    title: str
    caption: str
    header: Sequence[str]
    body: Sequence[Sequence[Text]]
    keys: int
    notes: Sequence[str] = field(default_factory=tuple)

    def markdown(self) -> str:
        """GitHub-flavoured Markdown."""
        aligned = ["---" if i < self.keys else "---:" for i in range(len(self.header))]
        lines = [f"**{escape.markdown(self.title)}.** {escape.markdown(self.caption)}", ""]
        lines.append(f"| {' | '.join(map(escape.markdown, self.header))} |")
        lines.append(f"| {' | '.join(aligned)} |")
        for row in self.body:
            shown = [
                f"**{escape.markdown(cell.text)}**" if cell.bold else escape.markdown(cell.text)
                for cell in row
            ]
            lines.append(f"| {' | '.join(shown)} |")
        for note in self.notes:
            lines += ["", escape.markdown(note)]
        return "\n".join(lines) + "\n"

    def latex(self) -> str:
        """A LaTeX table environment.

        The document needs the package booktabs, and graphicx for a wide table, which is scaled to
        fit the page.
        """
        columns = "l" * self.keys + "r" * (len(self.header) - self.keys)
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{\textbf{{{escape.latex(self.title)}.}} {escape.latex(self.caption)}}}",
            rf"\label{{tab:{_plain(self.name)}}}",
            *([r"\resizebox{\linewidth}{!}{%"] if self._wide() else []),
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            f"{' & '.join(map(escape.latex, self.header))} \\\\",
            r"\midrule",
        ]
        previous: list[str] = []
        for row in self.body:
            key = [cell.text for cell in row[: self.keys]]
            if previous and key[:-1] != previous[:-1]:
                lines.append(r"\midrule")
            shown = [
                rf"\textbf{{{escape.latex(cell.text)}}}" if cell.bold else escape.latex(cell.text)
                for cell in row
            ]
            for i in range(_shared(key[:-1], previous[:-1])):
                shown[i] = ""  # show the common headings of a group only once
            lines.append(f"{' & '.join(shown)} \\\\")
            previous = key
        lines += [r"\bottomrule", r"\end{tabular}" + ("}" if self._wide() else "")]
        lines += [rf"\par\smallskip {escape.latex(note)}" for note in self.notes]
        return "\n".join([*lines, r"\end{table}"]) + "\n"

    def _wide(self) -> bool:
        """Whether a row is wider than a line of the page."""
        rows = [self.header, *([cell.text for cell in row] for row in self.body)]
        return sum(max(map(len, column)) + 2 for column in zip(*rows, strict=True)) > PAGE

    def html(self) -> str:
        """A complete HTML page."""
        head = "".join(map(self._html_heading, range(len(self.header)), self.header))
        body = []
        previous: list[str] = []
        for row in self.body:
            key = [cell.text for cell in row[: self.keys]]
            first = ' class="first"' if previous and key[:-1] != previous[:-1] else ""
            body.append(f"<tr{first}>{''.join(map(self._html_cell, range(len(row)), row))}</tr>")
            previous = key
        rows = "\n".join(body)
        notes = "\n".join(f"<p>{escape.html(note)}</p>" for note in self.notes)
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width">\n'
            f"<title>{escape.html(self.title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n"
            f"<table>\n<caption><b>{escape.html(self.title)}.</b> {escape.html(self.caption)}"
            f"</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n"
            f"{notes}\n</body>\n</html>\n"
        )

    def _html_heading(self, index: int, text: str) -> str:
        kind = "" if index < self.keys else ' class="number"'
        return f'<th scope="col"{kind}>{escape.html(text)}</th>'

    def _html_cell(self, index: int, cell: Text) -> str:
        text = escape.html(cell.text)
        text = f"<b>{text}</b>" if cell.bold else text
        return f'<th scope="row">{text}</th>' if index < self.keys else f"<td>{text}</td>"


_CSS = (
    "body{font:14px/1.4 sans-serif;margin:1.5em;color:#222;background:#fff}"
    "table{border-collapse:collapse;border-top:2px solid;border-bottom:2px solid}"
    "caption{text-align:left;max-width:60em;margin-bottom:.8em}"
    "th,td{padding:.25em .6em;text-align:right;font-variant-numeric:tabular-nums}"
    "th{text-align:left;font-weight:normal}"
    "td,tbody th:not(:last-child){white-space:nowrap}"
    "thead th{border-bottom:1px solid;font-weight:bold}"
    "thead .number{text-align:right}"
    "tr.first>*{border-top:1px solid #999}"
)


def _shared(key: Sequence[str], previous: Sequence[str]) -> int:
    """The number of leading entries that two keys have in common."""
    if len(key) != len(previous):
        return 0
    for count, (a, b) in enumerate(zip(key, previous, strict=True)):
        if a != b:
            return count
    return len(key)


def _plain(name: str) -> str:
    """A name that is a valid label in LaTeX, for any file name."""
    return re.sub(r"[^A-Za-z0-9_.:-]+", "-", name)
