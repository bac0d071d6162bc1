"""Trained, frozen networks on disk, which SRe2L inverts and MetaDD computes activation maps with.

A file holds the state dict of one network, and in its header how it was trained and its accuracy.
The stage ``python -m dd pretrain`` writes it (:mod:`dd.pretrain.pretrain`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dd.artifacts.checkpoint import form
from dd.artifacts.fields import (
    BLOCK,
    NAME,
    NUMBER,
    PERCENT,
    TEXT,
    WHOLE,
    optional,
)
from dd.artifacts.headers import Fields
from dd.artifacts.tensors import load_tensors, save_tensors, tensors_digest
from dd.data.dataset import Dataset
from dd.data.space import check_space
from dd.errors import DDError
from dd.networks.base import Network
from dd.networks.build import create
from dd.pretrain.agreement import AGREE

KIND = "network"
_CHECKED = ("dataset", "whitening", "fingerprint", "width_factor")
_IDENTITY = ("origin", "seed", "settings", "accuracy", "least_accuracy", "digest")
FIELDS: Fields = {  # of every header
    **dict.fromkeys(("dataset", "whitening", "fingerprint"), TEXT),
    "width_factor": NUMBER,
    "network": NAME,
    "origin": TEXT,
    "seed": optional(WHOLE),
    "settings": BLOCK,
    **dict.fromkeys(("accuracy", "least_accuracy"), PERCENT),
    "digest": TEXT,
}
_WRAPPERS = ("module.", "model.")  # prefixes that DataParallel and other trainers add to names
_SHOWN = 3  # number of tensors named in a message


@dataclass(frozen=True)
class Pretrained:
    """A trained network.

    Attributes:
        spec: canonical, see :func:`dd.networks.options.canonical`.
        network: in evaluation mode, its parameters without gradient.
        accuracy: on the test split, in percent.
        least_accuracy: the accuracy that the dataset's recipe requires, in percent; 0: none.
        header: of its file, see ``docs/formats.md``.
    """

    spec: str
    network: Network
    accuracy: float
    least_accuracy: float
    header: dict[str, Any]

    def describe(self) -> dict[str, Any]:
        """The facts that identify it, for the provenance of artifacts made with it."""
        identity = {key: self.header[key] for key in _IDENTITY}
        return identity | {"precision": self.header.get("precision", "float32")}


def save(path: str | Path, network: Network, facts: Mapping[str, Any]) -> None:
    """Write ``network`` with the header ``facts`` and the digest of its tensors."""
    state = network.state_dict()
    save_tensors(path, KIND, state, {**facts, "digest": tensors_digest(state)})


def load(
    path: str | Path, dataset: Dataset, width_factor: float, device: torch.device | str
) -> Pretrained:
    """Read a network for use with ``dataset``.

    Raises:
        DDError: if the file is missing, broken or not a pretrained network; if the network was
            trained on another dataset, with another whitening or another width factor; if its
            tensors are not those of the architecture, or not finite.
    """
    tensors, header = load_tensors(path, KIND, fields=FIELDS)
    if not header.keys() >= FIELDS.keys():
        raise DDError(
            f"{path}: is no network of `python -m dd pretrain`; make one with it, also from "
            "weights of your own (--weights)"
        )
    check_space(path, header)
    here = {
        "dataset": dataset.name,
        "whitening": dataset.whitening,
        "fingerprint": dataset.fingerprint,
        "width_factor": width_factor,
    }
    for key in _CHECKED:
        if header[key] != here[key]:
            raise DDError(
                f"{path}: {AGREE[key]} of the network is {header[key]}, here it is {here[key]}; "
                "train it again (python -m dd pretrain)"
            )
    spec = header["network"]
    shape = (dataset.channels, dataset.size, len(dataset.classes))
    try:
        network = create(spec, *shape, generator=None, width_factor=width_factor, device=device)
    except DDError as error:  # the network that the header names
        raise DDError(f"{path}: {error}") from None
    take_weights(network, tensors, path, spec)
    network.eval().requires_grad_(False)
    return Pretrained(spec, network, header["accuracy"], header["least_accuracy"], header)


def load_all(
    paths: Sequence[str | Path], dataset: Dataset, width_factor: float, device: torch.device | str
) -> dict[str, Pretrained]:
    """Networks by spec, in the order of ``paths``; see :func:`load`.

    Raises:
        DDError: if two files hold the same network.
    """
    by_spec: dict[str, Pretrained] = {}
    path_of: dict[str, str | Path] = {}
    for path in paths:
        one = load(path, dataset, width_factor, device)
        if (spec := one.spec) in by_spec:
            raise DDError(f"{path}: holds a {spec}, as {path_of[spec]} does; give one of them")
        by_spec[spec], path_of[spec] = one, path
    return by_spec


@torch.no_grad()
def take_weights(
    network: nn.Module, tensors: Mapping[str, Tensor], path: str | Path, spec: str
) -> None:
    """Copy the state dict ``tensors`` into ``network``, name by name.

    A prefix ``module.`` or ``model.`` of all names is ignored; floating-point values are converted
    to the network's type.

    Raises:
        DDError: names, in one line, all tensors that are missing, unexpected, or of a wrong shape
            or type; or a tensor with values that are not finite.
    """
    wanted = network.state_dict()
    for prefix in _WRAPPERS:
        own = any(name.startswith(prefix) for name in wanted)
        if tensors and not own and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    missing = [f"{name} {form(wanted[name])}" for name in wanted if name not in tensors]
    unexpected = [name for name in tensors if name not in wanted]
    other = [
        f"{name} is {form(tensor)} instead of {form(wanted[name])}"
        for name, tensor in tensors.items()
        if name in wanted and _misfits(tensor, wanted[name])
    ]
    wrong = [
        f"{what}{_listed(names)}"
        for what, names in (("lacks ", missing), ("has the unknown ", unexpected), ("", other))
        if names
    ]
    if wrong:
        raise DDError(f"{path}: these are no weights of {spec} here: {'; '.join(wrong)}")
    for name, tensor in tensors.items():
        value = tensor.to(wanted[name].dtype)  # still on the CPU, where looking costs nothing
        if not value.isfinite().all():
            raise DDError(f"{path}: '{name}' holds NaN or infinite values")
        wanted[name].copy_(value)


def _misfits(tensor: Tensor, wanted: Tensor) -> bool:
    floating = tensor.is_floating_point() == wanted.is_floating_point()
    return tensor.shape != wanted.shape or not floating


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
