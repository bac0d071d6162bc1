"""SIGTERM, what a scheduler sends before it takes a machine away: save, and say so.

A stage with checkpoints asks its :class:`Pace` when to write one; after SIGTERM the answer is
*now*, and when it is written the stage ends. A stage without ends at once.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STATUS = 128 + signal.SIGTERM  # as a shell reports it


class Terminated(BaseException):
    """SIGTERM came and what there was to save is saved; nothing but ``main`` should catch it."""


class Pace:
    """When to write checkpoints.

    Args:
        every: seconds between two of them.
    """

    _asked = False  # whether SIGTERM has come
    _running = 0  # how many paces there are in the stage under way

    def __init__(self, every: float) -> None:
        self.every, self._last = every, time.monotonic()
        Pace._running += 1

    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return Pace._asked or time.monotonic() - self._last >= self.every

    def saved(self) -> None:
        """To be called when one is written.

        Raises:
            Terminated: if SIGTERM has come.
        """
        self._last = time.monotonic()
        if Pace._asked:
            raise Terminated


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    if Pace._asked or not Pace._running:  # the second one does not wait
        raise Terminated
    Pace._asked = True


@contextmanager
def heeding_sigterm() -> Iterator[None]:
    """While the context lasts, SIGTERM means: save, then :class:`Terminated`."""
    Pace._asked, Pace._running = False, 0
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
