"""SIGTERM, which a scheduler sends before it takes a machine away: save, then end.

A stage with checkpoints asks its :class:`Pace` when to write one. After SIGTERM the answer is
*now*, and the stage ends once the checkpoint is written. A stage without checkpoints ends at once.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STATUS = 128 + signal.SIGTERM  # exit status, as a shell reports it


class Terminated(BaseException):
    """SIGTERM came, and the state is saved. Only ``main`` should catch it."""


class Pace:
    """Says when to write checkpoints.

    Args:
        every: seconds between two checkpoints.
    """

    _asked = False  # whether SIGTERM has come
    _running = 0  # number of Pace objects that the running stage has made

    def __init__(self, every: float) -> None:
        self.every, self._last = every, time.monotonic()
        Pace._running += 1

    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return Pace._asked or time.monotonic() - self._last >= self.every

    def saved(self) -> None:
        """Call it when a checkpoint is written.

        Raises:
            Terminated: if SIGTERM has come.
        """
        self._last = time.monotonic()
        if Pace._asked:
            raise Terminated


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    if Pace._asked or not Pace._running:  # a second SIGTERM does not wait for a checkpoint
        raise Terminated
    Pace._asked = True


@contextmanager
def heeding_sigterm() -> Iterator[None]:
    """While the context lasts, SIGTERM means: save, then :class:`Terminated`."""
    Pace._asked, Pace._running = False, 0
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can handle signals
        return
    before = signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
