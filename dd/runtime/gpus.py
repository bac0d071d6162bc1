"""Which GPU a job gets if several jobs run on one machine (snakemake #281).

If a scheduler has assigned GPUs, the job uses those (Slurm does so, and so does anyone who sets
``CUDA_VISIBLE_DEVICES`` to one GPU). Otherwise the job takes the first GPU whose lock file nobody
holds. The kernel releases a lock when its process ends, however it ends, so a killed job leaves no
lock behind.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from dd.runtime.say import say

VISIBLE = "CUDA_VISIBLE_DEVICES"
SCHEDULERS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")  # set in jobs that have GPUs assigned

_held: list[int] = []  # file descriptors: a lock lasts as long as its file is open


def take_gpu(
    environment: MutableMapping[str, str] = os.environ,
    folder: Path | None = None,
    poll: float = 2.0,
) -> str | None:
    """Reserve one GPU of this machine for this process, and hide all others from CUDA.

    Call it before CUDA is initialised. It waits while other jobs hold all GPUs.

    Args:
        environment: the environment variables; ``CUDA_VISIBLE_DEVICES`` is set in them.
        folder: folder of the lock files, the same for all jobs of a user on the machine.
        poll: seconds between two attempts.

    Returns:
        The GPU; None if there is nothing to choose (no GPU or a single one, or one was assigned).
    """
    known = choices(environment)
    if not known:
        return None
    folder = folder or Path(tempfile.gettempdir(), f"dd-gpus-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    waited = False
    while (taken := _first_free(known, folder)) is None:
        if not waited:
            names = ", ".join(known)
            say(f"all GPUs ({names}) are taken by other jobs; waiting for one")
            waited = True
        time.sleep(poll)
    environment[VISIBLE] = taken
    return taken


def choices(environment: Mapping[str, str]) -> list[str]:
    """The GPUs to choose from, as ``CUDA_VISIBLE_DEVICES`` names them; none if a scheduler has
    chosen, or if there is at most one."""
    if any(name in environment for name in SCHEDULERS):
        return []
    if VISIBLE in environment:
        known = [name.strip() for name in environment[VISIBLE].split(",") if name.strip()]
    else:
        known = _reported_by_driver()
    return known if len(known) > 1 else []


def _reported_by_driver() -> list[str]:
    """The numbers of the GPUs that the driver reports."""
    try:
        answer = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return answer.stdout.split()


def _first_free(known: list[str], folder: Path) -> str | None:
    for name in known:
        file = os.open(folder / f"{name.replace('/', '_')}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            continue
        _held.append(file)
        return name
    return None
