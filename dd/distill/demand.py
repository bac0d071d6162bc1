"""How much memory of a GPU the work of each stage takes, counted on tensors without data.

Each function runs the code of the stage on the device ``meta`` and returns the most bytes that are
alive at a time (:func:`dd.runtime.memory.peak_bytes`), of tensors that the work makes: networks,
gradients, activations, a batch. The data that stay on the device are not among them. All in
float32; bf16 takes less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from dd.data.extent import Extent
from dd.distill.gradients import CHUNK, match_apart, match_together
from dd.distill.objectives.sre2l import watched
from dd.distill.ridge import fit
from dd.distill.student import Model
from dd.distill.unroll import pull_back, unroll
from dd.networks.activation_maps import activation_maps, has_map, resized
from dd.networks.base import Network
from dd.networks.batchnorm import has_batch_norm
from dd.networks.build import create
from dd.networks.memory import PIECE_BYTES, Shape, embedding_bytes, forward_bytes, on_meta
from dd.networks.recompute import can_recompute
from dd.pretrain.generators import autoencoder
from dd.runtime.demand import Demand
from dd.runtime.memory import peak_bytes
from dd.training.memory import IMAGES, training_bytes
from dd.training.recipe import Recipe

COUNTED_STEPS = 3
"""Steps of a student for which memory is counted; each further one adds as much."""


def _network(spec: str, data: Extent, width_factor: float) -> Network:
    shape = (data.channels, data.size, data.classes)
    return create(spec, *shape, generator=None, width_factor=width_factor, device="meta").train()


def _shape(data: Extent) -> Shape:
    return data.channels, *data.size


def _parameter_bytes(network: torch.nn.Module) -> int:
    return 4 * sum(parameter.numel() for parameter in network.parameters())


@cache
def train(
    spec: str, data: Extent, width_factor: float, optimizer: str, networks: int, batch: int
) -> Demand:
    """Training of ``networks`` networks side by side; at least one, in parts of a batch."""
    network = _network(spec, data, width_factor)
    recipe = Recipe(
        epochs=1,
        lr=0.1,
        optimizer=optimizer,
        momentum=0.9,
        weight_decay=0.1,
        batch=batch,
        augment="none",
        schedule="constant",
    )

    def counted(size: int, count: int = 1, recomputes: bool = False) -> int:
        shape = _shape(data)
        return training_bytes(
            network, shape, data.classes, recipe, size, count, recomputes=recomputes
        )

    whole = counted(batch)
    if not has_batch_norm(network):
        least = counted(1) + (batch - 1) * IMAGES * 4 * data.values
    elif can_recompute(network):
        least = min(whole, counted(batch, recomputes=True))
    else:
        least = whole
    return Demand(least, networks / 2 * counted(batch, 2) if networks > 1 else whole)


@cache
def forward(spec: str, data: Extent, width_factor: float, images: int) -> Demand:
    """Passes over ``images`` images without gradients."""
    network = _network(spec, data, width_factor).eval()
    each, own = forward_bytes(network, _shape(data)), _parameter_bytes(network)
    return Demand(own + each, own + min(max(PIECE_BYTES, each), images * each))


@cache
def maps(spec: str, data: Extent, width_factor: float, images: int) -> Demand:
    """Activation maps of ``images`` images at a time."""
    network = _network(spec, data, width_factor).eval()
    labels = torch.zeros(images, dtype=torch.int64, device="meta")

    @torch.no_grad()
    def work() -> None:
        activation_maps(network, torch.zeros(images, *_shape(data), device="meta"), labels)

    return _once(network, work)


@cache
def matching(spec: str, data: Extent, width_factor: float, real: int, ipc: int) -> Demand:
    """Gradient matching, one class after the other."""
    network = _network(spec, data, width_factor).eval()  # batch norms are fixed
    batches = [torch.zeros(n, *_shape(data), device="meta") for n in (real, ipc)]
    return _once(network, lambda: match_apart(network, batches[:1], batches[1:]))


@cache
def matching_together(spec: str, data: Extent, width_factor: float, real: int, ipc: int) -> Demand:
    """Gradient matching of all classes in one pass."""
    network = _network(spec, data, width_factor).eval()
    both = [torch.zeros(data.classes, n, *_shape(data), device="meta") for n in (real, ipc)]
    return _once(network, lambda: match_together(network, *both))


@cache
def embedding(spec: str, data: Extent, width_factor: float, real: int, images: int) -> Demand:
    """Distribution matching: ``real`` images a class, ``images`` synthetic ones in all."""
    network = _network(spec, data, width_factor)
    own, each = _parameter_bytes(network), embedding_bytes(network, _shape(data))
    features = network.classifier.in_features
    kept = 4 * features * (data.classes * real + 3 * images)  # embeddings, their derivatives
    piece = min(images, max(1, int(PIECE_BYTES // each)))
    seen = forward_bytes(network, _shape(data))  # of a real image
    if has_batch_norm(network):
        both = own + kept + max(data.classes * real * seen, images * each)
        return Demand(both, both)
    chunk = min(CHUNK, data.classes * real) * seen
    return Demand(own + kept + each, own + kept + max(piece * each, chunk))


@cache
def unrolling(
    spec: str, data: Extent, width_factor: float, memory: float, steps: int, batch: int
) -> Demand:
    """Trajectory matching: a student's ``steps`` steps, and back.

    ``memory`` is what the job may use to keep graphs of steps.
    """
    network = _network(spec, data, width_factor)
    model = Model(network)
    labels = torch.zeros(batch, dtype=torch.int64, device="meta")
    start = torch.zeros(sum(map(torch.Size.numel, model.shapes)), device="meta")
    size, few = (batch, *_shape(data)), min(COUNTED_STEPS, steps)

    def loss(parameters: Sequence[Tensor], inputs: Tensor, step: int) -> Tensor:
        return model.loss(parameters, inputs, labels)

    def counted(keep: int) -> int:
        def work() -> None:
            images = [torch.zeros(size, device="meta") for _ in range(few)]
            walk = unroll(loss, model.shapes, start, 0.1, images, keep)
            pull_back(loss, model.shapes, walk, 0.1, images, torch.zeros_like(start))

        return peak_bytes(work)

    bare, kept = counted(0), counted(few)
    # of each further step: parameters, the images that it sees, and their gradient
    further = (steps - few) * 4 * (len(start) + 2 * batch * data.values)
    segment = (
        4 * 4 * len(start)
    )  # its two ends, where the student begins, the derivative at its end
    least = bare + further + segment
    graph = (kept - bare) / max(1, few - 1)  # one is there in any case
    return Demand(least, max(least, min(memory, least + (steps - 1) * graph)))


@cache
def replaying(
    spec: str, data: Extent, width_factor: float, memory: float, steps: int, batch: int
) -> Demand:
    """The same, with the steps as CUDA graphs (:mod:`dd.distill.replay`), unless ``memory`` is 0.

    They are compared once with steps one by one, beside them. Where there is no memory for this, no
    graph is used.
    """
    given = (steps, batch)
    one_by_one = unrolling(spec, data, width_factor, memory, *given)
    if not memory:
        return one_by_one
    beside = unrolling(spec, data, width_factor, 0.0, *given).least
    images = 4 * steps * batch * data.values  # what the graphs read
    return Demand(one_by_one.least, one_by_one.whole + beside + images)


@cache
def mean_gradient(spec: str, data: Extent, width_factor: float, images: int) -> Demand:
    """The gradient of a loss on ``images`` real images by the parameters, in pieces."""
    network = _network(spec, data, width_factor)

    def counted(size: int) -> float:
        batch = torch.zeros(size, *_shape(data), device="meta")
        leaves = list(network.parameters())
        return _once(network, lambda: torch.autograd.grad(network(batch).sum(), leaves)).whole

    whole = counted(images if has_batch_norm(network) else min(CHUNK, images))
    least = whole if has_batch_norm(network) else counted(1)
    total = _parameter_bytes(network)  # what the pieces add up to
    return Demand(least + total, whole + total)


@cache
def regression(
    spec: str, data: Extent, width_factor: float, online: int, real: int, images: int
) -> Demand:
    """FRePo: a ridge regression from ``images`` synthetic to ``real`` real images, beside
    ``online`` networks and the moments of their optimisers."""
    network = _network(spec, data, width_factor).eval()
    each, features = embedding_bytes(network, _shape(data)), network.classifier.in_features

    def solve() -> None:
        known, found = (torch.zeros(n, features, device="meta") for n in (real, images))
        of_set, of_real = (torch.zeros(n, data.classes, device="meta") for n in (images, real))
        fit(found, of_set, known, of_real, 1e-6)

    networks = (3 * online + 1) * _parameter_bytes(network)
    kept = networks + peak_bytes(solve) + 4 * features * (real + 2 * images)
    kept += 2 * images * 4 * data.values  # images and their mirror images, and the gradient
    piece = min(images, max(1, int(PIECE_BYTES // each)))
    chunk = min(CHUNK, real) * forward_bytes(network, _shape(data))
    return Demand(kept + each, kept + max(piece * each, chunk))


@cache
def recovery(spec: str, data: Extent, width_factor: float, batch: int) -> Demand:
    """SRe2L: the gradient by a batch of images through a frozen network and its statistics."""
    network = _network(spec, data, width_factor).eval().requires_grad_(False)

    def work() -> None:
        leaf = torch.zeros(batch, *_shape(data), device="meta").requires_grad_()
        with watched(network) as distances:
            logits = network(leaf)
        total = torch.stack([logits.sum(), *distances]).sum()
        torch.autograd.grad(total, leaf)

    return _once(network, work)


@cache
def regularising(spec: str, data: Extent, width_factor: float, images: int) -> Demand:
    """MetaDD: the gradient by ``images`` images through the map of a frozen network."""
    network = _network(spec, data, width_factor).eval().requires_grad_(False)
    labels = torch.zeros(images, dtype=torch.int64, device="meta")

    def work() -> None:
        leaf = torch.zeros(images, *_shape(data), device="meta").requires_grad_()
        if has_map(network):
            logits, raw = activation_maps(network, leaf, labels)
            total = logits.sum() + resized(raw, (16, 16)).sum()
        else:
            total = network(leaf).sum()
        torch.autograd.grad(total, leaf)

    return _once(network, work)


@cache
def generator_training(data: Extent, width: int, code: int, batch: int) -> Demand:
    """Training of the autoencoder."""
    network = _autoencoder(data, width, code)
    recipe = Recipe(
        epochs=1,
        lr=0.1,
        optimizer="adamw",
        momentum=0.0,
        weight_decay=0.0,
        batch=batch,
        augment="none",
        schedule="constant",
    )

    def work() -> None:
        made = on_meta(network)
        optimizer = recipe.new_optimizer(list(made.parameters()))
        images = [torch.zeros(batch, *_shape(data), device="meta") for _ in range(IMAGES)]
        for _ in range(2):  # the optimiser has its state from the first step on
            F.mse_loss(made.decode(made.encode(images[0]), data.size), images[0]).backward()
            optimizer.step()
            optimizer.zero_grad()

    both = peak_bytes(work)
    return Demand(both, both)


@cache
def decoding(data: Extent, width: int, code: int, images: int) -> Demand:
    """GLaD: the gradient by the codes of ``images`` images through the autoencoder."""
    network = _autoencoder(data, width, code).requires_grad_(False)

    def work() -> None:
        codes = network.encode(torch.zeros(images, *_shape(data), device="meta")).detach()
        leaf = codes.requires_grad_()
        torch.autograd.grad(network.decode(leaf, data.size).sum(), leaf)

    return _once(network, work)


def _autoencoder(data: Extent, width: int, code: int) -> autoencoder.Autoencoder:
    channels = autoencoder.code_channels(code, data.channels)
    return autoencoder.create(data.channels, channels, width, None, "meta")


def _once(network: torch.nn.Module, work: Callable[[], object]) -> Demand:
    """Work that is done in one way only."""
    both = _parameter_bytes(network) + peak_bytes(work)
    return Demand(both, both)
