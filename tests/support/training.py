"""How small networks are trained in tests."""

from __future__ import annotations

from typing import Any

from dd.training.recipe import Recipe


def recipe(**changes: Any) -> Recipe:
    """A recipe for batches of five images, with ``changes``."""
    values = {
        "epochs": 4, "lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4, "batch": 5,
        "augment": "none", "schedule": "paper",
    }  # fmt: skip
    return Recipe(**values | changes)
