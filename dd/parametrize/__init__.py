"""Parametrisations by name: one file each, entered in ``PARAMETRISATIONS`` by decorator."""

import importlib
import pkgutil

from dd.parametrize.base import PARAMETRISATIONS, Parametrisation
from dd.parametrize.pixels import Pixels

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")

__all__ = ["PARAMETRISATIONS", "Parametrisation", "Pixels"]
