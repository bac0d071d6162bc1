"""Text from files and configuration as it is, in whatever it is shown: a function for each target.

Titles, captions, labels and names of classes come from whoever wrote a run or prepared a dataset.
Each function takes any text and gives source that shows this text, on one line, and does nothing
else: no markup, directive, command, formula, template or script of it comes to life.
"""

from __future__ import annotations

import re
from html import escape as _escape_html

# Control characters (no file format or font has them), halves of characters (UTF-8 has none), and
# those that change the direction of all that follows.
_UNSHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
_JOINER = "\u2060"  # neither seen nor a place to break a line

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
    "ˢ": r"\textsuperscript{s}",
    "–": "--",
    "−": "$-$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "\0": "{}",  # between signs that LaTeX would join; no text has it
    **{sign: rf"$\{name}$" for sign, name in _GREEK.items()},
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def one_line(text: str) -> str:
    """``text`` with single spaces for whitespace of any kind, and ``?`` for what no page shows."""
    return _UNSHOWN.sub("?", " ".join(text.split()))


def markdown(text: str) -> str:
    """For Markdown (CommonMark, GitHub's with tables), inside a line.

    A dollar sign stands in an element of its own: some code hosts look for formulas before they
    know what a backslash escapes, some afterwards.
    """
    return markdown_alt(text).replace(r"\$", r"<span>\$</span>")


def markdown_alt(text: str) -> str:
    """For the description of an image in Markdown, which holds no elements and no formulas."""
    return "".join(_MARKDOWN.get(sign, sign) for sign in one_line(text))


def markdown_code(text: str) -> str:
    """As code in Markdown: between more backticks than ``text`` has side by side."""
    said = one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", said)), default=0))
    edge = " " if "`" in said else ""
    return f"{fence}{edge}{said}{edge}{fence}"


def latex(text: str) -> str:
    """For LaTeX's text, inside a paragraph; letters as in UTF-8."""
    apart = re.sub(r"(?<=-)-|(?<=')'|(?<=,),", lambda sign: f"\0{sign[0]}", one_line(text))
    # at the start of a row these would belong to the command that ended the one before
    start = "{}" if apart.startswith(("[", "*")) else ""
    return start + "".join(_LATEX.get(sign, sign) for sign in apart)


def html(text: str) -> str:
    """For HTML, between tags or as the value of an attribute in quotes."""
    return _escape_html(one_line(text))


def rst(text: str) -> str:
    """For reStructuredText: no line of it is anything but a paragraph of plain text."""
    return re.sub(r"([^\w\s]|_)", r"\\\1", one_line(text))


def report_label(text: str) -> str:
    """For the lists of Snakemake's report, which puts it into a script as it is, after replacing
    wildcards (``{name}``): what would end the script, or be a wildcard, is joined to an invisible
    sign."""
    return re.sub("[<{]", lambda sign: f"{sign[0]}{_JOINER}", one_line(text))


def figure(text: str) -> str:
    """For matplotlib: no formula, and no ``_`` in front, which would keep it out of a legend."""
    said = one_line(text).replace("$", r"\$")
    return f" {said}" if said.startswith("_") else said
