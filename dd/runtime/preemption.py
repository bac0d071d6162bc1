"""SIGTERM, which a scheduler sends before it takes a machine away, and Ctrl-C: save, then end.

A stage with checkpoints asks its :class:`Pace` when to write one. After such a signal the answer is
*now*, and the stage ends once the checkpoint is written. A stage without checkpoints ends at once.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = {signal.SIGTERM: "terminated (SIGTERM)", signal.SIGINT: "interrupted"}
"""The signals that end a stage, and what is said of them."""

_AT_ONCE = 1.0  # seconds: one that is sent to all processes also comes from the command that waits


class Ended(BaseException):
    """A signal came, and the state is saved. Only ``main`` should catch it.

    Attributes:
        status: the exit status, as a shell reports it.
        said: which signal it was, in words.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status, self.said = 128 + number, SIGNALS[signal.Signals(number)]


class Pace:
    """Says when to write checkpoints.

    Args:
        every: seconds between two checkpoints.
    """

    _asked = 0  # the signal that has come; 0: none
    _when = 0.0  # when it came
    _running = 0  # number of Pace objects that the running stage has made

    def __init__(self, every: float) -> None:
        self.every, self._last = every, time.monotonic()
        Pace._running += 1

    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return bool(Pace._asked) or time.monotonic() - self._last >= self.every

    def saved(self) -> None:
        """Call it when a checkpoint is written.

        Raises:
            Ended: if a signal has come.
        """
        self._last = time.monotonic()
        if Pace._asked:
            raise Ended(Pace._asked)


def _on_signal(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if number == Pace._asked and now - Pace._when < _AT_ONCE:
        return
    if Pace._asked or not Pace._running:  # a second signal does not wait for a checkpoint
        raise Ended(number)
    Pace._asked, Pace._when = number, now


@contextmanager
def heeding_signals() -> Iterator[None]:
    """While the context lasts, a signal of ``SIGNALS`` means: save, then :class:`Ended`."""
    Pace._asked, Pace._running = 0, 0
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can handle signals
        return
    before = {number: signal.signal(number, _on_signal) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
