"""Generators, whose latents replace pixels (GLaD): the interface, our own, and others' weights."""

from dd.pretrain.generators.base import RATES, Generator
from dd.pretrain.generators.load import load_generator

__all__ = ["RATES", "Generator", "load_generator"]
