"""Randomness: independent streams derived from one seed and passed as arguments.

Nothing reads or sets torch's global random state.
"""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, *names: object) -> int:
    """A 63-bit seed for the stream ``names`` of ``seed``, the same on every machine."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A new generator for the stream ``names``.

    Streams never share draws, so another draw in one stream does not change the others.
    """
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *names))
