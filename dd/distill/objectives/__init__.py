"""The seam "what makes synthetic data good": one file an objective, entered by decorator."""

from __future__ import annotations

import importlib
import pkgutil

from dd.distill.objectives.base import OBJECTIVES, Objective

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["OBJECTIVES", "Objective"]
