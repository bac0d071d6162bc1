"""Progress: a bar on a terminal, or a plain line every few seconds in a log."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm


class Progress:
    """Shows progress: ``with Progress("distill", 1000, "it") as p: p.update(loss=0.3)``.

    Args:
        name: the task, the first word of every line.
        total: number of steps of the whole task.
        unit: name of a step.
        initial: steps done before (in a resumed job).
        every: seconds between two lines if standard error is not a terminal.
    """

    def __init__(
        self, name: str, total: int, unit: str, initial: int = 0, every: float = 30.0
    ) -> None:
        self.name, self.total, self.unit, self.every = name, total, unit, every
        self.done = self.initial = initial
        self.start = self.last = time.monotonic()
        self.bar = (
            tqdm(total=total, initial=initial, desc=name, unit=unit, dynamic_ncols=True)
            if sys.stderr.isatty()
            else None
        )

    def update(self, steps: int = 1, **values: float) -> None:
        """Advance by ``steps``; ``values`` (a loss, an accuracy) are shown beside the count."""
        self.done += steps
        shown = " ".join(f"{key}={value:.4g}" for key, value in values.items())
        if self.bar is not None:
            self.bar.set_postfix_str(shown, refresh=False)
            self.bar.update(steps)
            return
        now = time.monotonic()
        if now - self.last >= self.every or self.done >= self.total:
            self.last = now
            rate = (self.done - self.initial) / max(now - self.start, 1e-9)
            left = (self.total - self.done) / max(rate, 1e-9)
            print(
                f"{self.name}: {self.done}/{self.total} {self.unit}, {rate:.3g} {self.unit}/s, "
                f"{left:.0f} s left {shown}".rstrip(),
                file=sys.stderr,
                flush=True,
            )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
