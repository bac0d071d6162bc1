"""Parametrisations by name: one file each, registered in ``PARAMETRISATIONS`` by a decorator."""

import importlib
import pkgutil

from dd.distill.parametrisations.base import (
    PARAMETRISATIONS,
    Parametrisation,
    check_parametrisation,
)
from dd.distill.parametrisations.labels import Labelled, LearnedLabels
from dd.distill.parametrisations.pixels import Pixels, Still

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")

__all__ = [
    "PARAMETRISATIONS",
    "Labelled",
    "LearnedLabels",
    "Parametrisation",
    "Pixels",
    "Still",
    "check_parametrisation",
]
