"""Which class of a dataset a name means: that of a folder, or one in somebody's code."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dd.errors import DDError


def class_numbers(names: Sequence[str], classes: Sequence[str], dataset: str) -> Tensor | None:
    """The class of the dataset that each of ``names`` means.

    Case and signs do not count, and of ``T-shirt/top`` or ``0 - zero`` each part is a name: no
    folder can be called ``T-shirt/top``.

    Args:
        names: as many as there are ``classes``.
        classes: of the dataset, in its order; empty if they are not known.
        dataset: its name, for messages.

    Returns:
        ``[K]`` int64; None if no name is that of a class.

    Raises:
        DDError: if some names are, but not all, or two names are one class.
    """
    known = _known(classes)
    found = [classes.index(name) if name in classes else known.get(_plain(name)) for name in names]
    if all(number is None for number in found):
        return None
    lacking = [name for number, name in enumerate(classes) if number not in found]
    if lacking:
        strange = next(
            name
            for at, (name, number) in enumerate(zip(names, found, strict=True))
            if number is None or number in found[:at]
        )
        raise DDError(
            f"some of its classes are those of {dataset} by name, but '{strange}' is none, or one "
            f"that is there already, and '{lacking[0]}' is missing"
        )
    return torch.tensor(found)


def _known(classes: Sequence[str]) -> Mapping[str, int]:
    """The number of the class by each name that it may have and no other class has."""
    known: dict[str, int] = {}
    shared = set()
    for number, name in enumerate(classes):
        for word in {_plain(part) for part in (name, *re.split(r"/| - ", name))}:
            if known.setdefault(word, number) != number:
                shared.add(word)
    return {word: number for word, number in known.items() if word not in shared}


def _plain(name: str) -> str:
    """A name without case and signs; as it is, if it has only signs."""
    return re.sub(r"[\W_]+", "", name.casefold()) or name
