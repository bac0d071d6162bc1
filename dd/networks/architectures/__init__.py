"""Networks by name: one file per family, registered in ``NETWORKS`` by a decorator.

A new file in this folder is imported automatically; no other file has to be edited.
"""

import importlib
import pkgutil

from dd.networks.base import NETWORKS

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")

__all__ = ["NETWORKS"]
