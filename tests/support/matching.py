"""Small buffers, and objectives that match them."""

from __future__ import annotations

import torch

from dd.command import main
from dd.config import recipes
from dd.config.settings import build
from dd.distill.objectives import OBJECTIVES
from dd.distill.objectives.base import Streams
from dd.networks.source import SingleSource
from dd.pretrain.agreement import agreement
from dd.pretrain.trajectories import Trajectories
from dd.rng import generator

SPEC, PARAMETERS = "convnet:depth=2,width=8", 1026
LEARNED = ("raw", "normalised", "layer")
FAST = {"lr_weights": 100.0, "lr_softmax": 1.0, "lr_layer": 1.0}
SMALL = {
    "experts": 2, "student_steps": 4, "expert_epochs": 1, "max_start_epoch": 3, "lr_student": 0.05,
    "lr_img": 1.0, "lr_lr": 1e-4,
}  # fmt: skip


def made(data, path, network=SPEC, **changes):
    """A buffer of two experts."""
    options = {"experts": 2, "epochs": 3, "lr": 0.05, "batch": 128} | changes
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    where = ["--data", str(data), "--out", str(path), "--network", network]
    assert main(["buffer", *where, *words, "--device", "cpu", "--threads", "1"]) == 0
    return path


def make(name, dataset, shard, ipc=1, **changes):
    """The objective ``name`` with small settings."""
    chosen = OBJECTIVES[name]
    values = recipes.resolve(name, dataset.name, ipc, SMALL | changes)
    parts = ("host", "network", "start", "regulariser")
    streams = Streams(3, *(generator(3, part) for part in parts))
    source = SingleSource(SPEC, dataset.channels, dataset.size, len(dataset.classes))
    trajectories = Trajectories([shard], agreement(dataset, 1.0), torch.device("cpu"))
    settings = build(chosen.Settings, values, name)
    return chosen(settings, dataset, ipc, source, streams, trajectories)
