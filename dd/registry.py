"""Names to things: every seam (network, objective, data source, ...) is a registry."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from dd.errors import unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """A mapping filled by decorator.

    >>> networks = Registry("network")
    >>> @networks.register("mlp")
    ... def mlp(): ...
    >>> networks["mpl"]
    Traceback (most recent call last):
    dd.errors.DDError: unknown network 'mpl': did you mean 'mlp'? known are mlp
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._items: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that enters what it decorates under ``name``; a name is given once."""
        if name in self._items:
            raise ValueError(f"{self.what} '{name}' is registered twice")

        def enter(item: T) -> T:
            self._items[name] = item
            return item

        return enter

    def __getitem__(self, name: str) -> T:
        if name not in self._items:
            raise unknown(self.what, name, self._items)
        return self._items[name]

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._items))

    def __len__(self) -> int:
        return len(self._items)


def resolve(reference: str) -> Any:
    """What a text such as ``dd.distill.objectives:OBJECTIVES[dc].Settings`` names.

    Raises:
        DDError: for a key that a registry in it does not have.
    """
    module, _, path = reference.partition(":")
    found: Any = importlib.import_module(module)
    for attribute, key in re.findall(r"(\w+)|\[([^\]]*)\]", path):
        found = getattr(found, attribute) if attribute else found[key]
    return found
