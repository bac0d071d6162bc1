"""Networks by name: one file a family, entered in ``NETWORKS`` by decorator.

A new file in this folder is found by itself; nothing else has to be edited.
"""

import importlib
import pkgutil

from dd.networks.base import NETWORKS

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")

__all__ = ["NETWORKS"]
