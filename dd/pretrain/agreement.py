"""What a distillation and what it reads must have in common, and what must be said of it.

It needs no torch: tables warn of weak networks, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dd import __version__

# What a distillation and its buffers must agree on, and how messages call it.
AGREE = {
    "version": "code version",
    "dataset": "dataset",
    "fingerprint": "contents of the dataset",
    "whitening": "whitening",
    "width_factor": "width factor",
}


def agreement(dataset: Any, width_factor: float) -> dict[str, Any]:
    """The facts of :data:`AGREE` for a dataset (:class:`dd.data.dataset.Dataset`) and width."""
    return {
        "version": __version__,
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint,
        "whitening": dataset.whitening,
        "width_factor": width_factor,
    }


def warning(header: Mapping[str, Any], dataset: str) -> str:
    """A phrase for tables about a network that is worse than the recipe of its ``dataset`` (the
    label) asks, or ""."""
    found, least = header["accuracy"], header["least_accuracy"]
    if found >= least:
        return ""
    return (
        f"{header['network']} reached {found:.1f} % on the test set of {dataset}, below the "
        f"{least:g} % asked there of a pretrained network"
    )
