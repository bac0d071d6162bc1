"""Which GPU a job gets, where several jobs run on one machine (snakemake #281).

A scheduler that has assigned GPUs (Slurm, or whoever set ``CUDA_VISIBLE_DEVICES`` to one) is
obeyed. Else the job takes the first GPU whose lock file nobody holds. The kernel gives a lock back
when its process ends, however it ends, so a killed job leaves nothing behind.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, MutableMapping
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
SCHEDULERS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")  # a job of theirs has its GPUs already

_held: list[int] = []  # file descriptors: a lock lasts as long as its file is open


def take_gpu(
    environment: MutableMapping[str, str] = os.environ,
    folder: Path | None = None,
    poll: float = 2.0,
) -> str | None:
    """Make one GPU of this machine this process's own, and the only one that CUDA will show it.

    To be called before CUDA is initialised. Where all are taken by other jobs, it waits.

    Args:
        environment: read, and given ``CUDA_VISIBLE_DEVICES``.
        folder: of the lock files, the same for all jobs of a user on the machine.
        poll: seconds between two looks.

    Returns:
        The GPU; None where there is nothing to choose (no GPU, or one that was assigned).
    """
    known = choices(environment)
    if not known:
        return None
    folder = folder or Path(tempfile.gettempdir(), f"dd-gpus-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    waited = False
    while (taken := _first_free(known, folder)) is None:
        if not waited:
            told = f"all GPUs ({', '.join(known)}) are taken by other jobs; waiting for one"
            print(told, flush=True)
            waited = True
        time.sleep(poll)
    environment[VISIBLE] = taken
    return taken


def choices(environment: Mapping[str, str]) -> list[str]:
    """The GPUs to choose from, as ``CUDA_VISIBLE_DEVICES`` names them; none where a scheduler has
    chosen or there is no more than one."""
    if any(name in environment for name in SCHEDULERS):
        return []
    if VISIBLE in environment:
        known = [name.strip() for name in environment[VISIBLE].split(",") if name.strip()]
    else:
        known = _found()
    return known if len(known) > 1 else []


def _found() -> list[str]:
    """The numbers of the GPUs that the driver tells of."""
    try:
        told = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return told.stdout.split()


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
