"""Figures of a plan."""

from pathlib import Path

import torch

from dd.networks.build import create
from dd.plan.exhibits import Exhibit, load_exhibit
from dd.plan.plan import Plan

FIGURES = Path("workflow/config/figures")


def convnet(width_factor: float) -> torch.nn.Module:
    return create("convnet", 1, (8, 8), 10, generator=None, width_factor=width_factor)


def exhibit_of(plan: Plan, name: str) -> Exhibit:
    return load_exhibit("figure", FIGURES / f"{name}.yaml", plan.run)
