"""Where an artifact comes from: code, libraries, machine, time, command."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dd import __version__

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


def provenance(**facts: Any) -> dict[str, Any]:
    """Where an artifact comes from: code, libraries, machine, time, and what the stage adds."""
    import torch  # late: only stages that compute call this, and they have torch

    origin = {
        "code": code_version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **facts,
    }
    if str(facts.get("device", "")).startswith("cuda"):
        origin["gpu"] = torch.cuda.get_device_name(facts["device"])
    return origin


def stage_provenance(device: torch.device, seconds: float | None = None) -> dict[str, Any]:
    """The provenance of what a stage computed: also command, device, precision, threads, memory.

    Args:
        device: that it computed on.
        seconds: that it took, those before it was killed included; None: not measured.
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
