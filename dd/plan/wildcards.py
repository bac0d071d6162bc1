"""Regular expressions for the names of jobs. Snakemake reads them over and over."""

from __future__ import annotations

import re
from collections.abc import Iterable


def exactly(paths: Iterable[str]) -> str:
    """A regular expression that matches exactly ``paths``; without paths it matches nothing.

    It is a tree whose equal branches are joined: ``(?:a|b)/(?:x|y)``. The names of jobs are nearly
    a Cartesian product of their parts, so it stays short. A plain list of the names would take
    megabytes.
    """
    split = frozenset(tuple(path.split("/")) for path in paths)
    return _branches(split) if split else "(?!)"


def _branches(paths: frozenset[tuple[str, ...]]) -> str:
    tails: dict[str, set[tuple[str, ...]]] = {}
    for head, *tail in paths:
        tails.setdefault(head, set()).add(tuple(tail))
    heads: dict[frozenset[tuple[str, ...]], list[str]] = {}
    for head, rest in sorted(tails.items()):
        heads.setdefault(frozenset(rest), []).append(re.escape(head))
    options = []
    for tail_set, names in heads.items():
        head = names[0] if len(names) == 1 else f"(?:{'|'.join(names)})"
        if () in tail_set:  # a path ends here
            options.append(head)
        if longer := tail_set - {()}:
            options.append(f"{head}/{_branches(longer)}")
    return options[0] if len(options) == 1 else f"(?:{'|'.join(options)})"
