"""Registries: each kind of extension (network, objective, data source, ...) has one, by name."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from dd import contracts, plugins
from dd.errors import DDError, unknown
from dd.plugins import Entry

T = TypeVar("T")


class Registry(Generic[T]):
    """A mapping from names to objects, filled by a decorator, and by plug-ins.

    A plug-in's object is imported when it is looked up. Iteration gives the objects that are here
    already; :meth:`names` has the others, too.

    >>> networks = Registry("network of a test")
    >>> @networks.register("mlp")
    ... def mlp(): ...
    >>> networks["mpl"]
    Traceback (most recent call last):
    dd.errors.DDError: unknown network of a test 'mpl': did you mean 'mlp'? known are mlp

    Args:
        what: what the objects are; plug-ins may bring those of :data:`dd.plugins.KINDS`.
        base: the class that each object must derive from, as text for :func:`resolve`; "": any
            callable.
    """

    def __init__(self, what: str, base: str = "") -> None:
        self.what, self.base = what, base
        self._items: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that registers an object under ``name``; each name may be used only once."""
        if name in self._items:
            raise ValueError(f"{self.what} '{name}' is registered twice")

        def enter(item: T) -> T:
            self._items[name] = item
            return item

        return enter

    def __getitem__(self, name: str) -> T:
        item = self._items.get(name)
        entry = plugins.find(name, (self.what,), [name] if _of_suite(item) else [])
        if entry is not None:
            return self._plugged(entry)
        if item is None:
            raise unknown(self.what, name, self.names())
        return item

    def _plugged(self, entry: Entry) -> T:
        """The object of a plug-in.

        Raises:
            DDError: if the import fails, or it is not what it should be.
        """
        item = self._items.get(entry.name)
        if item is None:
            item = entry.load()
            item = self._items.get(entry.name, item)  # the module may use the decorator
        if item is None:
            raise DDError(f"{entry}: {entry.module} registers no {self.what} of this name")
        if self.base:
            base = resolve(self.base)
            if not (isinstance(item, type) and issubclass(item, base)):
                raise DDError(
                    f"{entry}: {entry.attribute or entry.module} is no class derived from "
                    f"{base.__module__}.{base.__name__}"
                )
            if fault := contracts.misfit(item, base):
                raise DDError(f"{entry}: {fault}")
            if fault := resolve("dd.config.settings:fault")(getattr(item, "Settings", None)):
                raise DDError(f"{entry}: its Settings {fault}")
        elif not callable(item):
            raise DDError(f"{entry}: {entry.attribute} is neither a class nor a function")
        self._items[entry.name] = item
        return item

    def names(self) -> list[str]:
        """All names, also those of plug-ins that are not imported, sorted."""
        return sorted({*self._items, *plugins.catalogue().names(self.what)})

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._items))

    def __len__(self) -> int:
        return len(self._items)


def _of_suite(item: Any) -> bool:
    """Whether an object of a registry is of this package."""
    made = getattr(item, "func", item)  # of a partial function
    return (getattr(made, "__module__", None) or "").partition(".")[0] == __name__.partition(".")[0]


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
