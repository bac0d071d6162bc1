"""Foreign text in every target: it is shown as it is, and nothing of it comes to life."""

import json
import os
import random
import re
import subprocess
import sys
import unicodedata
from html.parser import HTMLParser

import docutils.nodes
import pytest
from docutils.core import publish_doctree, publish_parts
from matplotlib import pyplot
from matplotlib.cbook import is_math_text
from snakemake.io import apply_wildcards

from dd.report import escape
from dd.report.sheet import Sheet, Text

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<!-- <script>",
    "x\n\n.. raw:: html\n\n   <b>live</b>\n",
    ".. include:: /etc/hostname",
    ".. raw:: html",
    "a\n\nb",
    "a\r\nb\vc\fd\x1ce\x85f\u2028g\u2029h",
    "Title\n=====",
    "$x$",
    "$",
    "\\$",
    "a\\\\$b$",
    "costs $5 or $6",
    "$$\\frac{1}{$$",
    "\\input{x}",
    "\\",
    "a\\",
    "}{",
    "|",
    "a | b || c \\| d",
    "`",
    "``x``",
    "`link <javascript:alert(1)>`_",
    "[link](javascript:alert(1))",
    "*[2em]",
    "![x](http://example.com/x.png)",
    "|substitution| [1]_ name_ __ _ _a",
    ":raw-html:`<b>`",
    ":field: value",
    "-o option",
    "- item",
    "• item",
    "1. item",
    "(a) item",
    ">>> doctest",
    "term::",
    "::",
    "{{ 7 * 7 }} {% raw %} {# x #}",
    "{table} {wildcards.table} {x,.*}",
    "%",
    "50 % & more &amp; &lt;b&gt; &#36;",
    "~~gone~~ *a* **b** _c_ __d__ #e ^f^",
    "a--b---c ''d'' ,,e",
    "_hidden",
    "arXiv:2401.15863, Fig. 1: × τ α ± – − †¹⁰ ˢ · ≤",
    "caf\u00e9 \u4e2d\u6587",
    "\"quoted\" 'text'",
]
LETTERS = "ab 1\\`*_{}[]()<>#+-.!|:;&%$^~\"'@=/,?×τ\n\t"


def texts() -> list[str]:
    """Those above, and some drawn from signs that mean something somewhere."""
    draw = random.Random(0)
    drawn = ["".join(draw.choices(LETTERS, k=draw.randint(1, 24))) for _ in range(300)]
    return HOSTILE + [text for text in drawn if text.strip()]


def plain(text: str) -> str:
    """What a reader should see: words, single spaces between them."""
    return re.sub(r"\s+", " ", text).strip()


def unlike(target, read) -> list[tuple[str, str]]:
    """Texts that ``read`` does not get back from what ``target`` makes of them."""
    return [(text, target(text)) for text in texts() if read(target(text)) != plain(text)]


def test_signs_that_no_page_shows():
    assert escape.one_line("a\x00b\x1b[31mc\x7f\ud800\u202ed\u2066") == "a?b?[31mc???d?"
    assert escape.one_line(" a \n\n b\u00a0c\u2028d ") == "a b c d"
    for target in (escape.markdown, escape.latex, escape.html, escape.rst, escape.figure):
        for text in texts():
            made = target(text)
            assert not [c for c in made if unicodedata.category(c) in ("Cc", "Cs")], text
            made.encode()


def read_rst(source: str) -> str:
    """The text of a document of one paragraph of plain text, read as Snakemake reads it."""
    tree = publish_doctree(source, settings_overrides={"report_level": 5})
    assert [type(child) for child in tree.children] == [docutils.nodes.paragraph], source
    assert all(isinstance(node, docutils.nodes.Text) for node in tree.children[0].children), source
    return tree.astext()


def test_rst():
    assert unlike(escape.rst, read_rst) == []


def test_rst_is_harmless_in_what_snakemake_publishes():
    host = os.uname().nodename
    for text in texts():
        source = f"before {escape.rst(text)}\n\n:Field: {escape.rst(text)}\n"
        body = publish_parts(source, writer_name="html")["body"]
        reader = Page()
        reader.feed(body)
        assert {tag for tag, _ in reader.tags} <= {
            "p", "table", "colgroup", "col", "tbody", "tr", "th", "td", "dl", "dt", "dd", "div",
            "span",
        }, body  # fmt: skip
        assert "system-message" not in body, body
        assert host in text or host not in body
        assert plain("".join(reader.text)).count(plain(text)) >= 2, (text, body)


def test_rst_as_literal():
    for text in texts():
        tree = publish_doctree(f"File :literal:`{escape.rst(text)}`.")
        assert tree.astext() == f"File {plain(text)}.", text
        assert isinstance(tree.children[0].children[1], docutils.nodes.literal)


class Page(HTMLParser):
    """Tags and text of HTML."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def read_html(source: str) -> str:
    page = Page()
    page.feed(f'<p title="{source}">{source}</p>')
    page.close()
    ((tag, attributes),) = page.tags
    text = "".join(page.text)
    assert tag == "p" and attributes == {"title": text}
    return text


def test_html():
    assert unlike(escape.html, read_html) == []


def read_latex(source: str) -> str:
    """What LaTeX typesets, if it is text; every sign that means something to it must be one of the
    commands that stand for a sign."""
    commands = {
        r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^",
        r"\textasciigrave{}": "`", r"\textless{}": "<", r"\textgreater{}": ">",
        r"\textbar{}": "|", r"\textsuperscript{s}": "ˢ", r"$\pm$": "±", r"$\times$": "×",
        r"$\cdot$": "·", r"$\leq$": "≤", r"$^\dagger$": "†", r"$\alpha$": "α", r"$\tau$": "τ",
        "$-$": "−", "--": "–", "{}": "",
        **{rf"\textsuperscript{{{n}}}": sign for n, sign in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
        **{f"\\{sign}": sign for sign in "&%$#_{}"},
    }  # fmt: skip
    read = ""
    while source:
        found = max((c for c in commands if source.startswith(c)), key=len, default="")
        if not found:
            assert source[0] not in "\\{}$&#^_%~<>|`\n", source
            assert not source.startswith(("''", ",,")), source
        read += commands[found] if found else source[0]
        source = source[len(found) or 1 :]
    return read


def test_latex():
    assert unlike(escape.latex, read_latex) == []


def read_markdown(source: str) -> str:
    """What CommonMark shows: a backslash before punctuation is for it alone. Nothing that could be
    markup, an entity, the edge of a cell or of a formula may stand without one."""
    source = source.replace(r"<span>\$</span>", "\0")
    read, at = "", 0
    while at < len(source):
        if source[at] == "\\":
            at += 1
            assert source[at] in "\\`*_[]<>|&~$", source
        else:
            assert source[at] not in "`*_[]<>|&~$\n", source
        read += source[at]
        at += 1
    return read.replace("\0", "$")


def test_markdown():
    assert unlike(escape.markdown, read_markdown) == []
    assert unlike(escape.markdown_alt, read_markdown) == []
    assert "<span>" not in escape.markdown_alt("$x$")


def test_markdown_code():
    for text in texts():
        made = escape.markdown_code(text)
        fence = re.match("`+", made)[0]
        inside = made[len(fence) : -len(fence)]
        assert made.endswith(fence) and fence not in re.findall("`+", inside), made
        assert inside.strip(" ") == plain(text)


def test_figure():
    figure = pyplot.figure()
    shown = figure.text(0, 0, "")
    for text in texts():
        made = escape.figure(text)
        assert not is_math_text(made), made
        assert not made.startswith("_")
        read, math = shown._preprocess_math(made)
        assert (read.removeprefix(" "), math) == (plain(text), False)


def test_report_label():
    for text in texts():
        made = escape.report_label(text)
        script = json.dumps({"labels": {"Table": made}})  # as Snakemake puts it into its page
        assert not re.search(r"<[/!a-zA-Z]", script)
        assert apply_wildcards(made, {"table": "x", "wildcards": "y", "x": "z"}) == made
        assert made.replace("\u2060", "") == plain(text)


def sheet(text: str) -> Sheet:
    return Sheet(text, text, text, [text, "x"], [[Text(text), Text(text, bold=True)]], 1, [text])


def test_sheets_in_markdown_keep_their_shape():
    for text in texts():
        lines = sheet(text).markdown().splitlines()
        assert len(lines) == 7
        for line in (lines[2], lines[4]):
            assert len(re.findall(r"(?<!\\)(?:\\\\)*(?<!\\)\|", line)) == 3, line
        assert read_markdown(lines[6]) == plain(text)


def test_sheets_in_latex_keep_their_shape():
    for text in texts():
        lines = sheet(text).latex().splitlines()
        escaped = escape.latex(text)
        assert rf"\caption{{\textbf{{{escaped}.}} {escaped}}}" in lines
        assert rf"{escaped} & \textbf{{{escaped}}} \\" in lines
        assert not [line for line in lines if line.startswith(("[", "*"))]  # \\[2em], \\*
        (label,) = [line for line in lines if line.startswith(r"\label")]
        assert re.fullmatch(r"\\label\{tab:[A-Za-z0-9_.:-]*\}", label)


def test_sheets_in_html_keep_their_shape():
    for text in texts():
        page = Page()
        page.feed(sheet(text).html())
        tags = " ".join(tag for tag, _ in page.tags)
        head, body = "html head meta meta title style", "body table caption b"
        assert tags == f"{head} {body} thead tr th th tbody tr th td b p"
        assert "".join(page.text).count(plain(text)) >= 7


def test_a_terminal_is_not_steered(tmp_path, capsys):
    """What a file says comes to the terminal as text."""
    from dd.command import main

    path = tmp_path / "x.json"
    path.write_text(json.dumps({"a\x1b[2J": "b\nc\x1b]0;d\x07", "l": ["e\x1b[1m"]}))
    assert main(["inspect", str(path)]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and "\x07" not in said
    assert r"a\x1b[2J: b\nc\x1b]0;d\x07" in said
    assert main(["inspect", str(tmp_path / "no\n\x1b[2Jfile.csv")]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/no\\n\\x1b[2Jfile.csv: no such file\n"
    done = subprocess.run(
        [sys.executable, "-m", "dd", "no\nstage"], capture_output=True, text=True, timeout=60
    )
    assert done.stderr.count("\n") == 1 and r"no\nstage" in done.stderr


@pytest.mark.parametrize("sign", ["×", "τ", "α", "±", "†"])
def test_signs_of_captions_are_in_the_font(sign):
    from matplotlib.font_manager import FontProperties, findfont, get_font

    assert ord(sign) in get_font(findfont(FontProperties())).get_charmap()
