"""What a distillation and its input files must have in common: dataset, space, width, code."""

from __future__ import annotations

from typing import Any

from dd import __version__

# What a distillation and its buffers must agree on, with the name in messages.
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
