"""Waiting for other processes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any


def wait_for(
    condition: Callable[[], Any], process: subprocess.Popen | None = None, seconds: float = 60
) -> Any:
    """What ``condition`` gives as soon as it gives something, while ``process`` runs."""
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert process is None or process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    return found
