"""Randomness: independent streams derived from one seed, passed as arguments."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, *names: object) -> int:
    """A 63-bit seed for the stream called ``names`` under ``seed`` (the same on every machine)."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for the stream ``names``: streams never share draws, so adding a
    draw to one leaves the others as they were."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *names))
