"""Where an artifact comes from: code, libraries, machine, time, command."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dd import __version__, plugins
from dd.artifacts.fields import TEXT, block, block_of, both
from dd.runtime.say import say

if TYPE_CHECKING:  # what a page of a run needs of this module does not need torch
    import torch


@cache
def code_version() -> str:
    """The package version, with the commit (and ``-dirty``) when run from a git checkout."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return __version__
    return f"{__version__}+g{described.stdout.strip()}"


def maker() -> dict[str, str]:
    """The code and the torch that this process computes with, and the plug-ins that it uses."""
    import torch  # late: only stages that compute call this, and they have torch

    made = {"code": code_version(), "torch": torch.__version__}
    used = plugins.used()
    return made | {"plugins": ", ".join(used)} if used else made


MAKER = both(block({"code": TEXT, "torch": TEXT}), block_of(TEXT))
_WITH = ", plug-ins "  # in the text of a maker
UNKNOWN = {"code": "unknown code", "torch": "unknown"}  # of checkpoints that do not say it


def makers_as_text(makers: Sequence[Mapping[str, str]]) -> str:
    """One line for the makers of a job, in order, as in the CSV of an evaluation."""
    return "; ".join(
        f"{one['code']}, torch {one['torch']}"
        + (f"{_WITH}{one['plugins']}" if "plugins" in one else "")
        for one in makers
    )


def makers_from_text(text: str) -> list[dict[str, str]]:
    """What :func:`makers_as_text` gave ``text`` for."""
    made = []
    for one in filter(None, text.split("; ")):
        suite, _, used = one.partition(_WITH)
        code, _, number = suite.rpartition(", torch ")
        made.append({"code": code, "torch": number} | ({"plugins": used} if used else {}))
    return made


def earlier(stage: str, makers: list[dict[str, str]]) -> list[dict[str, str]]:
    """The makers of a job before this process, which goes on from its checkpoint.

    If the last of them had other code or another torch, a line says so. It is the first such
    line: the next checkpoint lists this process as the last maker.

    Args:
        stage: the first word of the line.
        makers: all makers until the checkpoint, the last one wrote it.
    """
    if makers[-1] == maker():
        return makers[:-1]
    said = makers_as_text(makers[-1:])
    say(f"{stage}: goes on from a checkpoint that other code made ({said})")
    return makers


def provenance(**facts: Any) -> dict[str, Any]:
    """Where an artifact comes from: code, libraries, machine, time, and what the stage adds."""
    import torch  # late: only stages that compute call this, and they have torch

    origin = {
        "code": code_version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "created": _now(),
        **facts,
    }
    if used := plugins.used():
        origin["plugins"] = used
    return origin | _gpu(facts.get("device", ""))


def provenance_of_rows(device: torch.device) -> dict[str, str]:
    """The columns of a CSV that say when it was written and what computed it: code, and on a GPU
    its name."""
    return {"created": _now(), "code": code_version(), **_gpu(device)}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _gpu(device: torch.device | str) -> dict[str, str]:
    import torch  # as above

    return {"gpu": torch.cuda.get_device_name(device)} if str(device).startswith("cuda") else {}


def stage_provenance(
    device: torch.device,
    seconds: float | None = None,
    continued_from: Sequence[Mapping[str, str]] = (),
) -> dict[str, Any]:
    """The provenance of what a stage computed: also command, device, precision, threads, memory.

    Args:
        device: that it computed on.
        seconds: that it took, those before it was killed included; None: not measured.
        continued_from: the :func:`earlier` makers, if other code or another torch began it.
    """
    import torch  # as above; the next module has it, too

    from dd.runtime import precision
    from dd.runtime.process import peak_memory_mb

    return provenance(
        command=command_line(),
        **({} if seconds is None else {"wall_seconds": round(seconds, 1)}),
        device=str(device),
        precision=precision.chosen(),
        threads=torch.get_num_threads(),
        peak_memory_mb=peak_memory_mb(device),
        **({"continued_from": [*continued_from]} if continued_from else {}),
    )


@cache
def _cpu_model() -> str:
    """The processor's name if Linux gives it, otherwise what Python says."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def command_line() -> str:
    """The command that this process was started with, for provenance."""
    return shlex.join(["python", "-m", "dd", *sys.argv[1:]])
