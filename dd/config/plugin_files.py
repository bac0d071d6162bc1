"""The YAML file of a plug-in: recipes, options of networks and protocols, without its code.

An installed plug-in says by entry points what it brings; a module that ``--plugin`` or a run names
says it by this file alone (docs/formats.md). Nothing of a plug-in is imported here. A file is read
when something of its plug-in is used, so one that is broken does not disturb other runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING
from functools import cache
from pathlib import Path
from typing import Any

from dd import plugins
from dd.config.documents import check, read_yaml
from dd.errors import DDError
from dd.plugins import Entry, Plugin

PARTS = {
    "objective": "distillation",
    "parametrisation": "parametrisation",
    "regulariser": "regularisation",
}
"""By kind of thing with a recipe, the part of a block of recipes that only such a thing has."""

RESERVED = {
    "objective": (
        *("adapter", "buffers", "checkpoint_every", "data", "device", "generator", "ipc"),
        *("memory", "objective", "out", "parametrisation", "plugin", "pool", "precision"),
        *("pretrained", "regulariser", "seed", "snapshots", "threads", "width_factor"),
    ),
    "protocol": (
        *("allow_test_images", "arch", "arch_settings", "data", "device", "diverged", "labels"),
        *("networks", "networks_of", "out", "plugin", "precision", "protocol", "seed"),
        *("synthetic", "threads", "together", "whitening", "width_factor"),
    ),
}
"""By kind, the options of its command that are no settings: none may have the name of a setting."""

_SCHEMA = Path(__file__).with_name("plugin.schema.yaml")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_SECTIONS = {"network": "networks", "protocol": "protocols"}  # by kind; all others: recipes


def use(modules: Iterable[str]) -> None:
    """Make ``modules`` plug-ins, unless they belong to an installed one.

    Raises:
        DDError: if there is no such module, or it has no file that says what it brings.
    """
    for module in modules:
        if not any(_in(entry.module, module) for entry in plugins.catalogue().entries):
            plugins.add(_entries(module))


def _in(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


def _entries(module: str) -> list[Entry]:
    if not _MODULE.fullmatch(module):
        raise DDError(f"plug-in {module!r}: is no name of a module; write it as after 'import'")
    plugins.search_here()
    if plugins.locate(module) is None:
        raise DDError(f"plug-in {module}: no such module; put it into this folder or on PYTHONPATH")
    plugin = Plugin(module, "", (module.partition(".")[0],), changing=True)
    document = _document(module, plugin)
    kinds = [
        (kind, name)
        for name, block in document.get("recipes", {}).items()
        for kind, part in PARTS.items()
        if part in block
    ]
    kinds += [(kind, name) for kind, key in _SECTIONS.items() for name in document.get(key, {})]
    if not kinds:
        raise DDError(f"plug-in {module}: {plugins.description(module)} names nothing that it has")
    return [Entry(kind, name, module, "", plugin) for kind, name in kinds]


def described(entry: Entry) -> Mapping[str, Any]:
    """What the file says of an entry: the block of a recipe, or the options of a network or
    protocol.

    Raises:
        DDError: if there is no file, it is broken, or it does not say this.
    """
    section = _SECTIONS.get(entry.kind, "recipes")
    found = _document(entry.module, entry.plugin).get(section, {})
    if entry.name not in found:
        where = plugins.description(entry.module)
        raise DDError(f"{entry}: is missing in {where}, under '{section}'")
    block = found[entry.name]
    settings = block.get("distillation", {}) if entry.kind == "objective" else block
    for name in settings:
        if name in RESERVED.get(entry.kind, ()):
            raise DDError(f"{entry}: its setting '{name}' has the name of an option of the command")
    return block


def source(entry: Entry) -> str:
    """Where the plug-in of an entry says that its methods were published; "" if nowhere."""
    return _document(entry.module, entry.plugin).get("source", "")


def like(entry: Entry) -> str:
    """Which protocol of the suite a plan treats one of a plug-in as: ``kd``, ``soft``, ``hard``."""
    return described(entry).get("like", "hard")


def options(entry: Entry) -> dict[str, Any]:
    """The options of a protocol with their defaults."""
    return {name: value for name, value in described(entry).items() if name != "like"}


def check_defaults(
    entry: Entry,
    of_file: Mapping[str, Any],
    of_class: Mapping[str, Any],
    takes: Callable[[str], bool] = lambda option: False,
) -> None:
    """Raise a :class:`DDError` if the class of an entry has other options than its file.

    A name without an option stands for the default, which a plan takes from the file and a command
    from the class. So two defaults would be two things of one name.

    Args:
        entry: a network or a protocol.
        of_file: the defaults in its file, by option.
        of_class: those of its class; ``MISSING``: it leaves the default to the file.
        takes: whether the class takes an option that it does not name.
    """
    for key, default in of_file.items():
        if key not in of_class:
            if takes(key):
                continue
            have = f"its options are {', '.join(of_class)}" if of_class else "it has no options"
            raise DDError(f"{entry}: '{key}' is an option in its file, not in its class; {have}")
        if of_class[key] not in (MISSING, default):
            raise DDError(
                f"{entry}: the default of '{key}' is {default} in its file, {of_class[key]} in its "
                "class"
            )
    for key, default in of_class.items():
        if key not in of_file and default is MISSING:
            raise DDError(f"{entry}: its class needs '{key}', which is no option in its file")


def _document(module: str, plugin: Plugin) -> Mapping[str, Any]:
    path = plugins.description(module)
    if path is None:
        spec = plugins.locate(module.partition(".")[0])
        if spec is None:
            raise DDError(f"plug-in {plugin}: no module '{module}'; install it again")
        places = " or ".join(map(str, plugins.own_descriptions(spec))) or plugins.PACKAGE_FILE
        raise DDError(
            f"plug-in {plugin}: needs a file {places} that says what it brings (docs/formats.md)"
        )
    try:
        return _read(path)
    except DDError as error:
        raise DDError(f"plug-in {plugin}: {error}") from None


@cache
def _read(path: Path) -> Mapping[str, Any]:
    document = read_yaml(path)
    check(document, read_yaml(_SCHEMA), path)
    return document
