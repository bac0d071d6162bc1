"""Regularisers by name: one file each, registered in ``REGULARISERS`` by a decorator."""

import importlib
import pkgutil

from dd.distill.regularisers.base import REGULARISERS, Regularised, Regulariser

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")

__all__ = ["REGULARISERS", "Regularised", "Regulariser"]
