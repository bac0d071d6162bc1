"""The memory of the process, and its limit (``ulimit -v``), which some schedulers set."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_NEAR = 0.95  # share of the limit; what could not be had comes on top


def near_memory_limit(status: Path = Path("/proc/self/status")) -> bool:
    """Whether the address space of this process was ever almost as large as its limit.

    ``status`` is where Linux says how large it was. Elsewhere, and without a limit, the answer is
    no.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return False
    try:
        lines = status.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    peaks = [int(line.split()[1]) << 10 for line in lines if line.startswith("VmPeak:")]
    return bool(peaks) and peaks[0] >= _NEAR * limit


def resident_bytes() -> int:
    """The most memory that this process has had resident yet."""
    scale = 1024 if sys.platform != "darwin" else 1  # ru_maxrss: KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
