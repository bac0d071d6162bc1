"""Hyperparameters of every objective, by dataset and images per class (``recipes.yaml``)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from dd.errors import DDError, unknown

RECIPES = Path(__file__).with_name("recipes.yaml")
SECTIONS = ("ipc", "dataset")


@cache
def load_recipes() -> dict[str, Any]:
    """The content of ``recipes.yaml``: one block an objective."""
    return yaml.safe_load(RECIPES.read_text(encoding="utf-8"))


def objectives() -> list[str]:
    """The names of all objectives that have a recipe."""
    return sorted(name for name, block in load_recipes().items() if "distillation" in block)


def resolve(
    objective: str, dataset: str, ipc: int, overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The distillation settings of ``objective``.

    Args:
        objective: ``dc``, ``dsa``, ``dm``, ``random``, ``herding``, ``kcenter``, ...
        dataset: the dataset's name; one without an entry of its own takes the general settings.
        ipc: images per class.
        overrides: settings that win over the recipe.

    Raises:
        DDError: for an unknown objective, an unknown setting or one of another type.
    """
    return _resolve(objective, "distillation", dataset, ipc, overrides or {})


def resolve_evaluation(
    objective: str, dataset: str, ipc: int, overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """How networks are trained on a set that ``objective`` made; arguments as :func:`resolve`."""
    return _resolve(objective, "evaluation", dataset, ipc, overrides or {})


def resolve_buffer(dataset: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """How the experts of trajectory matching are trained on ``dataset``; they know no IPC."""
    return _resolve("buffer", "training", dataset, 1, overrides or {})


def _resolve(
    objective: str, stage: str, dataset: str, ipc: int, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    recipes = load_recipes()
    if stage not in recipes.get(objective, {}):
        raise unknown("objective", objective, objectives())
    settings = merged(recipes[objective][stage], dataset, ipc)
    for name, value in overrides.items():
        if name not in settings:
            raise unknown(f"{stage} setting of {objective}", name, settings)
        _check_type(f"{stage} setting '{name}' of {objective}", value, settings[name])
    return settings | overrides


def merged(block: Mapping[str, Any], dataset: str, ipc: int) -> dict[str, Any]:
    """The settings of a ``block`` with those of its fitting sections (see ``recipes.yaml``)."""
    settings = {name: value for name, value in block.items() if name not in SECTIONS}
    by_ipc = {_whole(listed): refined for listed, refined in block.get("ipc", {}).items()}
    fitting = [listed for listed in by_ipc if listed <= ipc]
    if fitting:
        settings |= by_ipc[max(fitting)]
    if dataset in block.get("dataset", {}):
        settings |= merged(block["dataset"][dataset], dataset, ipc)
    return settings


def _whole(key: Any) -> int:
    """A key of an ``ipc`` section as a number (JSON writes it as text)."""
    if not str(key).isdecimal():
        raise DDError(f"a recipe's section ipc: '{key}' must be a number of images per class")
    return int(key)


def _check_type(what: str, value: Any, like: Any) -> None:
    kinds = (int, float) if isinstance(like, float) else (type(like),)
    if isinstance(value, bool) is not isinstance(like, bool) or not isinstance(value, kinds):
        needed = {float: "a number", int: "a whole number", str: "text"}[type(like)]
        raise DDError(f"{what} is {value!r}, it must be {needed}")
