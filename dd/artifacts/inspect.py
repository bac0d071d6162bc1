"""Describe a file: kind, tensors with shapes and units, provenance; or the columns of results.

Reads safetensors (without loading tensors), CSV, JSON and JSON lines.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dd.artifacts.headers import describe_tensors, read_header
from dd.artifacts.text import load_json, load_rows, parse_json, read_text
from dd.errors import DDError, printable

_WIDTH = 100
_RAW, _NORMALISED, _LABEL = "pixels 0..255", "normalised units, or whitened pixels", "class numbers"
UNITS = {
    "dataset": {
        "train_images": _RAW,
        "test_images": _RAW,
        "train_labels": _LABEL,
        "test_labels": _LABEL,
        "mean": "pixels in [0, 1]",
        "std": "pixels in [0, 1]",
        "zca_mean": "pixels in [0, 1]",
    },
    "synthetic": {
        "images": _NORMALISED,
        "indices": "images of the training split",
        "labels": "class numbers [M]; or probabilities or targets [M, K], as the header says",
        "mean": "pixels in [0, 1]",
        "std": "pixels in [0, 1]",
        "learned_lr": "learning rate for networks",
        "rates": "learning rate of each step",
        "batches": "the batch of each image",
    },
    "cams": {"maps": "0 to 1, each map normalised", "images": "positions in the set"},
    "labels": {"log_probabilities": "natural logarithm, per view", "classes": "class numbers"},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m dd inspect``."""
    parser.add_argument("file", type=Path, metavar="FILE", help="what to look at")


def run(args: argparse.Namespace) -> None:
    """Print what the file is."""
    print("\n".join(map(printable, describe(args.file))))


def describe(path: Path) -> list[str]:
    """Lines of text that describe the file at ``path``.

    Raises:
        DDError: if it is missing, a folder, or not what its suffix says (every suffix except
            .csv, .json and .jsonl is read as safetensors).
    """
    if path.is_dir():
        raise DDError(f"{path}: is a folder; give a file in it")
    suffix = path.suffix.lower()
    if suffix in _DESCRIBERS:
        return _DESCRIBERS[suffix](path)
    try:
        return _describe_tensors(path)
    except DDError as error:
        if suffix == ".safetensors" or not path.is_file():
            raise
        known = ", ".join(_DESCRIBERS)
        raise DDError(f"{error}; inspect reads .safetensors, {known}") from None


def _describe_tensors(path: Path) -> list[str]:
    tensors, header = describe_tensors(path), read_header(path)
    kind = header.pop("kind", None)
    if kind is None:
        lines = [f"{path}: safetensors from elsewhere (no header of this suite)"]
    else:
        lines = [f"{path}: {kind}, format {header.pop('format', 'not given')}"]
    units = UNITS.get(kind, {})
    table = [
        (name, dtype.lower(), str(shape), units.get(name, ""))
        for name, (shape, dtype) in tensors.items()
    ]
    return [*lines, "tensors:", *_columns(table), *_tree(header)]


def _describe_csv(path: Path) -> list[str]:
    return [f"{path}: CSV results", *_describe_rows(load_rows(path))]


def _describe_json(path: Path) -> list[str]:
    document = load_json(path)
    if isinstance(document, list) and document and all(isinstance(row, dict) for row in document):
        return [f"{path}: JSON results", *_describe_rows(document)]
    entries = document if isinstance(document, dict) else {"value": document}
    return [f"{path}: JSON", *_tree(entries)]


def _describe_json_lines(path: Path) -> list[str]:
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip():
            rows.append(parse_json(line, f"{path}: line {number} is"))
            if not isinstance(rows[-1], dict):
                raise DDError(f"{path}: line {number} is no JSON object")
    return [f"{path}: JSON lines", *_describe_rows(rows)]


def _describe_rows(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    names = list(dict.fromkeys(name for row in rows for name in row if name is not None))
    table = [
        (name, _summary([row[name] for row in rows if row.get(name) not in (None, "")]))
        for name in names
    ]
    return [f"{len(rows)} rows, {len(names)} columns:", *_columns(table)]


def _summary(values: Sequence[Any]) -> str:
    """The range of the values if all are numbers, otherwise the distinct values."""
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        distinct = list(dict.fromkeys(map(str, values)))
        return f"{len(distinct)} distinct: {', '.join(distinct)}"
    return f"{min(numbers):g} to {max(numbers):g}" if numbers else "empty"


def _columns(table: Sequence[Sequence[str]]) -> list[str]:
    """Rows of text, aligned and indented."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        _line("  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)))
        for row in table
    ]


def _tree(entries: Mapping[str, Any], indent: str = "") -> list[str]:
    lines = []
    for key, value in entries.items():
        if isinstance(value, Mapping) and value:
            lines += [f"{indent}{key}:", *_tree(value, indent + "  ")]
        elif isinstance(value, list):
            shown = ", ".join(map(str, value))
            lines.append(_line(f"{indent}{key}: {len(value)} entries: {shown}"))
        else:
            lines.append(f"{indent}{key}: {value}")
    return lines


def _line(text: str) -> str:
    """One line of at most ``_WIDTH`` characters that keeps its indentation."""
    indent = text[: len(text) - len(text.lstrip())]
    text = text.strip().replace("\n", " ")
    room = _WIDTH - len(indent)
    return indent + (text if len(text) <= room else textwrap.wrap(text, room - 4)[0] + " ...")


_DESCRIBERS: dict[str, Callable[[Path], list[str]]] = {
    ".csv": _describe_csv,
    ".json": _describe_json,
    ".jsonl": _describe_json_lines,
}
