"""Gradients of networks on real and synthetic batches, and the distance between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, vmap

from dd.networks.batchnorm import vectorisable
from dd.runtime import precision

# Large batches are processed in pieces: as fast as in one piece, with a fraction of the memory.
CHUNK = 128


def distance(
    real: Sequence[torch.Tensor], synthetic: Sequence[torch.Tensor], eps: float = 1e-6
) -> torch.Tensor:
    """Layer-wise gradient distance of DC (Zhao et al. 2021, arXiv:2006.05929, eq. 10).

    For each row of each weight tensor it takes one minus the cosine between the two gradients, and
    sums over rows and tensors. A row is all weights of one output channel. Parameters of one
    dimension (biases, parameters of affine norms) contribute 0. ``eps`` is added to the product of
    the norms, as in the public code.

    Args:
        real: one gradient per parameter, each with the parameter's shape.
        synthetic: likewise. The result is differentiable with respect to both.

    Returns:
        A scalar, 0 to 2 times the number of rows.
    """
    total = real[0].new_zeros(())
    for g_real, g_synthetic in zip(real, synthetic, strict=True):
        if g_real.ndim < 2:
            continue
        a, b = g_real.flatten(1), g_synthetic.flatten(1)
        product = (a * b).sum(1)
        norms = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
        total = total + (1 - product / (norms + eps)).sum()
    return total


def mean_gradient(
    network: nn.Module, images: torch.Tensor, labels: torch.Tensor, chunk: int = CHUNK
) -> list[torch.Tensor]:
    """Gradient of the mean cross-entropy with respect to the parameters, in pieces of ``chunk``.

    Exact for networks whose images do not influence each other (no BatchNorm in training mode).
    The network computes in the chosen precision (:mod:`dd.runtime.precision`); sums are float32.

    Args:
        images: ``[N, C, H, W]``; labels: ``[N]``.
    """
    parameters = list(network.parameters())
    total: list[torch.Tensor] = []
    for start in range(0, len(images), chunk):
        part = slice(start, start + chunk)
        logits = precision.forward(network, images[part])
        loss = F.cross_entropy(logits, labels[part], reduction="sum") / len(images)
        gradients = torch.autograd.grad(loss, parameters)
        if total:
            torch._foreach_add_(total, gradients)
        else:
            total = list(gradients)
    return total


def match_apart(
    network: nn.Module,
    real: Iterable[torch.Tensor],
    synthetic: Sequence[torch.Tensor],
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Gradient matching, one class after the other: the distance and its gradient by the images.

    Only the gradient of the real images is in the chosen precision. That of the synthetic images,
    which is differentiated again, is float32: it costs little, and in bfloat16 the result would
    err several times as much (``docs/architecture.md``).

    Args:
        network: its parameters are not changed.
        real: per class ``[B, C, H, W]``.
        synthetic: per class ``[ipc, C, H, W]``; need not require grad. The function computes on
            detached copies, so the caller passes the gradients on to what the images depend on.

    Returns:
        The summed distance (detached), and per class d distance / d ``synthetic[k]``.
    """
    parameters = list(network.parameters())
    total = parameters[0].new_zeros(())
    image_gradients = []
    for label, (real_images, images) in enumerate(zip(real, synthetic, strict=True)):
        g_real = mean_gradient(network, real_images, _labels(real_images, label))
        leaf = images.detach().requires_grad_(True)
        loss = F.cross_entropy(network(leaf), _labels(leaf, label))
        g_synthetic = torch.autograd.grad(loss, parameters, create_graph=True)
        apart = distance(g_real, g_synthetic)
        (gradient,) = torch.autograd.grad(apart, leaf)
        image_gradients.append(gradient)
        total = total + apart.detach()
    return total, image_gradients


def match_together(
    network: nn.Module, real: torch.Tensor, synthetic: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Like :func:`match_apart`, but with all classes in one vectorised pass.

    Args:
        real: ``[K, B, C, H, W]``; synthetic: ``[K, ipc, C, H, W]``.

    Returns:
        The summed distance and d distance / d ``synthetic``.
    """
    parameters = {name: p.detach() for name, p in network.named_parameters()}
    buffers = dict(network.named_buffers())
    labels = torch.arange(len(real), device=real.device)
    skeleton = vectorisable(network)

    def gradients(images: torch.Tensor, call: Callable[..., torch.Tensor]) -> list[torch.Tensor]:
        def loss(parameters: dict, own: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            logits = call(lambda x: functional_call(skeleton, (parameters, buffers), (x,)), own)
            return F.cross_entropy(logits, label.expand(len(own)))

        per_class = vmap(grad(loss), in_dims=(None, 0, 0))
        return list(per_class(parameters, images, labels).values())

    with torch.no_grad():
        g_real = gradients(real, precision.forward)
    leaf = synthetic.detach().requires_grad_(True)
    g_synthetic = gradients(leaf, lambda function, own: function(own))
    apart = vmap(lambda *g: distance(g[: len(g_real)], g[len(g_real) :]))(*g_real, *g_synthetic)
    (gradient,) = torch.autograd.grad(apart.sum(), leaf)
    return apart.sum().detach(), gradient


def _labels(images: torch.Tensor, label: int) -> torch.Tensor:
    return torch.full((len(images),), label, device=images.device)
