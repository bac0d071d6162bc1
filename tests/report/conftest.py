"""What the tests of tables and figures share."""

from collections.abc import Iterator

import pytest
from matplotlib import pyplot


@pytest.fixture(autouse=True)
def closed_figures() -> Iterator[None]:
    """Close the figures that a test drew, as the stage does: pyplot keeps them all."""
    yield
    pyplot.close("all")
