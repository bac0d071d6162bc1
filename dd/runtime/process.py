"""The process a stage runs in: device, threads, memory allocator, peak memory."""

from __future__ import annotations

import argparse
import ctypes
import math
import platform
import sys
import warnings

import torch

from dd.errors import DDError
from dd.runtime import gpus
from dd.runtime import precision as precisions
from dd.runtime.gpus import take_gpu
from dd.runtime.limits import resident_bytes

MOST_THREADS = 1024
MOST_MEMORY = 100_000  # GB
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def tune_allocator() -> bool:
    """Keep freed memory in the process instead of returning it to the kernel at every step.

    By default glibc maps and unmaps each activation above 32 MB, and the page faults cost about as
    much as the arithmetic of a training step (``benchmarks/README.md``). Returns whether the
    settings took effect.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = [
        (_M_MMAP_THRESHOLD, 1 << 30),
        (_M_TRIM_THRESHOLD, (1 << 31) - 1),
        (_M_TOP_PAD, 64 << 20),
    ]
    return all(mallopt(option, value) == 1 for option, value in settings)


def add_machine_options(parser: argparse._ActionsContainer) -> None:
    """``--device`` and ``--threads``, the same for every stage that computes."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0: torch's choice")


def add_precision_option(parser: argparse._ActionsContainer) -> None:
    """``--precision``, for every stage that trains, tests or uses networks."""
    parser.add_argument(
        "--precision",
        choices=precisions.PRECISIONS,
        default=precisions.FLOAT32,
        help="in which networks compute: float32; bf16, where they are trained, tested or see real "
        "images (parameters and sums stay float32); tf32, on a GPU, all products",
    )


def add_checkpoint_option(parser: argparse._ActionsContainer) -> None:
    """``--checkpoint-every``, for stages that resume from a checkpoint."""
    parser.add_argument(
        "--checkpoint-every",
        type=_seconds,
        default=60.0,
        metavar="SECONDS",
        help="seconds between two checkpoints",
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise DDError(f"--checkpoint-every is {text!r}, it must be a number") from None
    if not 0 <= seconds < math.inf:
        raise DDError(f"--checkpoint-every is {text}, it must be at least 0, and finite")
    return seconds


def add_together_option(parser: argparse._ActionsContainer, what: str) -> None:
    """``--together``, for stages that train several networks; ``what`` names these networks."""
    parser.add_argument(
        "--together",
        choices=("auto", "yes", "no"),
        default="auto",
        help=f"train {what} stacked, in one vectorised pass; auto: yes on a GPU, if their "
        "steps are small",
    )


def asked_together(together: str) -> bool | None:
    """What ``--together`` asks for; None: what is faster (:mod:`dd.runtime.stacking`)."""
    return None if together == "auto" else together == "yes"


def setup(
    device: str = "auto", threads: int = 0, precision: str = precisions.FLOAT32
) -> torch.device:
    """Prepare the process for a compute stage and return the device to work on.

    Args:
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``. Without a number
            and with several GPUs: one that no other job of ours holds (:mod:`dd.runtime.gpus`). If
            there is a GPU that torch cannot use, ``auto`` says so and means the CPU.
        threads: CPU threads of one operation; 0 leaves torch's choice.
        precision: see :mod:`dd.runtime.precision`.

    Raises:
        DDError: if the device does not exist here, cannot be used or has no such precision, or for
            a negative number of threads.
    """
    if threads < 0:
        raise DDError(f"--threads is {threads}, it must be 0 (torch's choice) or more")
    if threads > MOST_THREADS:
        raise DDError(f"--threads is {threads}, it must be at most {MOST_THREADS}")
    tune_allocator()
    if threads:
        torch.set_num_threads(threads)
    if device in ("auto", "cuda"):
        take_gpu()  # before CUDA reads its environment variables
    usable = device != "cpu" and _cuda_is_usable()
    if device == "auto":
        if not usable:
            gpus.give_back()  # another job may be able to use it
            if unusable := _unusable():
                print(f"device auto: {unusable}; computing on the CPU", flush=True)
        device = "cuda" if usable else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise DDError(f"--device: '{device}' is no device; use auto, cpu, cuda or cuda:N") from None
    if chosen.type == "cuda":
        available = torch.cuda.device_count() if usable else 0
        if (chosen.index or 0) >= available:
            why = "" if usable else _unusable()
            found = f": {why}" if why else f" is not here ({available} GPUs found)"
            raise DDError(f"--device: '{device}'{found}; use cpu")
        try:
            torch.cuda.set_device(chosen.index or 0)
        except RuntimeError as error:  # another process has it alone, or it is broken
            raise DDError(f"--device: '{device}' refuses: {_first(error)}; use cpu") from None
    elif device != "cpu":
        raise DDError(f"--device: '{device}' is not supported; use auto, cpu, cuda or cuda:N")
    precisions.choose(precision, chosen)
    return chosen


def _cuda_is_usable() -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an old driver: see _unusable
        return torch.cuda.is_available()


def _unusable() -> str:
    """Says that there are GPUs, and why torch cannot use them; empty if there are none."""
    models = gpus.models()
    if not models:
        return ""
    if torch.version.cuda is None and torch.version.hip is None:
        why = f"torch {torch.__version__} is built without CUDA"
    else:
        try:
            torch.cuda.init()
            why = "it finds none that it can use"
        except (RuntimeError, AssertionError) as error:
            why = _first(error)
    names = ", ".join(dict.fromkeys(models))
    there, them = ("is a GPU", "it") if len(models) == 1 else (f"are {len(models)} GPUs", "them")
    return f"there {there} ({names}) but torch cannot use {them} ({why})"


def _first(error: Exception) -> str:
    """The first sentence of an error of torch."""
    lines = str(error).strip().splitlines()
    return lines[0].split(". ")[0].rstrip(".") if lines else type(error).__name__


def add_memory_option(parser: argparse._ActionsContainer) -> None:
    """``--memory``, for stages that are faster with more memory."""
    parser.add_argument(
        "--memory",
        type=float,
        default=3.0,
        metavar="GB",
        help="memory that the process may use (on a GPU: the GPU's) to be faster, where it can; 0: "
        "as little as possible, and no CUDA graphs. The result does not depend on it, but on a GPU "
        "for rounding",
    )


def usable_memory(gigabytes: float, device: torch.device) -> float:
    """The bytes that ``--memory`` allows on ``device``: at most nine tenths of a GPU's.

    Raises:
        DDError: for a number that is negative, not finite or absurd.
    """
    if not 0 <= gigabytes <= MOST_MEMORY:
        raise DDError(f"--memory is {gigabytes}, it must be from 0 to {MOST_MEMORY:,} GB")
    allowed = gigabytes * 1e9
    if device.type == "cuda":
        allowed = min(allowed, 0.9 * torch.cuda.get_device_properties(device).total_memory)
    return allowed


def peak_memory(device: torch.device) -> float:
    """The most bytes that this process has used yet: on a GPU allocated by torch, else resident."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return float(resident_bytes())


def peak_memory_mb(device: torch.device) -> dict[str, float]:
    """:func:`peak_memory` in MiB: of the ``host`` and, if the device is one, of the ``gpu``."""
    peak = {"host": round(peak_memory(torch.device("cpu")) / 2**20, 1)}
    if device.type == "cuda":
        peak["gpu"] = round(peak_memory(device) / 2**20, 1)
    return peak
