"""Read generators from files: the workflow's own, and others' weights through an adapter.

Weights are safetensors, so nothing is unpickled. An adapter is the user's own code, named
``MODULE:FUNCTION`` on the command line. ``docs/generators.md`` has a complete one.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dd.artifacts.fields import TEXT, WHOLE, Field, block, whole
from dd.artifacts.headers import Fields
from dd.artifacts.tensors import load_tensors, tensors_digest
from dd.artifacts.text import file_digest
from dd.config.settings import MOST
from dd.data.dataset import Dataset
from dd.data.space import check_space
from dd.errors import DDError
from dd.networks.layers import GROUPS
from dd.pretrain.agreement import AGREE
from dd.pretrain.frozen import take_weights
from dd.pretrain.generators.autoencoder import AutoencoderGenerator, create
from dd.pretrain.generators.base import RATES, Generator
from dd.rng import generator

KIND = "generator"
# What a file and a dataset must agree on: key of the header, attribute of the dataset.
_CHECKED = {"dataset": "name", "whitening": "whitening", "fingerprint": "fingerprint"}
_WIDTH = Field(
    f"a multiple of {GROUPS}", lambda v: whole(2 * GROUPS, MOST).fits(v) and not v % GROUPS
)
_FIELDS: Fields = {  # of every header
    **dict.fromkeys((*_CHECKED, "architecture", "device"), TEXT),
    "code": whole(1, MOST),
    "seed": WHOLE,
    "settings": block({"width": _WIDTH}),
}


def load_generator(
    path: str | Path,
    dataset: Dataset,
    device: torch.device | str,
    adapter: str = "",
    layer: int = 0,
) -> Generator:
    """The generator in ``path``, frozen, with images in the space of ``dataset``.

    Args:
        path: a file of ``python -m dd generator``, or, with ``adapter``, any safetensors file.
        dataset: the dataset whose images it should make.
        device: the device on which it computes.
        adapter: ``MODULE:FUNCTION``; ``FUNCTION(state, channels, size, layer) -> Generator`` gets
            the file's tensors by name, on ``device``, and returns a generator of pixels in [0, 1].
        layer: the intermediate layer whose feature maps are latents, for the adapter; 0: its own
            choice.

    Raises:
        DDError: if the file is broken, or of another dataset, whitening or architecture; if the
            adapter cannot be imported, or its generator does not follow the interface.
    """
    if adapter:
        return _adapted(Path(path), dataset, torch.device(device), adapter, layer)
    tensors, header = load_tensors(path, KIND, fields=_FIELDS)
    if not header.keys() >= _FIELDS.keys():
        raise DDError(
            f"{path}: is no file of `python -m dd generator`; weights of another generator need "
            "--adapter MODULE:FUNCTION (docs/generators.md)"
        )
    if layer:
        raise DDError(
            f"glad: layer is {layer}, but the generator of {path} has one latent, its code: "
            "leave layer 0, it is for --adapter"
        )
    check_space(path, header)
    here = {key: getattr(dataset, name) for key, name in _CHECKED.items()}
    for key, value in here.items():
        if header[key] != value:
            raise DDError(
                f"{path}: {AGREE[key]} of the generator is {header[key]}, here it is {value}; "
                "train it again (python -m dd generator)"
            )
    width = header["settings"]["width"]
    network = create(dataset.channels, header["code"], width, None, device)
    take_weights(network, tensors, path, f"the {header['architecture']}")
    facts = {key: header[key] for key in ("architecture", "code", "seed", "settings", "device")}
    facts |= {
        "precision": header.get("precision", "float32"),
        "digest": tensors_digest(tensors),
    }
    return AutoencoderGenerator(network, dataset.channels, dataset.size, facts)


def _adapted(
    path: Path, dataset: Dataset, device: torch.device, adapter: str, layer: int
) -> Generator:
    make = _imported(adapter)
    state, _ = load_tensors(path, KIND)
    state = {name: tensor.to(device) for name, tensor in state.items()}
    made = make(state, dataset.channels, dataset.size, layer)
    if not isinstance(made, Generator):
        raise DDError(
            f"--adapter: {adapter} must return a dd.pretrain.generators.Generator, it returned "
            f"{type(made).__name__}"
        )
    facts = {"adapter": adapter, "layer": layer, "weights": path.name, "sha256": file_digest(path)}
    _try(made, dataset, device, adapter)
    return Normalised(made, dataset, facts)


def _imported(adapter: str) -> Any:
    """The function that ``MODULE:FUNCTION`` names."""
    module, colon, function = adapter.partition(":")
    if not (module and colon and function.isidentifier()):
        raise DDError(f"--adapter: '{adapter}' must read MODULE:FUNCTION, as in stylegan:load")
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            reason = f"no module '{module}'; put it into this folder or on PYTHONPATH"
        else:
            reason = f"module '{module}' needs '{error.name}', which is not installed"
        raise DDError(f"--adapter: {reason}") from None
    if not callable(getattr(imported, function, None)):
        where = f"module '{module}' ({imported.__file__})"
        raise DDError(f"--adapter: {where} has no function {function}")
    return getattr(imported, function)


def _try(made: Generator, dataset: Dataset, device: torch.device, adapter: str) -> None:
    """Raise a :class:`DDError` unless ``made`` follows the interface, for one image."""
    shape = (1, dataset.channels, *dataset.size)
    label = torch.zeros(1, dtype=torch.int64, device=device)
    images = torch.zeros(shape, device=device) if made.encodes else None
    latents = made.latents(images, label, generator(0, "generator", "trial"))
    for name, latent in latents.items():
        if made.rates.get(name) not in RATES:
            raise DDError(
                f"--adapter: {adapter} gives latent '{name}' the rate {made.rates.get(name)!r}, "
                f"it must be {' or '.join(RATES)}"
            )
        if len(latent) != 1 or not latent.is_floating_point():
            raise DDError(
                f"--adapter: {adapter} gives for one image the latent '{name}' "
                f"{list(latent.shape)} {latent.dtype}, it must be [1, ...] of floats"
            )
    with torch.no_grad():
        decoded = made.decode(latents)
    if decoded.shape != shape:
        raise DDError(
            f"--adapter: {adapter} decodes one image to {list(decoded.shape)}, images of "
            f"{dataset.name} are {list(shape)}"
        )


class Normalised(Generator):
    """Converts a generator of pixels in [0, 1] to the space of a dataset.

    Args:
        pixels: the generator of pixels.
        dataset: the dataset with the space.
        facts: facts that identify the generator.
    """

    def __init__(self, pixels: Generator, dataset: Dataset, facts: Mapping[str, Any]) -> None:
        self.pixels, self.dataset, self.facts = pixels, dataset, dict(facts)
        self.channels, self.size = dataset.channels, dataset.size
        self.rates, self.encodes = pixels.rates, pixels.encodes

    def latents(
        self, images: Tensor | None, labels: Tensor, stream: torch.Generator
    ) -> dict[str, Tensor]:
        shown = None if images is None else self.dataset.to_pixels(images)
        return self.pixels.latents(shown, labels, stream)

    def decode(self, latents: Mapping[str, Tensor]) -> Tensor:
        return self.dataset.space.from_pixels(self.pixels.decode(latents))

    def describe(self) -> dict[str, Any]:
        return self.facts
