"""One interface for N networks of one architecture (stacked into one function), or for one."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from dd.errors import is_out_of_gpu_memory
from dd.networks.batchnorm import has_batch_norm, vectorisable
from dd.networks.flat import parameters_of
from dd.networks.recompute import can_recompute, recomputing
from dd.runtime.memory import halved, release, tell


class Ensemble(ABC):
    """Networks that are trained side by side.

    Attributes:
        stacked: whether the first axis of parameters counts the networks.
        networks: the modules; their values are current after :meth:`finish`.
        parameters: the tensors for an optimiser, in the order of ``named_parameters``.
    """

    stacked: ClassVar[bool]
    networks: Sequence[nn.Module]
    parameters: list[torch.Tensor]

    @abstractmethod
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``[N, B, C, H, W]`` to logits ``[N, B, K]``; network n gets images[n]."""

    def fitting(self, work: Callable[[int], torch.Tensor], size: int) -> torch.Tensor:
        """``work`` of the number of images in a pass: all ``size`` images of a batch, unless this
        ensemble knows a way to do with less memory of a GPU.

        Args:
            work: computes gradients. It can be called again after it has raised an error.
            size: images of the batch.
        """
        return work(size)

    @abstractmethod
    def flat(self) -> torch.Tensor:
        """All parameters ``[N, P]``, detached."""

    @abstractmethod
    def state(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers by name, for :meth:`load_state`."""

    @torch.no_grad()
    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Restore what :meth:`state` returned."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])

    @abstractmethod
    def finish(self) -> None:
        """Copy the trained values into the networks and put them in evaluation mode."""


class Single(Ensemble):
    """One network.

    Attributes:
        most: the most images in a pass; None: any number.
        recomputes: whether activations are computed again on the way back.
    """

    stacked = False

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self.networks = networks
        (self.network,) = networks
        self.parameters = list(self.network.parameters())
        self.most: int | None = None
        self.recomputes = False
        self._batched = has_batch_norm(self.network)
        # what batch norm has recorded, so that a pass that is done twice records once
        self._recorded = [buffer.clone() for buffer in self.network.buffers()]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.recomputes and can_recompute(self.network):
            return recomputing(self.network, images[0]).unsqueeze(0)
        return self.network(images[0]).unsqueeze(0)

    def fitting(self, work: Callable[[int], torch.Tensor], size: int) -> torch.Tensor:
        if not self._batched:
            tried = min(self.most or size, size)
            result, fitted = halved(work, tried, "images of a batch")
            if fitted < tried:
                self.most = fitted
            return result
        if self.recomputes or not can_recompute(self.network):
            return work(size)
        buffers = list(self.network.buffers())
        _copy(buffers, self._recorded)
        try:
            return work(size)
        except RuntimeError as error:
            if not is_out_of_gpu_memory(error):
                raise
        release()
        _copy(self._recorded, buffers)
        tell(
            "too small for a batch whose images a batch norm needs together; activations are "
            "computed twice, with the same result"
        )
        self.recomputes = True
        return work(size)

    def flat(self) -> torch.Tensor:
        return parameters_of(self.network)[None]

    def state(self) -> dict[str, torch.Tensor]:
        return self.network.state_dict()

    def finish(self) -> None:
        self.network.eval()


class Stack(Ensemble):
    """N networks as one vectorised function of stacked parameters."""

    stacked = True

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self.networks = networks
        self.states, self.buffers = stack_module_state(list(networks))
        self.parameters = list(self.states.values())
        self.skeleton = vectorisable(copy.deepcopy(networks[0]).to("meta"))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        def one(parameters: dict, buffers: dict, own: torch.Tensor) -> torch.Tensor:
            return functional_call(self.skeleton, (parameters, buffers), (own,))

        return vmap(one)(self.states, self.buffers, images)

    def flat(self) -> torch.Tensor:
        return torch.cat([p.detach().flatten(1) for p in self.parameters], 1)

    def state(self) -> dict[str, torch.Tensor]:
        return {name: p.detach() for name, p in self.states.items()} | self.buffers

    @torch.no_grad()
    def finish(self) -> None:
        for name, values in self.state().items():
            for network, value in zip(self.networks, values, strict=True):
                network.state_dict()[name].copy_(value)
        for network in self.networks:
            network.eval()


@torch.no_grad()
def _copy(sources: list[torch.Tensor], targets: list[torch.Tensor]) -> None:
    if targets:
        torch._foreach_copy_(targets, sources)  # by few kernels for many small tensors


def ensemble(networks: Sequence[nn.Module]) -> Ensemble:
    """A :class:`Stack` of ``networks``, or a :class:`Single` if there is only one."""
    return Single(networks) if len(networks) == 1 else Stack(networks)
