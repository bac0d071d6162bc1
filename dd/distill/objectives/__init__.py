"""Objectives by name: how synthetic images are found. Each is registered by a decorator.

A new file in this folder is imported automatically.
"""

from __future__ import annotations

import importlib
import pkgutil

from dd.distill.objectives.base import OBJECTIVES, Objective

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["OBJECTIVES", "Objective"]
