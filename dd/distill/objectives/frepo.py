"""FRePo: a ridge regression on features of the synthetic set should predict real images."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dd.artifacts.checkpoint import under
from dd.config.settings import setting
from dd.data import augment
from dd.distill import ridge
from dd.distill.gradients import CHUNK
from dd.distill.objectives.base import (
    OBJECTIVES,
    NetworkSettings,
    Objective,
    OptimisingSettings,
)
from dd.distill.parametrisations.base import Parametrisation
from dd.distill.parametrisations.labels import LearnedLabels, check_learnable
from dd.errors import DDError, Divergence
from dd.networks.base import Network
from dd.networks.memory import embedding_bytes, piece_of
from dd.runtime import precision
from dd.runtime.memory import Fitting
from dd.runtime.say import say
from dd.training.ensemble import Single
from dd.training.lamb import Lamb
from dd.training.optimizers import Adam
from dd.training.recipe import half_cosine
from dd.training.regression import centred, scaled, squared_error
from dd.training.state import load_optimizer_state, optimizer_state
from dd.training.train import train_step

FLOOR = 0.1  # the last learning rate of images and labels, relative to the first
RECORDED = 0.9  # weight of the newest batch in running statistics of batch norm
ILL = 1e10  # condition above which fewer than six digits of float64 are left
_LESS = "a smaller --lr-img, --lr-label or --lr-net, or a larger --ridge"


@dataclass(frozen=True)
class Settings(OptimisingSettings, NetworkSettings):
    """Settings of feature regression (the public code's names in brackets)."""

    batch_real: int = setting("real images per iteration, of any class", at_least=1)
    online: int = setting(
        "networks that are trained on the set at a time, of which an iteration uses one "
        "[num_nn_state]",
        at_least=1,
        at_most=10_000,
    )
    online_steps: int = setting(
        "steps of such a network until a new one takes its place [max_online_updates, T]",
        at_least=0,
        at_most=10_000_000,
    )
    lr_net: float = setting("learning rate of the online networks (Adam)", above=0)
    batch_train: int = setting("synthetic images per step of these networks", at_least=1)
    lr_label: float = setting("learning rate of the labels, 0: labels are fixed", at_least=0)
    lambda_label: float = setting(
        "weight of the margin between the two largest values of a label", at_least=0
    )
    ridge: float = setting(
        "ridge of the regression, relative to the mean diagonal of its kernel", above=0
    )
    mirror: str = setting(
        "whether the regression also sees the mirror images of the set [use_flip]",
        choices=("yes", "no"),
    )


class Online:
    """A network in training on the synthetic set.

    Attributes:
        spec: its canonical name. network: the module.
        steps: the steps that it has taken, or counts as having taken.
    """

    def __init__(self, spec: str, network: Network, lr: float, steps: int) -> None:
        self.spec, self.network, self.steps = spec, network, steps
        for layer in network.modules():
            if isinstance(layer, _BatchNorm):
                layer.momentum = RECORDED
        self.ensemble = Single([network])
        self.optimizer = Adam(network.parameters(), lr=lr)


@OBJECTIVES.register("frepo")
class FeatureRegression(Objective):
    """FRePo (Zhou, Nezhadarya, Ba 2022, arXiv:2206.00719, Algorithm 1).

    ``online`` networks are trained on the synthetic set, each for up to ``online_steps`` steps;
    then a new one takes its place. Each iteration draws one of them, predicts a batch of real
    images by ridge regression from its features of the synthetic images (:mod:`dd.distill.ridge`),
    and moves images and labels by LAMB down the squared error, plus ``lambda_label`` times
    :func:`dd.distill.ridge.margin_loss` of the labels. Then this network takes one step on the set.

    Labels are learned, and are targets of a regression, no probabilities. With ``lr_label`` 0 they
    stay classes, whose targets are those at the start.

    Images go through the network in pieces, so memory does not grow with their number, except for
    their features. The networks are in evaluation mode, so a batch norm does not couple images.
    """

    Settings = Settings

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        if self.settings.lr_label:
            check_learnable(self.classes)
        self.slots: list[Online] = []
        self.real = Fitting(CHUNK, "real images")  # in a pass
        self.synthetic: dict[str, Fitting] = {}  # images in a pass with a gradient, by network
        self.named: set[str] = set()  # networks whose kernel was said to be badly conditioned

    def optimizer(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        return Lamb(groups)

    def learned_labels(self) -> LearnedLabels | None:
        s = self.settings
        if not s.lr_label:
            return None
        return LearnedLabels(scaled(self.labels(), self.classes), "targets", s.lr_label)

    def iteration(self, number: int, synthetic: Parametrisation) -> dict[str, float | str]:
        s, host = self.settings, self.streams.host
        if not self.slots:
            apart = s.online_steps // s.online  # so that they are not replaced all at once
            self.slots = [self._new(number, k * apart) for k in range(s.online)]
        chosen = int(torch.randint(s.online, (), generator=host))
        slot = self.slots[chosen]
        order = torch.randperm(len(self.dataset.train), generator=host)
        # of the images of the step that the network takes afterwards
        few = torch.randperm(self.classes * self.ipc, generator=host)[: s.batch_train]
        _, (real, few) = augment.moved([], self.device, order[: s.batch_real], few)
        found, gradient, by_labels = self._fitted(slot, synthetic, real)
        looked = [found.loss, found.condition, found.positive, gradient.isfinite().all()]
        margin = ridge.margin_loss(synthetic.labels) if s.lr_label else found.loss * 0
        # one look at all values
        loss, condition, positive, sound, margin = torch.stack(
            [value.detach().to(found.loss) for value in (*looked, margin)]
        ).tolist()
        if not positive:
            raise Divergence(
                f"the kernel of {slot.spec} is not positive definite: features of the set are too "
                f"much alike, 0, or not finite; try {_LESS} (now {s.ridge:g})"
            )
        if not (math.isfinite(loss) and sound):
            raise Divergence(f"the loss is {loss}, or its gradient infinite; try {_LESS}")
        if condition > ILL and slot.spec not in self.named:
            self.named.add(slot.spec)
            say(
                f"distill: the kernel of {slot.spec} has a condition of {condition:.0e} with "
                f"--ridge {s.ridge:g}; the regression amplifies rounding of features as much"
            )
        factor = half_cosine(number - 1, s.iterations, FLOOR)
        synthetic.update(gradient, factor)
        if by_labels is not None:
            synthetic.update_labels(by_labels, factor)
        if slot.steps > s.online_steps:
            self.slots[chosen] = self._new(number, 0)
        else:
            self._train(slot, synthetic, few)
        values: dict[str, float | str] = {"loss": loss, "network": slot.spec}
        if s.lr_label:
            values["label_margin"] = -margin
        return values | {"condition": condition}

    def _new(self, number: int, steps: int) -> Online:
        """A network that counts as having taken ``steps`` steps."""
        spec, network = self.networks.draw(number - 1, self.streams.network)
        # the source uses its module again at the next draw
        return Online(spec, copy.deepcopy(network), self.settings.lr_net, steps)

    def _targets(self, synthetic: Parametrisation) -> Tensor:
        """The targets of the synthetic images, ``[M, K]``."""
        if self.settings.lr_label:
            return synthetic.labels
        return scaled(synthetic.labels, self.classes)

    def _fitted(
        self, slot: Online, synthetic: Parametrisation, real: Tensor
    ) -> tuple[ridge.Fit, Tensor, Tensor | None]:
        """The regression, and the derivatives of the loss by images and by learned labels."""
        s, split = self.settings, self.dataset.train
        network = slot.network.eval()
        images, targets = synthetic.images(), self._targets(synthetic)
        mirrored = s.mirror == "yes"
        seen = torch.cat([images, images.flip(-1)]) if mirrored else images
        goals = torch.cat([targets, targets]) if mirrored else targets

        @torch.no_grad()
        def embedded(part: Tensor) -> Tensor:
            return precision.forward(network.embed, split.take(part).to(images.dtype))

        known = torch.cat([features for _, features in self.real.pieces(real, embedded)])
        wanted = centred(split.labels[real], self.classes)

        def work(size: int) -> tuple[ridge.Fit, Tensor]:
            with torch.no_grad():
                features = torch.cat([network.embed(part) for part in seen.split(size)])
            found = ridge.fit(features, goals, known, wanted, s.ridge)
            slopes = found.features.to(seen)
            gradient = torch.empty_like(seen)
            for start in range(0, len(seen), size):
                part = slice(start, start + size)
                leaf = seen[part].detach().requires_grad_(True)
                (gradient[part],) = torch.autograd.grad(network.embed(leaf), leaf, slopes[part])
            return found, gradient

        if slot.spec not in self.synthetic:
            each = embedding_bytes(network, self.dataset.train.shape)
            self.synthetic[slot.spec] = Fitting(piece_of(each, self.device), "synthetic images")
        (found, gradient), _ = self.synthetic[slot.spec].once(work, len(seen))
        by_goals, count = found.targets, len(images)
        if mirrored:
            gradient = gradient[:count] + gradient[count:].flip(-1)
            by_goals = by_goals[:count] + by_goals[count:]
        if not s.lr_label:
            return found, gradient, None
        labels = targets.detach().requires_grad_(True)
        (by_margin,) = torch.autograd.grad(ridge.margin_loss(labels), labels)
        return found, gradient, by_goals.to(targets) + s.lambda_label * by_margin

    def _train(self, slot: Online, synthetic: Parametrisation, few: Tensor) -> None:
        """One step of Adam on the images at ``few``, down the squared error of their targets."""
        slot.network.train()
        images, targets = synthetic.images()[few], self._targets(synthetic)[few]

        def loss(logits: Tensor, part: slice) -> Tensor:
            return squared_error(logits[0], targets[part])[None]

        train_step(slot.ensemble, slot.optimizer, images[None], loss)
        slot.steps += 1

    def state(self) -> dict[str, Tensor]:
        specs = self.networks.specs()
        if not self.slots:
            return {}
        tensors = {
            "online.steps": torch.tensor([slot.steps for slot in self.slots]),
            "online.specs": torch.tensor([specs.index(slot.spec) for slot in self.slots]),
        }
        for number, slot in enumerate(self.slots):
            tensors |= {f"online.{number}.net.{k}": v for k, v in _values(slot.network).items()}
            moments = optimizer_state(slot.optimizer)
            tensors |= {f"online.{number}.{name}": value for name, value in moments.items()}
        return tensors

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.slots = []
        specs = self.networks.specs()
        steps, chosen = state["online.steps"].tolist(), state["online.specs"].tolist()
        if len(steps) != self.settings.online or not all(0 <= k < len(specs) for k in chosen):
            raise DDError("'online.specs' does not name the networks of this job")
        for number, (taken, k) in enumerate(zip(steps, chosen, strict=True)):
            network = copy.deepcopy(self.networks.skeleton(specs[k]))
            slot = Online(specs[k], network, self.settings.lr_net, taken)
            own = under(f"online.{number}.", state)
            slot.network.load_state_dict(under("net.", own))
            load_optimizer_state(slot.optimizer, own)
            self.slots.append(slot)


def _values(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name."""
    return {name: value.detach() for name, value in network.state_dict().items()}
