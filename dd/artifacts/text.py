"""Text artifacts, JSON and CSV, written in one step; digests of bytes and files."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dd.artifacts.atomic import replacing
from dd.errors import DDError

_DIGITS = 16  # hexadecimal, of SHA-256


def digest(data: Any) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()[:_DIGITS]


class FileSum(NamedTuple):
    """Size and checksum of a file.

    Attributes:
        size: in bytes.
        sha256: the whole SHA-256, in hexadecimal.
    """

    size: int
    sha256: str

    @property
    def digest(self) -> str:
        """The first 16 digits of the SHA-256, as :func:`file_digest` gives them."""
        return self.sha256[:_DIGITS]


def file_sum(path: str | Path) -> FileSum:
    """Size and checksum of a file."""
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return FileSum(file.tell(), sha256)


def file_digest(path: str | Path) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a file."""
    return file_sum(path).digest


def save_text(path: str | Path, text: str) -> None:
    """Write a text file in one step, in UTF-8.

    Half characters (lone surrogates), which names from elsewhere may have, are written as escapes.
    In JSON these stand for the same half character.
    """
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def save_json(path: str | Path, document: Any) -> None:
    """Write JSON, indented, keys in the order given."""
    save_text(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def read_text(path: str | Path, what: str = "text") -> str:
    """The content of a text file in UTF-8, without its byte order mark.

    Args:
        path: the file.
        what: it should hold, for messages.

    Raises:
        DDError: if it is missing, no regular file (reading a pipe could wait forever), or not
            UTF-8.
    """
    place = Path(path)
    if place.exists() and not place.is_file():
        raise DDError(f"{path}: is {'a folder' if place.is_dir() else 'a device or pipe'}, no file")
    try:
        return place.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DDError(f"{path}: is not {what} ({error})") from None
    except (FileNotFoundError, ValueError):  # ValueError: a name that no file can have
        raise DDError(f"{path}: no such file") from None


def load_json(path: str | Path) -> Any:
    """Read JSON; a missing or broken file is a :class:`DDError`."""
    return parse_json(read_text(path, "JSON"), f"{path}: is")


def parse_json(text: str, what: str) -> Any:
    """The value of the JSON ``text``.

    Args:
        text: one document.
        what: the first words of the error: file and what the text is (``x.json: line 3 is``).

    Raises:
        DDError: if it is not JSON, is nested too deeply, or has a number of thousands of digits.
    """
    try:
        return json.loads(text)
    except ValueError as error:  # also numbers that are too long for Python
        raise DDError(f"{what} not JSON ({error})") from None
    except RecursionError:
        raise DDError(f"{what} not JSON that can be read: it is nested too deeply") from None


def through_json(document: Any) -> Any:
    """``document`` as it comes back from a JSON file: tuples as lists, keys as text."""
    return json.loads(json.dumps(document))


def save_rows(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV: one mapping per row, all with the keys of the first."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    save_text(path, file.getvalue())


def load_rows(path: str | Path) -> list[dict[str, str]]:
    """Read CSV as one mapping per row; a missing or broken file is a :class:`DDError`.

    A file whose first line has semicolons and no comma is read with semicolons between its values,
    as spreadsheets write them in many languages.
    """
    text = read_text(path, "CSV")
    first = text.partition("\n")[0]
    separator = ";" if ";" in first and "," not in first else ","
    try:
        return list(csv.DictReader(io.StringIO(text, newline=""), delimiter=separator))
    except csv.Error as error:
        raise DDError(f"{path}: is not CSV ({error})") from None
