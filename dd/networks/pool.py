"""A model pool: networks with probabilities, read from YAML (Model Pool, arXiv:2402.13007)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dd.config.documents import read_yaml
from dd.errors import DDError, unknown
from dd.networks.options import canonical

REQUIRED = ("title", "main", "probability", "others")
OPTIONAL = ("warmup", "source")


@dataclass(frozen=True)
class PoolDefinition:
    """Which networks a pool holds.

    Attributes:
        title: the pool's name in tables.
        main: canonical spec of the main model.
        probability: of drawing the main model.
        others: canonical specs and probabilities of the rest; the main model may be among them.
        warmup: iterations at the start with the main model alone.
        source: where the pool was published.
    """

    title: str
    main: str
    probability: float
    others: tuple[tuple[str, float], ...]
    warmup: int = 0
    source: str = ""

    def networks(self) -> list[tuple[str, float]]:
        """Each network once with its probability, the main model first; they sum to 1."""
        total = {self.main: self.probability}
        for spec, probability in self.others:
            total[spec] = total.get(spec, 0.0) + probability
        return list(total.items())


def load_pool(path: str | Path) -> PoolDefinition:
    """Read a pool.

    ``others`` is a list of specs (equal shares of what the main model leaves), a list of
    ``{network, probability}``, or ``{variants_of: NAME, option: value or [values]}``: every
    combination of the options' values with the same share.

    Raises:
        DDError: naming file and key, for a file or a key that is not as it should be.
    """
    document = read_yaml(path)
    try:
        return _pool(document)
    except DDError as error:
        raise DDError(f"{path}: {error}") from None


def _pool(document: Any) -> PoolDefinition:
    _check_keys("a pool", document, REQUIRED, OPTIONAL)
    probability = _probability("probability", document["probability"])
    others = _others(document["others"], 1 - probability)
    total = probability + sum(share for _, share in others)
    if not math.isclose(total, 1, abs_tol=1e-6):
        raise DDError(f"others: the probabilities sum to {total:g} with the main model's, not to 1")
    warmup = document.get("warmup", 0)
    if type(warmup) is not int or warmup < 0:
        raise DDError(f"warmup: is {warmup!r}, it must be a whole number of iterations from 0")
    return PoolDefinition(
        title=_text("title", document["title"]),
        main=_spec("main", document["main"]),
        probability=probability,
        others=tuple(others),
        warmup=warmup,
        source=_text("source", document.get("source", "")),
    )


def _others(value: Any, rest: float) -> list[tuple[str, float]]:
    """Specs and probabilities; ``rest`` is shared where none are given."""
    if isinstance(value, dict):
        specs = list(_variants(value))
    elif isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        specs = [_spec("others", entry) for entry in value]
    elif isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        keys = ("network", "probability")
        for index, entry in enumerate(value):
            _check_keys(f"others[{index}]", entry, keys)
        return [
            (
                _spec(f"others[{index}].network", entry["network"]),
                _probability(f"others[{index}].probability", entry["probability"]),
            )
            for index, entry in enumerate(value)
        ]
    else:
        raise DDError(
            "others: must be a list of networks, a list of {network, probability}, or a mapping "
            "with variants_of"
        )
    return [(spec, rest / len(specs)) for spec in specs]


def _variants(value: dict[str, Any]) -> Iterable[str]:
    """All combinations of a network's options, as canonical specs."""
    if "variants_of" not in value:
        raise DDError("others: variants_of is missing; name the network whose variants are meant")
    name = _spec("others.variants_of", value["variants_of"])
    joint = "," if ":" in name else ":"  # its own options come first
    axes = []
    for key, choices in value.items():
        if key == "variants_of":
            continue
        choices = choices if isinstance(choices, list) else [choices]
        if not choices:
            raise DDError(f"others.{key}: is empty, it must be a value or a list of values")
        for choice in choices:
            _spec(f"others.{key}", f"{name}{joint}{key}={choice}")
        axes.append([f"{key}={choice}" for choice in choices])
    for options in itertools.product(*axes):
        yield _spec("others", f"{name}{joint}{','.join(options)}" if options else name)


def _check_keys(
    what: str, value: Any, required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> None:
    if not isinstance(value, dict):
        raise DDError(f"{what} must be a mapping with the keys {', '.join(required)}")
    for key in value:
        if key not in required + optional:
            raise unknown(f"key of {what}", str(key), required + optional)
    for key in required:
        if key not in value:
            raise DDError(f"key '{key}' of {what} is missing")


def _spec(key: str, value: Any) -> str:
    text = _text(key, value)
    try:
        return canonical(text)
    except DDError as error:
        raise DDError(f"{key}: {error}") from None


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise DDError(f"{key}: is {value!r}, it must be text")
    return value


def _probability(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise DDError(f"{key}: is {value!r}, it must be a number from 0 to 1")
    return float(value)
