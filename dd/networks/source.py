"""Network sources: which network a distillation uses in each iteration."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Protocol

import torch

from dd.errors import DDError
from dd.networks.base import Network
from dd.networks.build import create
from dd.networks.init import initialise
from dd.networks.options import canonical
from dd.networks.pool import PoolDefinition


class NetworkSource(Protocol):
    """Gives a distillation its network for each iteration."""

    def draw(self, iteration: int, generator: torch.Generator) -> tuple[str, Network]:
        """The canonical spec and the network of ``iteration`` (from 0).

        The network is newly initialised and in training mode. It is valid until the next draw,
        which may reuse the module. From a source of trained networks it is frozen and in
        evaluation mode. The draw depends only on ``iteration`` and ``generator``, so a job can be
        resumed at any iteration.
        """
        ...

    def specs(self) -> list[str]:
        """The canonical specs of all networks that may be drawn."""
        ...

    def skeleton(self, spec: str) -> Network:
        """The module of ``spec`` in training mode; the values of its parameters are arbitrary."""
        ...

    def describe(self) -> dict[str, Any]:
        """The source as JSON-serialisable facts, for provenance."""
        ...


class _Source:
    """Keeps one module per spec and initialises it in place, instead of building it at every draw.

    If ``trained`` is given, it gives these networks, unchanged.
    """

    def __init__(
        self,
        specs: Sequence[str],
        channels: int,
        size: tuple[int, int],
        classes: int,
        width_factor: float,
        device: torch.device | str | None,
        trained: Mapping[str, Network] | None,
    ) -> None:
        self._specs = list(specs)
        self._trained = trained
        if trained is not None:
            for spec in self._specs:
                if spec not in trained:
                    among = ", ".join(trained) or "no network"
                    raise DDError(f"no pretrained {spec} among {among}")
        self._shape = (channels, size, classes)
        self._width_factor, self._device = width_factor, device
        self._modules: dict[str, Network] = {}

    def specs(self) -> list[str]:
        return self._specs

    def skeleton(self, spec: str) -> Network:
        if spec not in self._modules:
            self._modules[spec] = create(
                spec,
                *self._shape,
                generator=None,
                width_factor=self._width_factor,
                device=self._device,
            )
        return self._modules[spec].train()

    def _next(self, spec: str, generator: torch.Generator) -> Network:
        if self._trained is not None:
            return self._trained[spec]
        module = self.skeleton(spec)
        initialise(module, generator)
        module.zero_grad(set_to_none=True)
        return module


class NoSource:
    """For a distillation that uses no network: it has none to give."""

    def draw(self, iteration: int, generator: torch.Generator) -> tuple[str, Network]:
        raise TypeError("the objective's settings name no network to draw")

    def specs(self) -> list[str]:
        return []

    def skeleton(self, spec: str) -> Network:
        raise TypeError("the objective's settings name no network to build")

    def describe(self) -> dict[str, Any]:
        return {"source": "none"}


class SingleSource(_Source):
    """The same architecture at every iteration.

    Args:
        spec: the network, see :func:`dd.networks.options.parse`.
        channels, size, classes, width_factor, device: see :func:`dd.networks.build.create`.
        trained: frozen networks by spec, to be drawn unchanged; None: new ones are initialised.
    """

    def __init__(
        self,
        spec: str,
        channels: int,
        size: tuple[int, int],
        classes: int,
        *,
        width_factor: float = 1.0,
        device: torch.device | str | None = None,
        trained: Mapping[str, Network] | None = None,
    ) -> None:
        self.spec = canonical(spec)
        super().__init__([self.spec], channels, size, classes, width_factor, device, trained)

    def draw(self, iteration: int, generator: torch.Generator) -> tuple[str, Network]:
        return self.spec, self._next(self.spec, generator)

    def describe(self) -> dict[str, Any]:
        return {"source": "single", "network": self.spec}


class PoolSource(_Source):
    """A network drawn from a pool at every iteration (Model Pool, arXiv:2402.13007).

    Args:
        definition: the pool, see :func:`dd.networks.pool.load_pool`.
        channels, size, classes, width_factor, device: see :func:`dd.networks.build.create`.
        trained: frozen networks by spec, to be drawn unchanged; None: new ones are initialised.
    """

    def __init__(
        self,
        definition: PoolDefinition,
        channels: int,
        size: tuple[int, int],
        classes: int,
        *,
        width_factor: float = 1.0,
        device: torch.device | str | None = None,
        trained: Mapping[str, Network] | None = None,
    ) -> None:
        self.definition = definition
        specs, probabilities = zip(*definition.networks(), strict=True)
        self._bounds = list(accumulate(probabilities))[:-1]
        super().__init__(specs, channels, size, classes, width_factor, device, trained)

    def choose(self, iteration: int, generator: torch.Generator) -> str:
        """The canonical spec of the network of ``iteration``, by one draw from ``generator``."""
        if iteration < self.definition.warmup:
            return self.definition.main
        point = torch.rand((), generator=generator, device=generator.device, dtype=torch.float64)
        return self._specs[bisect(self._bounds, point.item())]

    def draw(self, iteration: int, generator: torch.Generator) -> tuple[str, Network]:
        spec = self.choose(iteration, generator)
        return spec, self._next(spec, generator)

    def describe(self) -> dict[str, Any]:
        return {
            "source": "pool",
            "title": self.definition.title,
            "main": self.definition.main,
            "networks": dict(self.definition.networks()),
            "warmup": self.definition.warmup,
            "published": self.definition.source,
        }
