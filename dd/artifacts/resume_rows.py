"""The progress of a job that makes rows one after the other, as a JSON file.

A killed job goes on from this file. A job that also needs tensors to go on uses
:mod:`dd.artifacts.checkpoint`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dd.artifacts.fields import Field, list_of, some
from dd.artifacts.provenance import MAKER, UNKNOWN, earlier, maker
from dd.artifacts.text import digest, load_json, save_json, through_json
from dd.errors import DDError
from dd.runtime.say import say

_FACTS, _MAKERS, _SUM = "facts", "makers", "sha256"

Lost = Callable[[dict[str, Any]], str]
"""Given how far a job was: why what it has written cannot be used, in words; "" if it can."""


def whole_progress(at: dict[str, Any]) -> str:
    """Nothing is lost: for a job whose checkpoint holds all that it has made."""
    return ""


def start_anew(stage: str, path: Path, why: str) -> None:
    """Say that the checkpoint ``path`` is not used and why, and remove it.

    From now on the job writes over what the checkpoint counts on (rows, snapshots). A later start
    that finds the checkpoint, and has its settings, would take these files for its own.
    """
    say(f"{stage}: starting anew, {why}")
    path.unlink(missing_ok=True)


def save_progress(
    path: Path,
    facts: Mapping[str, Any],
    at: Mapping[str, Any],
    continued_from: Sequence[Mapping[str, str]] = (),
) -> None:
    """Save in the file ``path`` how far a job is.

    Args:
        path: the file.
        facts: what identifies the job.
        at: how far it is. Both must be JSON-serialisable.
        continued_from: its makers before this process, from :func:`load_progress`.
    """
    kept = through_json({_FACTS: facts, _MAKERS: [*continued_from, maker()], **at})
    save_json(path, kept | {_SUM: _digest(kept)})


def _digest(kept: Mapping[str, Any]) -> str:
    return digest(json.dumps(kept).encode())


def load_progress(
    stage: str,
    path: Path,
    facts: Mapping[str, Any],
    needed: Field,
    lost: Lost = whole_progress,
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """How far a killed job with the same ``facts`` was, as saved by :func:`save_progress`.

    The result is empty if ``path`` does not exist. It is also empty if the file cannot be read,
    belongs to other facts, does not say how far the job was, or its rows are lost: then
    :func:`start_anew`. If other code or another torch wrote it, a message says that.

    Args:
        stage: the first word of messages.
        path: the file.
        facts: what identifies the job.
        needed: what the stage needs to know.
        lost: says what of the rows is lost, for a job that writes them to another file.

    Returns:
        How far the job was; its makers before this process, if other code or torch began it.
    """
    if not path.exists():
        return {}, []
    try:
        kept = _progress(path, facts, needed)
    except DDError as error:
        start_anew(stage, path, str(error))
        return {}, []
    makers = kept.pop(_MAKERS)
    if why := lost(kept):
        start_anew(stage, path, why)
        return {}, []
    return kept, earlier(stage, makers)


def _progress(path: Path, facts: Mapping[str, Any], needed: Field) -> dict[str, Any]:
    """How far the job that ``facts`` identify was, and its makers; a :class:`DDError` says why the
    file ``path`` does not tell."""
    try:
        kept = load_json(path)
    except DDError as error:
        raise DDError(f"the checkpoint cannot be read ({error})") from None
    written = kept.pop(_SUM, None) if isinstance(kept, dict) else None
    if not isinstance(kept, dict) or kept.get(_FACTS) != through_json(facts):
        raise DDError(f"{path} belongs to other settings")
    if written != _digest(kept):
        raise DDError(f"{path} is not what was written (its checksum differs)")
    del kept[_FACTS]
    makers = kept.pop(_MAKERS, [UNKNOWN])
    if not needed.fits(kept) or not some(list_of(MAKER)).fits(makers):
        raise DDError(f"{path} does not say how far the job was ({needed.what})")
    return kept | {_MAKERS: makers}
