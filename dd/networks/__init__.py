"""Networks by name: one file a family, entered in ``NETWORKS`` by decorator.

A new file in this folder is found by itself; nothing else has to be edited.
"""

import importlib
import pkgutil

from dd.networks.base import (
    NETWORKS,
    Network,
    SpatialNetwork,
    TokenNetwork,
    count_parameters,
)
from dd.networks.batchnorm import freeze_batch_statistics, has_batch_norm
from dd.networks.build import canonical, create, parse
from dd.networks.init import initialise
from dd.networks.pool import PoolDefinition, load_pool
from dd.networks.source import NetworkSource, PoolSource, SingleSource

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")

__all__ = [
    "NETWORKS",
    "Network",
    "NetworkSource",
    "PoolDefinition",
    "PoolSource",
    "SingleSource",
    "SpatialNetwork",
    "TokenNetwork",
    "canonical",
    "count_parameters",
    "create",
    "freeze_batch_statistics",
    "has_batch_norm",
    "initialise",
    "load_pool",
    "parse",
]
