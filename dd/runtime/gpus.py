"""Which GPU a job gets if several jobs run on one machine (snakemake #281).

A job takes the first of its GPUs whose lock file nobody holds. The kernel releases a lock when its
process ends, however it ends, so a killed job leaves no lock behind. Its GPUs are, in this order,

- those that ``CUDA_VISIBLE_DEVICES`` names: a person has set it, or a scheduler. A scheduler may
  give several GPUs to one allocation in which many jobs run;
- those of Slurm's step or job, where only ``SLURM_STEP_GPUS`` or ``SLURM_JOB_GPUS`` names them;
- all that the driver reports, unless a scheduler is there that has given none.

If this is one GPU there is nothing to choose, and the job keeps it without a lock.

A GPU has many names: an index, which counts from 0 in every allocation; its UUID, or the beginning
of it. Locks are named by the UUID, so two names of one GPU are one lock. A MIG device (a part of a
GPU) is a GPU of its own.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dd.runtime.say import say

VISIBLE = "CUDA_VISIBLE_DEVICES"
SCHEDULERS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")  # set in jobs that have GPUs assigned
GIVEN = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS")  # indices on the node, those of the step first

_CARD = re.compile(r"GPU (\d+): (.*) \(UUID: (GPU-[^)]+)\)")
_PART = re.compile(r"MIG .*\(UUID: (MIG-[^)]+)\)")
_NONE = ("", "-1", "NoDevFiles")  # names of no device

_held: list[int] = []  # file descriptors: a lock lasts as long as its file is open


@dataclass(frozen=True)
class Card:
    """A GPU that the driver reports.

    Attributes:
        index: its number, as text.
        model: as in "NVIDIA A100-SXM4-40GB".
        uuid: ``GPU-...``.
        parts: UUIDs of its MIG devices, ``MIG-...``; CUDA takes them in place of the GPU.
    """

    index: str
    model: str
    uuid: str
    parts: tuple[str, ...] = ()

    @property
    def devices(self) -> tuple[str, ...]:
        """The UUIDs of what a job can have of it."""
        return self.parts or (self.uuid,)


@dataclass(frozen=True)
class Choice:
    """A GPU that a job may take.

    Attributes:
        name: for ``CUDA_VISIBLE_DEVICES``, as it was given.
        uuid: names its lock; ``name`` if the driver does not know it.
    """

    name: str
    uuid: str


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
        The GPU, as ``CUDA_VISIBLE_DEVICES`` names it; None if there was nothing to choose.
    """
    known = choices(environment)
    if len(known) < 2:
        if known and VISIBLE not in environment and _given(environment):
            environment[VISIBLE] = known[0].name  # only Slurm's own variables name it
        return None
    folder = folder or Path(tempfile.gettempdir(), f"dd-gpus-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    waited = False
    while (taken := _first_free(known, folder)) is None:
        if not waited:
            names = ", ".join(choice.name for choice in known)
            say(f"all GPUs ({names}) are taken by other jobs; waiting for one")
            waited = True
        time.sleep(poll)
    environment[VISIBLE] = taken
    return taken


def give_back() -> None:
    """Release the locks of this process, for a job that cannot use its GPU."""
    while _held:
        os.close(_held.pop())


def choices(environment: Mapping[str, str], cards: Sequence[Card] | None = None) -> list[Choice]:
    """The GPUs of a job, each once: see this module.

    Args:
        environment: the environment variables.
        cards: what the driver reports; None: ask it.
    """
    given = _given(environment)
    if given == [] or (given is None and any(name in environment for name in SCHEDULERS)):
        return []
    cards = reported() if cards is None else cards
    if given is None:
        found = [Choice(uuid, uuid) for card in cards for uuid in card.devices]
    elif VISIBLE in environment:
        found = list(_resolved(given, cards))
    else:
        # Indices on the node. If Slurm shows a job only its own GPUs, these count from 0 again.
        ours = [card for card in cards if card.index in given] if len(cards) > len(given) else cards
        found = [Choice(uuid, uuid) for card in ours for uuid in card.devices]
    unique: dict[str, Choice] = {}
    for choice in found:
        unique.setdefault(choice.uuid, choice)
    return list(unique.values())


def models(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The models of the GPUs that a job could have if CUDA worked; none if it hides them."""
    cards = reported()
    if not cards and _given(environment) != []:
        return _installed()
    chosen = {choice.uuid for choice in choices(environment, cards)}
    return [card.model for card in cards if chosen & {card.uuid, *card.parts}]


def reported() -> list[Card]:
    """The GPUs that ``nvidia-smi`` lists; none if it does not answer."""
    try:
        answer = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    cards: list[Card] = []
    for line in map(str.strip, answer.stdout.splitlines()):
        if card := _CARD.fullmatch(line):
            cards.append(Card(card[1], card[2], card[3]))
        elif cards and (part := _PART.fullmatch(line)):
            last = cards.pop()
            cards.append(Card(last.index, last.model, last.uuid, (*last.parts, part[1])))
    return cards


def _installed(folder: Path = Path("/proc/driver/nvidia/gpus")) -> list[str]:
    """The models of which the kernel's driver knows, whatever ``nvidia-smi`` says."""
    found = []
    for path in sorted(folder.glob("*/information")):
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError:
            continue
        found += [line.partition(":")[2].strip() for line in lines if line.startswith("Model")]
    return found


def _given(environment: Mapping[str, str]) -> list[str] | None:
    """The names of the GPUs in the environment; None if nothing there names any."""
    for variable in (VISIBLE, *GIVEN):
        if variable in environment:
            names = [name.strip() for name in environment[variable].split(",")]
            if variable != VISIBLE:
                return [index for name in names if name for index in _range(name)]
            # as CUDA reads it: what follows a name of no device does not count
            last = next((n for n, name in enumerate(names) if name in _NONE), len(names))
            return names[:last]
    return None


def _range(text: str) -> list[str]:
    """The indices that ``3`` or ``0-3`` stands for."""
    first, dash, last = text.partition("-")
    if dash and first.isdigit() and last.isdigit():
        return [str(n) for n in range(int(first), int(last) + 1)]
    return [text]


def _resolved(names: Iterable[str], cards: Sequence[Card]) -> Iterable[Choice]:
    """The choices that ``names`` stand for; a GPU that is split stands for its first part."""
    for name in names:
        uuids = [card.devices[0] for card in cards if card.index == name]
        if name.startswith("GPU-"):
            uuids = [card.devices[0] for card in cards if card.uuid.startswith(name)]
        elif name.startswith("MIG-"):
            uuids = [part for card in cards for part in card.parts if part.startswith(name)]
        yield Choice(name, uuids[0] if uuids else name)


def _first_free(known: Iterable[Choice], folder: Path) -> str | None:
    for choice in known:
        path = folder / f"{choice.uuid.replace('/', '_')}.lock"
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            continue
        _held.append(file)
        return choice.name
    return None
