"""Objectives as the tests make them."""

import torch

from dd.config import recipes
from dd.config.settings import build
from dd.distill.objectives import OBJECTIVES
from dd.distill.objectives.base import Streams
from dd.distill.parametrisations import Labelled, Pixels
from dd.networks.build import create
from dd.networks.options import canonical
from dd.networks.source import SingleSource
from dd.pretrain.agreement import agreement
from dd.pretrain.trajectories import Trajectories
from dd.rng import generator

SPEC = "convnet:width=8,depth=2"
NORMED = f"{SPEC},norm=batch"


def make(name, dataset, ipc=1, spec=SPEC, shards=(), **changes):
    """The objective ``name`` on ``dataset`` and the streams it draws from."""
    chosen = OBJECTIVES[name]
    values = recipes.resolve(name, dataset.name, ipc, changes)
    parts = ("host", "network", "start", "regulariser")
    streams = Streams(3, *(generator(3, part) for part in parts))
    shape = (dataset.channels, dataset.size, len(dataset.classes))
    trained = None
    if chosen.needs_pretrained:
        network = create(spec, *shape, generator=generator(3, "trained"))
        trained = {canonical(spec): network.eval().requires_grad_(False)}
    source = SingleSource(spec, *shape, trained=trained)
    trajectories = Trajectories(shards, agreement(dataset, 1.0), "cpu") if shards else None
    settings = build(chosen.Settings, values, name)
    return chosen(settings, dataset, ipc, source, streams, trajectories)


def canvas(objective, lr=0.1, momentum=0.5):
    """The images of ``objective`` as pixels, with an optimiser; its labels, if they are learned."""

    def optimise(groups):
        return torch.optim.SGD(groups, momentum=momentum)

    pixels = Pixels(objective.start(), objective.labels(), lr, optimise)
    learned = objective.learned_labels()
    return Labelled(pixels, learned, optimise) if learned else pixels
