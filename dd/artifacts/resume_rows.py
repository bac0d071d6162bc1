"""What a job that makes rows one after the other goes on from when it was killed: a JSON file.

A job that computes with tensors from one step to the next keeps them, too: see
:mod:`dd.artifacts.checkpoint`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dd.artifacts.text import load_json, save_json, through_json
from dd.errors import DDError

_FACTS = "facts"


def save_progress(path: Path, facts: Mapping[str, Any], at: Mapping[str, Any]) -> None:
    """Keep how far a job is in the file ``path``.

    Args:
        facts: what identifies it.
        at: how far it is; like the facts JSON-serialisable.
    """
    save_json(path, {_FACTS: facts, **at})


def load_progress(
    stage: str, path: Path, facts: Mapping[str, Any], found: bool = True
) -> dict[str, Any]:
    """How far a job of the same ``facts`` was when it was killed, as :func:`save_progress` kept it.

    Empty where ``path`` does not exist or, which the ``stage`` then says, cannot be read or belongs
    to other facts.

    Args:
        found: whether the rows are still there, of a job that keeps them in another file; without
            them the answer is empty, too.
    """
    if not path.exists():
        return {}
    try:
        kept = load_json(path)
    except (DDError, OSError) as error:
        print(f"{stage}: starting anew, the checkpoint cannot be read ({error})")
        return {}
    if not isinstance(kept, dict) or kept.pop(_FACTS, None) != through_json(facts):
        print(f"{stage}: starting anew, {path} belongs to other settings")
        return {}
    if not found:
        print(f"{stage}: starting anew, {path} has no rows")
        return {}
    return kept
