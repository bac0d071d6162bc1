"""Class activation maps: which parts of an image a network looks at, and how networks differ.

MetaDD (arXiv:2410.05103) computes them with frozen networks of several architectures. For M
networks and N images, the maps are resized to one grid, then normalised. The meta region is where
all networks look.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dd.errors import DDError, unknown
from dd.networks.architectures import NETWORKS
from dd.networks.base import Network, SpatialNetwork, TokenNetwork
from dd.networks.options import RECTIFY, RELU

PIECE = 256
"""Images of which maps are made in one pass, unless a setting says otherwise."""


def activation_maps(
    network: Network, images: Tensor, labels: Tensor, rectify: str = RELU
) -> tuple[Tensor, Tensor]:
    """Logits ``[N, classes]`` and raw class activation maps ``[N, h, w]``, by one forward pass.

    Let A be the last feature map ``[K, h, w]`` and y the class. The map is the ReLU of

    - CAM (Zhou et al., 2016, arXiv:1512.04150, eq. 2), Σ_k w_yk A_k, w the weight of the linear
      layer, if the network's embedding is the mean of A over its positions. Grad-CAM is the same
      here, divided by the number of positions, a factor that normalising removes;
    - Grad-CAM (Selvaraju et al., 2017, arXiv:1610.02391, eqs. 1, 2), Σ_k α_k A_k, α_k the mean over
      the positions of d logit_y / d A_k, for any other convolutional network;
    - CAM with the patch tokens instead of A, on the grid of patches, for a transformer. If the
      embedding is a class token, the patch tokens are read with weights learned for that token.

    ReLU keeps the evidence for the class (Grad-CAM, eq. 2). A map that is negative everywhere
    becomes 0 everywhere: its network looks nowhere, and the map has no gradient. With ``rectify``
    ``none`` negative values stay, and after :func:`normalised` such a map also spans 0 to 1.

    The maps are differentiable with respect to ``images`` if gradients are enabled (Grad-CAM
    too, through α). No bias is added.

    Args:
        network: in evaluation mode; otherwise the map of an image would depend on the others.
        images: ``[N, C, H, W]``, normalised as the network was trained.
        labels: ``[N]`` int64, the class y of each image.
        rectify: one of :data:`RECTIFY`, the same for every kind of network.

    Raises:
        DDError: for a network without a feature map, or an unknown ``rectify``.
    """
    if rectify not in RECTIFY:
        raise unknown("rectification", rectify, RECTIFY)
    logits, maps = _signed(network, images, labels)
    return logits, maps.relu() if rectify == RELU else maps


def has_map(network: Network) -> bool:
    """Whether this network has a map in :func:`activation_maps`."""
    return isinstance(network, SpatialNetwork | TokenNetwork)


def _signed(network: Network, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and maps before any ReLU."""
    if isinstance(network, TokenNetwork):
        embedding, tokens = network.encode(images)
        maps = (tokens * network.classifier.weight[labels, None]).sum(-1)
        return network.classifier(embedding), maps.unflatten(1, network.grid)
    if not isinstance(network, SpatialNetwork):
        raise DDError(
            f"{type(network).__name__} has no feature map, so it has no class activation map; "
            f"these networks have: {', '.join(_mapped())}"
        )
    if network.averages:
        features = network.features(images)
        maps = torch.einsum("nk,nkhw->nhw", network.classifier.weight[labels], features)
        return network.head(features), maps
    return _grad_cam(network, images, labels)


def _grad_cam(network: SpatialNetwork, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    differentiable = torch.is_grad_enabled()
    features = network.features(images)
    with torch.enable_grad():  # needed for the head even if the caller has disabled gradients
        inner = features if features.requires_grad else features.detach().requires_grad_()
        logits = network.head(inner)
        chosen = logits.gather(1, labels[:, None]).sum()
        (slopes,) = torch.autograd.grad(chosen, inner, create_graph=differentiable)
        maps = (slopes.mean((2, 3), keepdim=True) * inner).sum(1)
    if differentiable and features.requires_grad:
        return logits, maps
    return logits.detach(), maps.detach()


def _mapped() -> list[str]:
    """Names of the registered networks that have activation maps."""
    classes = {name: getattr(NETWORKS[name], "func", NETWORKS[name]) for name in NETWORKS}
    return sorted(
        name
        for name, made in classes.items()
        if isinstance(made, type) and issubclass(made, SpatialNetwork | TokenNetwork)
    )


def resized(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize maps ``[N, h, w]`` to ``[N, *grid]``, bilinearly (corners not aligned)."""
    return F.interpolate(maps[:, None], grid, mode="bilinear", align_corners=False)[:, 0]


def normalised(maps: Tensor) -> Tensor:
    """Scale each map of ``[..., h, w]`` to 0..1 by its minimum and maximum.

    A map that is constant up to rounding becomes 0, with no gradient.
    """
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    span = high - low
    flat = span <= 32 * torch.finfo(maps.dtype).eps * torch.maximum(high.abs(), low.abs())
    return torch.where(flat, 0, (maps - low) / torch.where(flat, 1, span))


def confident(maps: Tensor, least: float) -> Tensor:
    """Set normalised maps ``[..., h, w]`` to 0 where they are below ``least``.

    There they have no gradient either. With ``least`` 0 nothing changes.
    """
    return torch.where(maps < least, 0, maps)


def distributions(maps: Tensor, temperature: float) -> Tensor:
    """The softmax of ``maps / temperature`` ``[..., h, w]`` over positions; the same shape."""
    return (maps / temperature).flatten(-2).softmax(-1).view_as(maps)


def divergence(p: Tensor) -> Tensor:
    """How much M distributions differ: the mean over m of KL(p_m ‖ p̄), p̄ their mean.

    Args:
        p: ``[M, N, h, w]``, each map sums to 1.

    Returns:
        ``[N]``, in nats, from 0 (all equal) to log M; 0 · log 0 counts as 0.
    """
    least = torch.finfo(p.dtype).tiny  # the gradient of log 0 is not finite
    logarithms = p.clamp(min=least).log() - p.mean(0).clamp(min=least).log()
    return (p * logarithms).sum((-2, -1)).mean(0)


def variance(maps: Tensor) -> Tensor:
    """Variance of maps ``[M, N, h, w]`` over M (divided by M), mean over positions: ``[N]``."""
    return maps.var(0, correction=0).mean((-2, -1))


def cams(
    networks: Sequence[Network],
    images: Tensor,
    labels: Tensor,
    grid: tuple[int, int],
    rectify: str = RELU,
    piece: int = PIECE,
) -> Tensor:
    """Normalised maps ``[M, N, *grid]`` of M networks, without gradients.

    Args:
        networks, images, labels, rectify: see :func:`activation_maps`.
        grid: height and width that all maps are resized to.
        piece: images per forward pass.
    """
    return outputs(networks, images, labels, grid, rectify, piece)[1]


@torch.no_grad()
def outputs(
    networks: Sequence[Network],
    images: Tensor,
    labels: Tensor,
    grid: tuple[int, int],
    rectify: str,
    piece: int,
) -> tuple[Tensor, Tensor]:
    """Logits ``[M, N, classes]`` and the maps of :func:`cams`, by one forward pass per network."""
    logits, maps = [], []
    for network in networks:
        parts = zip(images.split(piece), labels.split(piece), strict=True)
        pairs = [activation_maps(network, x, y, rectify) for x, y in parts]
        logits.append(torch.cat([logit for logit, _ in pairs]))
        maps.append(torch.cat([normalised(resized(raw, grid)) for _, raw in pairs]))
    return torch.stack(logits), torch.stack(maps)


GRIDS = 4, 16  # fewest and most positions per side of a grid that follows the images' size
PIXELS = 4  # pixels per position, along a side


def common_grid(side: int, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the grid on which maps of images of ``size`` (H, W) are compared.

    Args:
        side: positions per side; 0: a quarter of the image's side, at least 4 and at most 16.
        size: of the images.
    """
    fewest, most = GRIDS
    if side:
        return side, side
    height, width = (min(max(edge // PIXELS, fewest), most) for edge in size)
    return height, width
