"""Metrics of distillations for TensorBoard.

Each ``metrics.jsonl`` becomes a run of TensorBoard: a scalar for each number of an iteration, and
``accuracy/PROTOCOL/NETWORK``, the mean accuracy (percent) of the networks that a run has trained on
the set of that iteration. The wall time is ``seconds``, counted from the start of the distillation.
Text, such as the network's name, is left out. Needs the package tensorboard.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from dd.artifacts.atomic import check_target, replacing
from dd.artifacts.fields import SECONDS, TEXT, check_fields, missing, whole
from dd.artifacts.text import load_rows, parse_json, read_text
from dd.errors import DDError
from dd.plan.jobs import Distillation, Evaluation
from dd.report.read.published import percentage
from dd.runtime.say import say

METRICS = "metrics.jsonl"
UNDER_WAY = ".checkpoint"  # the folder of the metrics of a distillation that is not finished
EVENTS = "events.out.tfevents.0.dd"  # TensorBoard reads files with `tfevents` in their name
VERSION = "brain.Event:2"  # the first event of each file
_LINE = {"iteration": whole(0, 2**63 - 1), "seconds": SECONDS}


@dataclass(frozen=True)
class Source:
    """The metrics of a distillation.

    Attributes:
        name: of its run in TensorBoard, a relative path.
        metrics: its ``metrics.jsonl``.
        evaluations: the folder with the evaluations of its sets, which need not exist.
    """

    name: str
    metrics: Path
    evaluations: Path | None = None


def sources(given: Path) -> list[Source]:
    """The metrics at ``given``: a file, or all in a folder.

    Raises:
        DDError: if there are none.
    """
    if given.is_dir():
        found = {_home(path): path for path in sorted(given.rglob(METRICS), key=_finished_last)}
        if not found:
            raise DDError(
                f"{given}: no {METRICS} is in this folder; name a run's folder, or that of a "
                "distillation"
            )
        return [_in_folder(given, folder, found[folder]) for folder in sorted(found)]
    if not given.exists():
        raise DDError(f"{given}: no such file or folder")
    return [Source(_home(Path(os.path.abspath(given))).name, given)]


def _home(metrics: Path) -> Path:
    """The folder of the distillation that a ``metrics.jsonl`` belongs to."""
    above = metrics.parent
    return above.parent if above.name == UNDER_WAY else above


def _finished_last(metrics: Path) -> tuple[bool, Path]:
    return metrics.parent.name != UNDER_WAY, metrics


def _in_folder(given: Path, folder: Path, metrics: Path) -> Source:
    parts = folder.relative_to(given).parts
    evaluations = None
    if parts[:1] == (Distillation.folder,):
        parts = parts[1:]
        evaluations = Path(given, Evaluation.folder, *parts)
    return Source(str(Path(Path(os.path.abspath(given)).name, *parts)), metrics, evaluations)


@dataclass(frozen=True)
class Moment:
    """What is known of a distillation after an iteration.

    Attributes:
        seconds: since its start.
        scalars: values by name.
    """

    seconds: float
    scalars: dict[str, float]


def read_metrics(path: Path) -> tuple[dict[int, Moment], set[str]]:
    """The numbers in a ``metrics.jsonl`` by iteration, ascending, and the names of what is none.

    Raises:
        DDError: if the file is missing or malformed; the message names the line.
    """
    moments: dict[int, Moment] = {}
    left_out: set[str] = set()
    last = -1
    for number, line in enumerate(read_text(path, "JSON lines").splitlines(), start=1):
        row = parse_json(line, f"{path}: line {number} is")
        if not isinstance(row, dict) or missing(row, _LINE):
            raise DDError(f"{path}: line {number} is no iteration with its seconds; distil again")
        check_fields(path, row, _LINE, f"in line {number}")
        iteration = row["iteration"]
        if iteration <= last:
            raise DDError(
                f"{path}: line {number} has iteration {iteration} after {last}; distil again"
            )
        last = iteration
        scalars = {
            name: float(value)
            for name, value in row.items()
            if name not in _LINE and TEXT.fits(name) and _is_number(value)
        }
        moments[iteration] = Moment(float(row["seconds"]), scalars)
        left_out |= row.keys() - _LINE.keys() - scalars.keys()
    return moments, left_out


def _is_number(value: Any) -> bool:
    """Whether a value can be shown; NaN and infinite values can."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) < 2**63


def accuracies(folder: Path) -> Iterator[tuple[int, str, float]]:
    """Iteration, name and mean accuracy (percent) of the evaluations of a distillation.

    Args:
        folder: with ``it<n>/<protocol>.csv``.

    Raises:
        DDError: if an evaluation is malformed; the message names the file.
    """
    for path in sorted(folder.glob("it*/*.csv")):
        if (numbered := re.fullmatch(r"it(\d{1,18})", path.parent.name)) is None:
            continue
        tested: dict[str, list[float]] = {}
        for row in load_rows(path):
            if (lost := missing(row, ("arch", "accuracy"))) is not None:
                raise DDError(f"{path}: has no column '{lost}'; evaluate again")
            tested.setdefault(row["arch"], []).append(percentage(str(path), row["accuracy"]))
        for arch, values in tested.items():
            yield int(numbered[1]), f"accuracy/{path.stem}/{arch}", statistics.fmean(values)


def gather(source: Source) -> tuple[dict[int, Moment], set[str]]:
    """As :func:`read_metrics`, with the accuracies of the evaluations that there are."""
    moments, left_out = read_metrics(source.metrics)
    for iteration, name, value in accuracies(source.evaluations) if source.evaluations else ():
        if iteration not in moments:
            # a set before the first iteration, or one whose metrics are gone
            before = [moment.seconds for n, moment in moments.items() if n < iteration]
            moments[iteration] = Moment(max(before, default=0.0), {})
        moments[iteration].scalars[name] = value
    return dict(sorted(moments.items())), left_out


def write_events(path: Path, moments: Mapping[int, Moment]) -> None:
    """Write a file of events in one step; the same values give the same bytes."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    with replacing(path) as partial, open(partial, "wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(file_version=VERSION).SerializeToString(deterministic=True))
        for iteration, moment in moments.items():
            values = [
                Summary.Value(tag=name, simple_value=_float32(value))
                for name, value in moment.scalars.items()
            ]
            event = Event(wall_time=moment.seconds, step=iteration, summary=Summary(value=values))
            writer.write(event.SerializeToString(deterministic=True))


def _float32(value: float) -> float:
    """The nearest value that an event can hold; too large is infinite."""
    with numpy.errstate(over="ignore"):
        return float(numpy.float32(value))


def check_library() -> None:
    """Raise a :class:`DDError` unless events can be written."""
    try:
        import tensorboard.summary.writer.record_writer  # noqa: F401
    except ImportError as error:
        raise DDError(
            f"export-metrics: needs the package tensorboard ({error}); install it: "
            "pip install -e '.[tensorboard]'"
        ) from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources",
        nargs="+",
        type=Path,
        metavar="PATH",
        help=f"a run's folder (results/NAME), a folder of distill, or a {METRICS}",
    )
    parser.add_argument(
        "--out", required=True, type=Path, help="the folder for tensorboard --logdir"
    )


def run(arguments: argparse.Namespace) -> None:
    """Write a file of events for each distillation."""
    check_library()
    named: dict[str, Source] = {}
    for given in arguments.sources:
        for source in sources(given):
            other = named.setdefault(source.name, source)
            if not other.metrics.samefile(source.metrics):
                raise DDError(
                    f"{source.metrics}: has the same name as {other.metrics}, {source.name}; "
                    "export them to different folders"
                )
    for source in named.values():
        check_target(arguments.out / source.name / EVENTS)
    left_out: set[str] = set()
    for source in named.values():
        moments, others = gather(source)
        write_events(arguments.out / source.name / EVENTS, moments)
        left_out |= others
    more = f"; left out, as no numbers: {', '.join(sorted(left_out))}" if left_out else ""
    say(f"{arguments.out}: {len(named)} distillations for tensorboard --logdir{more}")
