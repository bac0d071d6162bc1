"""Checkpoints of jobs under way, from which a killed job resumes.

A checkpoint that cannot be used never stops a job: the job starts anew, and one line says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from dd.artifacts.fields import BLOCK, Field, list_of, some
from dd.artifacts.provenance import MAKER, UNKNOWN, maker
from dd.artifacts.resume_rows import Lost, start_anew, whole_progress
from dd.artifacts.tensors import load_tensors, save_tensors
from dd.artifacts.text import through_json
from dd.errors import DDError, is_out_of_memory

T = TypeVar("T")
Tensors = Mapping[str, torch.Tensor]

_STREAM = "stream."
_FIELDS = {"facts": BLOCK, "at": BLOCK, "makers": some(list_of(MAKER))}  # of the header


class Kept(NamedTuple):
    """A checkpoint of the very job that asks for it.

    Attributes:
        path: its file.
        tensors: what the job needs to continue.
        at: how far the job is.
        makers: the code and torch of each start whose code or torch differed from that before; the
            last one wrote the checkpoint.
    """

    path: Path
    tensors: dict[str, torch.Tensor]
    at: dict[str, Any]
    makers: list[dict[str, str]]


def state_path(out: Path) -> Path:
    """The file of the checkpoint of a stage that makes the file ``out``.

    It is a hidden file beside ``out``. It is not a declared output, because Snakemake deletes the
    declared outputs of a failed job.
    """
    return out.with_name(f".{out.name}.state")


def save_checkpoint(
    path: Path,
    facts: Mapping[str, Any],
    at: Mapping[str, Any],
    tensors: Tensors,
    continued_from: Sequence[Mapping[str, str]] = (),
) -> None:
    """Save the state of a job to the file ``path``.

    Args:
        facts: what identifies the job.
        at: how far the job is. ``facts`` and ``at`` are JSON-serialisable.
        tensors: the tensors that it needs to continue, with those of :func:`stream_state`.
        continued_from: its makers before this process.
    """
    header = {"facts": facts, "at": at, "makers": [*continued_from, maker()]}
    save_tensors(path, "checkpoint", tensors, header)


def load_checkpoint(
    stage: str, path: Path, facts: Mapping[str, Any], at: Field, lost: Lost = whole_progress
) -> Kept | None:
    """The checkpoint of the job that ``facts`` identify.

    None if ``path`` does not exist. Also None if it cannot be read, belongs to other facts, does
    not say how far the job was, or what it counts on is lost: then :func:`start_anew`.

    Args:
        stage: the first word of messages.
        path: the file.
        facts: what identifies the job.
        at: what the stage needs to know of how far the job was.
        lost: says what of the job's other files is lost, given how far it was.
    """
    if not path.exists():
        return None
    try:
        return _kept(path, facts, at, lost)
    except DDError as error:
        start_anew(stage, path, str(error))
        return None


def _kept(path: Path, facts: Mapping[str, Any], at: Field, lost: Lost) -> Kept:
    """The checkpoint in ``path``; a :class:`DDError` says why it cannot be used."""
    try:
        tensors, header = load_tensors(path, "checkpoint", fields=_FIELDS)
    except DDError as error:
        raise DDError(f"the checkpoint cannot be read ({error})") from None
    if header.get("facts") != through_json(facts):
        raise DDError(f"{path} belongs to other settings")
    if not at.fits(header.get("at")):
        raise DDError(f"{path} does not say how far the job was ({at.what})")
    if why := lost(header["at"]):
        raise DDError(why)
    return Kept(path, tensors, header["at"], header.get("makers", [UNKNOWN]))


class Unusable(Exception):
    """The tensors of a checkpoint are not those that the job needs."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} is no checkpoint of this job: {why}")
        self.path = path


def restore(kept: Kept, state: Callable[[], Tensors], load: Callable[[Any], None]) -> None:
    """Load the tensors of a checkpoint into a job that has not begun.

    Afterwards the job would save the very same tensors: each with the same name, shape and type.

    Args:
        kept: the checkpoint.
        state: gives the tensors that the job would save now.
        load: loads them.

    Raises:
        Unusable: if they are others. Then the job may be half restored, so it must be made again:
            see :func:`or_anew`.
    """
    try:
        _compare(state(), kept.tensors)
        load(kept.tensors)
        _compare(kept.tensors, state())
    except (DDError, LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        why = str(error).partition("\n")[0]
        raise Unusable(
            kept.path, f"it lacks {why}" if isinstance(error, KeyError) else why
        ) from None


def _compare(wanted: Tensors, given: Tensors) -> None:
    """Raise a :class:`DDError` unless each of ``wanted`` is among ``given``, of the same form."""
    for name, tensor in wanted.items():
        if name not in given:
            raise DDError(f"'{name}' is missing or not used")
        if (other := form(given[name])) != (own := form(tensor)):
            raise DDError(f"'{name}' is {own} on one side and {other} on the other")


def form(tensor: torch.Tensor) -> str:
    """Type and shape of a tensor, for messages."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def or_anew(stage: str, work: Callable[[], T]) -> T:
    """The result of ``work``; if its checkpoint is :class:`Unusable`, of ``work`` without it.

    ``work`` must make everything that it changes, so that nothing half restored is left.
    """
    try:
        return work()
    except Unusable as error:
        start_anew(stage, error.path, str(error))
    return work()


def stream_state(streams: Mapping[str, torch.Generator]) -> dict[str, torch.Tensor]:
    """The states of random streams, as ``stream.<name>``."""
    return {f"{_STREAM}{name}": stream.get_state() for name, stream in streams.items()}


def restore_streams(tensors: Tensors, streams: Mapping[str, torch.Generator]) -> None:
    """Set ``streams`` to the states that :func:`stream_state` returned."""
    for name, stream in streams.items():
        stream.set_state(tensors[f"{_STREAM}{name}"])


def under(prefix: str, tensors: Tensors) -> dict[str, torch.Tensor]:
    """The ``tensors`` whose names start with ``prefix``, with the prefix removed from the names."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
