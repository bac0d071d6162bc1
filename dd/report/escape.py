"""Escape text from files and configuration, with one function for each output format.

Titles, captions, labels and class names come from the person who wrote a run or prepared a dataset.
Each function takes any text and returns source that shows exactly this text, on one line. Markup,
directives, commands, formulas, templates and scripts in the text have no effect.
"""

from __future__ import annotations

import re
from html import escape as _escape_html

# Control characters (no file format or font has them), single surrogates (UTF-8 cannot encode
# them), and characters that change the direction of the text after them.
_UNSHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
_JOINER = "\u2060"  # invisible, and a line cannot break at it

_MARKDOWN = {sign: f"\\{sign}" for sign in "\\`*_[]<>|&~$"}
_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "varepsilon", "ζ": "zeta",
    "η": "eta", "θ": "theta", "ι": "iota", "κ": "kappa", "λ": "lambda", "μ": "mu",
    "ν": "nu", "ξ": "xi", "π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau",
    "υ": "upsilon", "φ": "varphi", "χ": "chi", "ψ": "psi", "ω": "omega", "Γ": "Gamma",
    "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda", "Ξ": "Xi", "Π": "Pi", "Σ": "Sigma",
    "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega",
}  # fmt: skip
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "`": r"\textasciigrave{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "†": r"$^\dagger$",
    **{sign: rf"\textsuperscript{{{digit}}}" for digit, sign in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
    "ˢ": r"\textsuperscript{s}",
    "–": "--",
    "−": "$-$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "\0": "{}",  # between characters that LaTeX would join; one_line() removes it from the text
    **{sign: rf"$\{name}$" for sign, name in _GREEK.items()},
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def one_line(text: str) -> str:
    """``text`` on one line: a single space for any whitespace, ``?`` for what cannot be shown."""
    return _UNSHOWN.sub("?", " ".join(text.split()))


def markdown(text: str) -> str:
    """For Markdown (CommonMark, and GitHub's tables), inside a line.

    A dollar sign gets its own HTML element. Some code hosts look for formulas before they process
    backslashes, others afterwards.
    """
    return markdown_alt(text).replace(r"\$", r"<span>\$</span>")


def markdown_alt(text: str) -> str:
    """For the description of an image in Markdown, which has no HTML elements and no formulas."""
    return "".join(_MARKDOWN.get(sign, sign) for sign in one_line(text))


def markdown_code(text: str) -> str:
    """As code in Markdown: between more backticks than ``text`` has in a row."""
    code = one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", code)), default=0))
    edge = " " if "`" in code else ""
    return f"{fence}{edge}{code}{edge}{fence}"


def latex(text: str) -> str:
    """For text of LaTeX, inside a paragraph; letters stay as in UTF-8."""
    separated = re.sub(r"(?<=-)-|(?<=')'|(?<=,),", lambda sign: f"\0{sign[0]}", one_line(text))
    # at the start of a table row, LaTeX would read these as options of the \\ before it
    start = "{}" if separated.startswith(("[", "*")) else ""
    return start + "".join(_LATEX.get(sign, sign) for sign in separated)


def html(text: str) -> str:
    """For HTML, between tags or as the quoted value of an attribute."""
    return _escape_html(one_line(text))


def rst(text: str) -> str:
    """For reStructuredText: the text is always a paragraph of plain text."""
    return re.sub(r"([^\w\s]|_)", r"\\\1", one_line(text))


def report_label(text: str) -> str:
    """For the lists of Snakemake's report.

    Snakemake replaces wildcards (``{name}``) in the text and then puts it into a script without
    escaping it. An invisible character after ``<`` and ``{`` prevents the end of the script and a
    wildcard.
    """
    return re.sub("[<{]", lambda sign: f"{sign[0]}{_JOINER}", one_line(text))


def figure(text: str) -> str:
    """For matplotlib: no formulas, and no leading ``_``, which would hide the text in a legend."""
    plain = one_line(text).replace("$", r"\$")
    return f" {plain}" if plain.startswith("_") else plain
