"""When networks are trained stacked: as asked, or where it was measured to be faster."""

import pytest

from dd.runtime.process import asked_together
from dd.runtime.stacking import stacks


@pytest.mark.parametrize(
    ("kind", "images", "side", "expected"),
    [
        ("cuda", 10, 32, True), ("cuda", 64, 32, True), ("cuda", 65, 32, False),
        ("cuda", 16, 64, True), ("cuda", 17, 64, False), ("cpu", 1, 8, False),
    ],
)  # fmt: skip
def test_few_pixels_are_stacked_on_a_gpu(kind, images, side, expected):
    assert stacks(asked_together("auto"), kind, images, (side, side)) is expected


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_what_was_asked_for_counts(kind):
    assert stacks(asked_together("yes"), kind, 10**6, (224, 224)) is True
    assert stacks(asked_together("no"), kind, 1, (8, 8)) is False
