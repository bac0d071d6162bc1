"""MetaDD: networks of different architectures should look at the same parts of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from dd.config.settings import setting
from dd.distill.regularisers.base import REGULARISERS, Regulariser
from dd.errors import DDError
from dd.networks import activation_maps as cam
from dd.networks.activation_maps import common_grid
from dd.networks.base import Network
from dd.networks.options import RECTIFY, RELU, auxiliaries

MAPS, LOGITS = "maps", "logits"  # between which outputs the divergence is


def _below_one(confidence: float) -> None:
    if confidence >= 1:
        raise DDError(
            f"metadd: confidence is {confidence}, it must be below 1: only the greatest value of a "
            "map would stay, which is always 1 and has no gradient"
        )


@dataclass(frozen=True)
class Settings:
    """Settings of the architecture-invariant loss (the paper's symbols in brackets)."""

    lambda_ai: float = setting("weight of the architecture-invariant loss [lambda]", at_least=0)
    lambda_ce: float = setting("weight of its cross-entropy part [lambda_ce]", at_least=0)
    lambda_kl: float = setting("weight of its divergence [lambda_kl, L_kd]", at_least=0)
    compare: str = setting(
        "what the divergence compares: activation maps, or logits",
        choices=(MAPS, LOGITS),
    )
    temperature: float = setting(
        "temperature of the softmax of a map, 0 to 1, over positions (maps)", above=0
    )
    logit_temperature: float = setting(
        "temperature of the softmax of logits over classes (logits)", above=0
    )
    rectify: str = setting(
        "negative values of a map, before it is scaled to 0 to 1: relu (set to 0) or none (kept)",
        choices=RECTIFY,
    )
    confidence: float = setting(
        "positions where a map, 0 to 1, is below this are set to 0 before maps are compared; 0: "
        "no position (maps)",
        at_least=0,
        check=_below_one,
    )
    auxiliary: str = setting("frozen networks, specs joined by dots", check=auxiliaries)
    draw: int = setting("number of these networks to draw at each step, 0: all", at_least=0)
    images: int = setting("number of synthetic images to draw at each step, 0: all", at_least=0)
    grid: int = setting(
        "positions per side of the grid on which maps are compared, 0: a quarter of the images' "
        "side, at least 4 and at most 16",
        at_least=0,
    )
    piece: int = setting("images in one pass: limits memory, changes nothing else", at_least=1)

    def __post_init__(self) -> None:
        known = len(auxiliaries(self.auxiliary))
        if self.draw > known:
            raise DDError(
                f"metadd: draw is {self.draw}, but auxiliary names {known} networks; draw at most "
                "that many, or 0 for all"
            )
        if self.lambda_kl and (self.draw or known) < 2:
            raise DDError(
                f"metadd: lambda_kl compares {self.compare} of at least 2 networks, and auxiliary "
                f"and draw leave {self.draw or known}; name more networks or set lambda_kl to 0"
            )


@REGULARISERS.register("metadd")
class ArchitectureInvariance(Regulariser):
    """MetaDD (Zhao et al. 2024, arXiv:2410.05103): L = L_method + λ L_ai over M frozen networks,

        L_ai = (1/ipc) Σ_i [ λ_ce Σ_m CE(f_m(x_i), y_i) + λ_kl (1/M) Σ_m KL(p_m,i ‖ p̄_i) ]

    where i runs over all synthetic images, p_m,i is the class activation map of network m for image
    i and its class (on a common grid, normalised, then a softmax over positions), and p̄_i is the
    mean of p_m,i over m. With ``confidence`` c, positions where a map is below c are set to 0
    before the softmax. There a map has no gradient, so it cannot grow back, while the other maps
    are still drawn towards its 0. With ``compare`` ``logits``, p_m,i is instead softmax(z_m,i / T)
    over the classes, with logits z and T = ``logit_temperature``. There is no factor T², since λ_kl
    can include it. The paper's text is clear on neither point (docs/discrepancies.md).

    So L_ai is a sum over classes of the mean over a class's images, like the losses of the DC
    family. The gradient of one image shrinks as 1/ipc in both, so their ratio does not depend on
    ipc.

    The paper gives neither weights nor temperature (docs/discrepancies.md); ours are in the recipe.
    The divergence is a mean over networks, at most ln M. If a step uses only ``draw`` networks or
    ``images`` images, sums are scaled up so that their expectation is the full sum; p̄ is then the
    mean over the drawn networks.
    """

    Settings = Settings

    @staticmethod
    def needs(settings: Any) -> list[str]:
        return auxiliaries(settings.auxiliary)

    def gradient(
        self, images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """See :class:`Regulariser`.

        The metrics are those of the given images: ``ai_ce`` (mean over networks and images),
        ``ai_kl`` and ``cam_variance`` (means over images; only with λ_kl above 0). ``ai_kl`` is of
        what ``compare`` names. ``cam_variance`` is always of whole maps, and missing if a network
        has no map.
        """
        s = self.settings
        total = torch.zeros_like(images)
        if not s.lambda_ai or not (s.lambda_ce or s.lambda_kl):
            return total, {}
        specs = self.needs(s)
        used = [self.networks[specs[n]] for n in self._some(len(specs), s.draw).tolist()]
        seen = self._some(len(images), s.images).to(images.device)
        height, width = images.shape[-2:]
        each = s.lambda_ai * used[0].classifier.out_features / len(seen)  # λ / ipc, scaled up
        total[seen], metrics = invariance(
            used,
            images[seen],
            labels[seen],
            ce=each * s.lambda_ce * len(specs) / len(used),
            kl=each * s.lambda_kl,
            temperature=s.temperature if s.compare == MAPS else s.logit_temperature,
            grid=common_grid(s.grid, (height, width)),
            piece=s.piece,
            compare=s.compare,
            rectify=s.rectify,
            confidence=s.confidence,
        )
        return total, metrics

    def _some(self, size: int, count: int) -> torch.Tensor:
        """Draw ``count`` of ``size`` indices, ascending; all, without a draw, if 0 or too large."""
        if not 0 < count < size:
            return torch.arange(size)
        return torch.randperm(size, generator=self.stream)[:count].sort().values


def invariance(
    networks: Sequence[Network],
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    ce: float,
    kl: float,
    temperature: float,
    grid: tuple[int, int],
    piece: int,
    compare: str = MAPS,
    rectify: str = RELU,
    confidence: float = 0.0,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Gradient of Σ_i [ ce Σ_m CE(f_m(x_i), y_i) + kl (1/M) Σ_m KL(p_m,i ‖ p̄_i) ] by the images.

    The divergence couples the networks, but only through their maps or logits, which are small. So
    a first pass computes these without a graph, and then the derivative of the divergence by them.
    A second pass carries this derivative back through one network after the other. This is the
    exact gradient, and autograd never holds more than one network's graph of one piece of the
    images.

    Args:
        networks: M, frozen, in evaluation mode.
        images: ``[n, C, H, W]``; labels: ``[n]``.
        ce, kl: weights; a part with weight 0 costs no pass.
        temperature: of the softmax over positions, or classes.
        grid: rows and columns of the common grid.
        piece: images in one pass.
        compare: ``maps`` or ``logits``, from which p is computed.
        rectify: of maps, see :mod:`dd.networks.activation_maps`.
        confidence: of maps, see :func:`dd.networks.activation_maps.confident`.

    Raises:
        DDError: if maps are compared and ``kl`` is not 0: for a network without a map, or whose
            map has only one position.

    Returns:
        ``[n, C, H, W]`` and the metrics of :meth:`ArchitectureInvariance.gradient`.
    """
    cotangents: Sequence[torch.Tensor | None] = [None] * len(networks)
    means: dict[str, torch.Tensor] = {}
    if kl:
        logits, maps = _first_pass(networks, images, labels, grid, rectify, piece, compare)
        compared = logits if compare == LOGITS else maps
        assert compared is not None  # if maps are compared, there are maps
        compared.requires_grad_()
        rows = compared[:, :, None] if compare == LOGITS else cam.confident(compared, confidence)
        apart = cam.divergence(cam.distributions(rows, temperature))
        (slopes,) = torch.autograd.grad(kl * apart.sum(), compared)
        cotangents = slopes.unbind()
        means["ai_kl"] = apart.detach().mean()
        if maps is not None:
            means["cam_variance"] = cam.variance(maps.detach()).mean()
    total, entropy = torch.zeros_like(images), images.new_zeros(())
    for network, cotangent in zip(networks, cotangents, strict=True):
        for start in range(0, len(images), piece):
            part = slice(start, start + piece)
            back = None if cotangent is None else cotangent[part]
            gradient, value = _pull_back(network, images[part], labels[part], ce, back, rectify)
            total[part] += gradient
            entropy += value
    # one look at all values
    value, *others = torch.stack([entropy, *means.values()]).tolist()
    metrics = dict(zip(means, others, strict=True))
    return total, {"ai_ce": value / (len(networks) * len(images)), **metrics}


@torch.no_grad()
def _first_pass(
    networks: Sequence[Network],
    images: torch.Tensor,
    labels: torch.Tensor,
    grid: tuple[int, int],
    rectify: str,
    piece: int,
    compare: str,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Logits ``[M, n, classes]`` and normalised maps ``[M, n, *grid]``; the maps are None if only
    logits are compared and a network has no map."""
    if compare == MAPS or all(map(cam.has_map, networks)):
        return cam.outputs(networks, images, labels, grid, rectify, piece)
    logits = [torch.cat([network(x) for x in images.split(piece)]) for network in networks]
    return torch.stack(logits), None


def _pull_back(
    network: Network,
    images: torch.Tensor,
    labels: torch.Tensor,
    ce: float,
    cotangent: torch.Tensor | None,
    rectify: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient by ``images [b, C, H, W]`` of ce ΣCE + ⟨cotangent, output⟩, and ΣCE (detached).

    Args:
        cotangent: derivative of the divergence by the output that is compared: logits
            ``[b, classes]``, or maps on the grid ``[b, h, w]``. None: nothing is compared.
        rectify: as in :func:`invariance`.
    """
    leaf = images.detach().requires_grad_()
    if cotangent is None or cotangent.ndim == 2:
        logits = network(leaf)
        follows = leaf.new_zeros(()) if cotangent is None else (logits * cotangent).sum()
    else:
        logits, raw = cam.activation_maps(network, leaf, labels, rectify)
        if raw[0].numel() == 1:
            raise DDError(
                f"metadd: {type(network).__name__} sees images of {leaf.shape[-2]} x "
                f"{leaf.shape[-1]} in one position, so its activation map tells nothing; leave it "
                "out of auxiliary, or set lambda_kl to 0"
            )
        rows, columns = cotangent.shape[-2:]
        maps = cam.normalised(cam.resized(raw, (rows, columns)))
        follows = (maps * cotangent).sum()
    entropy = F.cross_entropy(logits, labels, reduction="sum")
    (gradient,) = torch.autograd.grad(ce * entropy + follows if ce else follows, leaf)
    return gradient, entropy.detach()
