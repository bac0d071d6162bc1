"""Commands with changed input: what came of each, and ways to change what they read."""

from __future__ import annotations

import contextlib
import copy
import io
import os
import random
import re
import resource
import signal
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import dd.command as command_line
from dd.artifacts.headers import read_header
from dd.artifacts.tensors import load_tensors, save_tensors

FULL = int(os.environ.get("DD_FUZZ") or 0)
"""Inputs of each kind; 0: the share of the default test command."""

SLOWEST = 60  # seconds of CPU time
LONGEST = 300  # seconds of waiting, on a machine that others use
ROOM = 4 << 30  # bytes of memory above what the test process has
PROGRESS = re.compile(r"[\w ]+: \d+/\d+ ")
ACCEPTED, REFUSED, FAILED = "accepted", "refused", "the machine failed"

COUNTS: dict[str, Counter[str]] = {}
"""Outcomes by kind of input."""


class Hang(BaseException):
    """Nothing in dd/ may catch it."""


def share(family: str, cases: list[Any], default: int) -> list[Any]:
    """``cases``, or as many of them as are wanted, always the same."""
    wanted = FULL or default
    return cases if wanted >= len(cases) else random.Random(family).sample(cases, wanted)


def attempt(family: str, argv: list[str], what: object = "") -> str:
    """What came of a command: accepted, or refused in one line; anything else fails the test."""

    def hang(*_: object) -> None:
        raise Hang

    _stay_inside(argv)
    out, err = io.StringIO(), io.StringIO()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = {number: signal.signal(number, hang) for number in (signal.SIGALRM, signal.SIGPROF)}
    status: int | str
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command_line, "near_memory_limit", lambda: False)  # it would hide faults
        resource.setrlimit(resource.RLIMIT_AS, (_size() + ROOM, limits[1]))
        signal.alarm(LONGEST)
        signal.setitimer(signal.ITIMER_PROF, SLOWEST)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = command_line.main(argv)
        except SystemExit as ended:
            status = f"exit {ended.code}"
        except Hang:
            status = f"more than {SLOWEST} s of CPU time, or {LONGEST} s in all"
        except Exception:
            status = traceback.format_exc()
        finally:
            signal.alarm(0)
            signal.setitimer(signal.ITIMER_PROF, 0)
            for number, handler in before.items():
                signal.signal(number, handler)
            resource.setrlimit(resource.RLIMIT_AS, limits)
    lines = [line for line in err.getvalue().splitlines() if not PROGRESS.match(line)]
    context = f"{what}\n{argv}\n{status}\n{err.getvalue()[-3000:]}"
    if status == 0:
        assert lines == [], context
        outcome = ACCEPTED
    else:
        assert status in (1, 2), context
        assert len(lines) == 1 and lines[0].startswith("error: "), context
        assert lines[0].isprintable(), context
        outcome = {1: FAILED, 2: REFUSED}[int(status)]
    assert all(line.isprintable() for line in out.getvalue().splitlines()), context
    count(family, outcome)
    return outcome


def _stay_inside(argv: list[str]) -> None:
    """Fail before a command could write outside the folder of its test.

    Tests may run as root, and what is written replaces what was there.
    """
    home = Path.cwd().resolve().parent
    assert home.is_relative_to(Path(tempfile.gettempdir()).resolve()), home
    targets = [word.partition("=")[2] for word in argv if word.startswith("--out=")]
    targets += [after for word, after in pairwise(argv) if word == "--out"]
    for target in targets:
        place = Path(target).resolve()
        inside = place.is_relative_to(home) or place.is_relative_to(home.parent)
        assert inside, f"{target} is outside {home.parent}"
    assert "--remove" not in argv, argv


def count(family: str, outcome: str) -> None:
    COUNTS.setdefault(family, Counter())[outcome] += 1


def _size() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


DEEP: list[Any] = []
for _ in range(300):
    DEEP = [DEEP]
JUNK: dict[str, list[Any]] = {
    "null": [None],
    "bool": [True, False],
    "whole": [0, -1, 7, 10**6, 10**30],
    "number": [1.5, -0.5, float("nan"), float("inf"), 1e300],
    "text": ["", "x", "a\nb", "\x1b[31mred", "ü \u202e", "\ud800", "../../x", "-", "9" * 40],
    "list": [[], [1], ["x"], [None], DEEP],
    "block": [{}, {"a": 1}, {"": None}],
}
"""Values of every type of JSON."""


def kind(value: Any) -> str:
    """The key of :data:`JUNK` under which ``value`` would be."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "bool"
    of = {int: "whole", float: "number", str: "text", list: "list", dict: "block"}
    return of[type(value)]


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in a document; of long lists those of the first entries."""
    if path:
        yield path
    entries: Any = ()
    if isinstance(document, dict):
        entries = document.items()
    elif isinstance(document, list):
        entries = list(enumerate(document))[:2]
    for key, value in entries:
        yield from places(value, (*path, key))


GONE = object()
"""Stands for a value that is left out."""


def at(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of ``document`` with ``value`` at ``path``."""
    made = copy.deepcopy(document)
    holder = at(made, path[:-1])
    if value is GONE:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return made


def changes(document: Any) -> list[tuple[tuple[Any, ...], Any]]:
    """All places of a document, each with all junk and with nothing."""
    junk = [GONE, *(value for values in JUNK.values() for value in values)]
    return [(path, value) for path in places(document) for value in junk]


def with_header(path: Path, out: Path, change: tuple[tuple[Any, ...], Any]) -> None:
    """The artifact at ``path`` with another header, its checksums sound."""
    header = read_header(path)
    tensors, _ = load_tensors(path, header["kind"])
    _save(out, tensors, changed(header, *change))


def _save(out: Path, tensors: dict[str, torch.Tensor], header: dict[str, Any]) -> None:
    header = dict(header)
    named = header.pop("kind", None)
    if isinstance(named, str):
        save_tensors(out, named, tensors, header)
    else:
        save_tensors(out, "x", tensors, header | {"kind": named})


TENSORS = {
    "gone": lambda t: None,
    "float64": lambda t: t.double(),
    "float16": lambda t: t.half(),
    "int32": lambda t: t.int(),
    "uint8": lambda t: t.to(torch.uint8),
    "uint16": lambda t: t.to(torch.uint16),  # torch has no minimum of it, nor of float8
    "uint64": lambda t: t.to(torch.uint64),
    "float8": lambda t: t.to(torch.float8_e4m3fn),
    "bool": lambda t: t.bool(),
    "bfloat16": lambda t: t.bfloat16(),
    "complex": lambda t: t.to(torch.complex64),
    "flat": lambda t: t.flatten(),
    "one number": lambda t: t.flatten()[:1].view(()),
    "one axis more": lambda t: t.unsqueeze(0),
    "one fewer": lambda t: t[:-1] if t.ndim else t.repeat(0),
    "empty": lambda t: t.flatten()[:0],
    "twice": lambda t: torch.cat([t, t]) if t.ndim else t.repeat(2),
    "turned": lambda t: t.transpose(0, -1) if t.ndim > 1 else t.repeat(3),
    "NaN": lambda t: torch.full_like(t, float("nan")) if t.is_floating_point() else t + 10**6
    if t.dtype == torch.int64 else t,
    "infinite": lambda t: torch.full_like(t, float("inf")) if t.is_floating_point() else t,
    "huge": lambda t: torch.full_like(t, 3e4) if t.is_floating_point() else t,
    "zero": torch.zeros_like,
    "negative": lambda t: -t - 1 if t.dtype != torch.uint8 else t,
}  # fmt: skip
"""Other tensors in place of one."""
PICKLED = TENSORS | {"bits": lambda t: t.to(torch.uint8).view(torch.bits8)}
"""The same in a file of torch.save, which also holds what safetensors does not."""


def with_tensor(path: Path, out: Path, name: str, change: str) -> None:
    """The artifact at ``path`` with another tensor ``name``, its checksums sound."""
    header = read_header(path)
    tensors, _ = load_tensors(path, header["kind"])
    now = TENSORS[change](tensors.pop(name))
    if now is not None:
        tensors[name] = now
    _save(out, tensors, header)
