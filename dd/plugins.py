"""Plug-ins: objectives, parametrisations, regularisers, networks and protocols of other packages.

An installed package names them by entry points (group ``dd.objectives``, ...). A module that is
not installed is a plug-in by ``--plugin MODULE``; the names are then those of its YAML file.
Modules are imported only where something of them computes. What planning needs to know of a plug-in
is in its YAML file (:mod:`dd.config.plugin_files`), which is found here without an import.

What is known is a :class:`Catalogue`. It never changes, so results that depend on it can be cached
with it as key; :func:`add` puts a larger one in its place.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache, cached_property, reduce
from importlib import import_module, metadata
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dd.errors import DDError, is_out_of_memory

KINDS = ("objective", "parametrisation", "regulariser", "network", "protocol")
PACKAGE_FILE = "dd.yaml"  # of a package; a module m.py has m.yaml beside it
_KIND = {f"dd.{kind}s": kind for kind in KINDS}  # by group of entry points
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # it becomes part of specs and paths


@dataclass(frozen=True)
class Plugin:
    """A package or module that brings something.

    Attributes:
        name: of the distribution, or of the module if it is not installed.
        release: the version of the distribution; "" if it is not installed.
        modules: the top-level modules with what it brings.
        changing: whether its code may change while the release stays the same.
    """

    name: str
    release: str
    modules: tuple[str, ...]
    changing: bool

    @cached_property
    def version(self) -> str:
        """The release; if the code may change, also a digest of its ``.py`` and ``.yaml`` files."""
        digest = f"sha256:{_digest(self.modules)}" if self.changing else ""
        return "+".join(filter(None, (self.release, digest)))

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class Entry:
    """A thing that a plug-in brings, before anything is imported.

    Attributes:
        kind: one of :data:`KINDS`.
        name: its name in tables and on the command line.
        module: the module that has it.
        attribute: its class or function there; "": the module registers it by the decorator.
        plugin: the plug-in.
    """

    kind: str
    name: str
    module: str
    attribute: str
    plugin: Plugin

    def __str__(self) -> str:
        return f"{self.kind} '{self.name}' of plug-in {self.plugin}"

    def load(self) -> Any:
        """Import the module; return what ``attribute`` names there, None without it.

        Raises:
            DDError: if there is no such module or attribute, or the import fails in any way.
        """
        try:
            module = import_module(self.module)
            if not self.attribute:
                return None
            return reduce(getattr, self.attribute.split("."), module)
        except (Exception, SystemExit) as error:
            if is_out_of_memory(error):
                raise
            why = " ".join(f"{type(error).__name__}: {error}".split())
            raise DDError(f"{self}: {self.module} cannot be imported ({why})") from None


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Everything that plug-ins bring."""

    entries: tuple[Entry, ...]

    @cached_property
    def by_name(self) -> dict[str, list[Entry]]:
        """The entries of each name."""
        found: dict[str, list[Entry]] = {}
        for entry in self.entries:
            found.setdefault(entry.name, []).append(entry)
        return found

    def names(self, kind: str) -> list[str]:
        """The names of all entries of a ``kind``, sorted."""
        return sorted({entry.name for entry in self.entries if entry.kind == kind})


def catalogue() -> Catalogue:
    """What the plug-ins bring that are installed or were added."""
    return _added[-1] if _added else installed()


def add(entries: Iterable[Entry]) -> None:
    """Add the entries of a module that is not installed."""
    _added.append(Catalogue((*catalogue().entries, *entries)))


def added() -> list[str]:
    """The modules that were added: those of ``--plugin``, and of the run."""
    entries = catalogue().entries[len(installed().entries) :]
    return list(dict.fromkeys(entry.plugin.name for entry in entries))


def begin() -> None:
    """Forget modules that were added, and what was used: another command begins."""
    _added.clear()
    _used.clear()


def find(name: str, kinds: Collection[str], own: Collection[str]) -> Entry | None:
    """What is called ``name`` in a plug-in; None if no plug-in has it. It then counts as used.

    Args:
        name: the name.
        kinds: the kinds that share their names.
        own: the names of this suite, of these kinds.

    Raises:
        DDError: if the suite or another plug-in has this name, too, or it is no name for a path.
    """
    found = [entry for entry in catalogue().by_name.get(name, ()) if entry.kind in kinds]
    if not found:
        return None
    if len(found) > 1 or name in own:
        suite = [f"'{name}' of this suite"] if name in own else []
        raise DDError(
            f"one name for two things: {' and '.join([*suite, *map(str, found)])}; rename one, or "
            "do without its plug-in"
        )
    (entry,) = found
    if not _NAME.fullmatch(name):
        raise DDError(
            f"{entry}: a name has letters, digits, '_' and '-', and starts with a letter or digit"
        )
    _used.add(entry)
    return entry


def used() -> list[str]:
    """Name and version of each plug-in that this process has used, sorted."""
    return sorted({str(entry.plugin) for entry in _used})


def used_of(kind: str) -> list[Entry]:
    """The things of a ``kind`` that this process has used, sorted by name."""
    return sorted((entry for entry in _used if entry.kind == kind), key=lambda entry: entry.name)


def of_module(name: str) -> Plugin | None:
    """The plug-in that a module belongs to, if this process has used it."""
    top = name.partition(".")[0]
    return next((entry.plugin for entry in _used if top in entry.plugin.modules), None)


@cache
def installed() -> Catalogue:
    """What installed packages bring, from their metadata."""
    entries: list[Entry] = []
    seen = set()
    for one in metadata.distributions():
        try:
            points = [point for point in one.entry_points if point.group in _KIND]
            if not points or (name := one.metadata["Name"]) in seen:
                continue  # of two installations the first on the path counts, as for imports
            seen.add(name)
            entries += _entries(one, name, points)
        except (OSError, ValueError, TypeError, KeyError):  # damaged metadata of any package
            continue
    return Catalogue(tuple(entries))


def _entries(
    one: metadata.Distribution, name: str, points: Iterable[metadata.EntryPoint]
) -> list[Entry]:
    values = [(point, *_reference(point.value)) for point in points]
    tops = tuple(sorted({module.partition(".")[0] for _, module, _ in values}))
    origin = json.loads(one.read_text("direct_url.json") or "{}")
    editable = bool(origin.get("dir_info", {}).get("editable"))
    plugin = Plugin(name, one.version, tops, changing=editable)
    return [Entry(_KIND[p.group], p.name, module, path, plugin) for p, module, path in values]


def _reference(value: str) -> tuple[str, str]:
    """Module and attribute of ``MODULE:ATTRIBUTE [EXTRAS]``."""
    module, _, attribute = value.partition("[")[0].partition(":")
    return module.strip(), attribute.strip()


def locate(module: str) -> ModuleSpec | None:
    """Where a module is, without importing it or a package that holds it; None if nowhere."""
    top, *inner = module.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):  # ValueError: a module without a place, such as __main__
        return None
    for depth in range(len(inner)):
        if spec is None or spec.submodule_search_locations is None:
            return None
        # by its last name: a folder without __init__.py asks for its package among the imported
        spec = PathFinder.find_spec(inner[depth], [*spec.submodule_search_locations])
    return spec


def description(module: str) -> Path | None:
    """The YAML file of the plug-in that ``module`` belongs to; None if there is none.

    It is that of the module, or else of the nearest package that holds it: ``dd.yaml`` in a
    package, ``m.yaml`` beside a module ``m.py``.
    """
    parts = module.split(".")
    for depth in range(len(parts), 0, -1):
        spec = locate(".".join(parts[:depth]))
        places = [] if spec is None else own_descriptions(spec)
        for path in places:
            if path.is_file():
                return path
    return None


def own_descriptions(spec: ModuleSpec) -> list[Path]:
    """Where the YAML file of a module may be."""
    if spec.submodule_search_locations is not None:
        return [Path(folder, PACKAGE_FILE) for folder in spec.submodule_search_locations]
    return [Path(spec.origin).with_suffix(".yaml")] if spec.origin and spec.has_location else []


def _digest(modules: Iterable[str]) -> str:
    """16 hexadecimal digits of the SHA-256 of the ``.py`` and ``.yaml`` files of ``modules``."""
    total = hashlib.sha256()
    for module in modules:
        spec = locate(module)
        if spec is None:
            continue
        files = own_descriptions(spec)
        if spec.submodule_search_locations is None:
            files = [*files, *([Path(spec.origin)] if spec.origin else [])]
        else:
            inside = [path.parent.rglob("*") for path in files]
            files = [p for paths in inside for p in paths if p.suffix in (".py", ".yaml")]
        for path in sorted(filter(Path.is_file, files)):
            total.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()[:16]


def search_here() -> None:
    """Let modules of the current folder be found, as under ``python -m``: a process that another
    command started (``snakemake``) does not look there."""
    here = str(Path.cwd())
    if not {here, ""} & set(sys.path):
        sys.path.append(here)


_added: list[Catalogue] = []  # the last one counts
_used: set[Entry] = set()
