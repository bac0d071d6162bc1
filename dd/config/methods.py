"""Names of methods and of evaluation protocols, as written in tables and in paths.

A method is ``<objective>[@<setting>=<value>,...][+<modifier>[@<setting>=<value>,...]...]`` (``dc``,
``dc+pool-various``, ``iadd@weights=raw``, ``dm+glad+metadd@lambda_ce=0``); a protocol is
``<name>[@<option>=<value>,...]`` (``hard``, ``kd@temperature=0.5``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dd import plugins
from dd.config import plugin_files
from dd.config.recipes import (
    objectives,
    parametrisations,
    regularisers,
    resolve,
    resolve_part,
    type_in,
)
from dd.config.settings import Type, as_type, from_text, type_by
from dd.errors import DDError, unknown
from dd.plugins import Entry

HARD, SOFT, KD = "hard", "soft", "kd"  # the protocols that plan and tables treat specially
STEPS = "steps"  # networks take the steps that the set was made for
REGRESSION = "regression"  # networks learn targets
TAKING_STEPS: Mapping[str, Any] = {
    "optimizer": "sgd",
    "momentum": 0.0,
    "weight_decay": 0.0,
    "augment": "none",
    "schedule": "constant",
}
"""How networks take the steps of a set, as settings of training."""


@dataclass(frozen=True)
class Part:
    """A parametrisation or a regulariser, and its settings where they differ from the run's."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return _named(self.name, self.settings)


@dataclass(frozen=True)
class Method:
    """A method: an objective, and the choices that differ from the default.

    Attributes:
        objective: ``dc``, ``dm``, ...
        settings: the objective's settings that differ from the run's.
        pool: the model pool that networks are drawn from; None: only the objective's network.
        parametrisation: what is optimised; None: pixels.
        regulariser: an extra loss on the images; None: no such loss.
    """

    objective: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    pool: str | None = None
    parametrisation: Part | None = None
    regulariser: Part | None = None

    def __str__(self) -> str:
        parts = (self.pool, self.parametrisation, self.regulariser)
        return "+".join([_named(self.objective, self.settings), *(str(p) for p in parts if p)])

    @property
    def parts(self) -> list[Part]:
        """The parametrisation and the regulariser, as far as the method has them."""
        return [part for part in (self.parametrisation, self.regulariser) if part]


def parse(text: str, pools: Collection[str] = ()) -> Method:
    """The method called ``text``.

    Args:
        text: ``<objective>[@<setting>=<value>,...][+<modifier>...]``; a modifier is a pool, a
            parametrisation or a regulariser. The latter two may have settings of their own.
        pools: the names of all model pools.

    Raises:
        DDError: for what is no text, an unknown objective, setting or modifier, or two modifiers of
            the same kind.
    """
    if not isinstance(text, str):  # from the YAML of a table
        raise DDError(f"method {text!r} must be text, such as dc+pool")
    method, *modifiers = text.split("+")
    objective, _, tail = method.partition("@")
    if objective not in objectives():
        raise unknown("objective", objective, objectives())
    # names and types of settings do not depend on dataset and IPC, so any will do
    settings = _settings(tail, resolve(objective, "", 1), objective, text)
    kinds = {
        "pool": list(pools),
        "parametrisation": parametrisations(),
        "regulariser": regularisers(),
    }
    chosen: dict[str, Any] = {}
    for modifier in modifiers:
        name = modifier.partition("@")[0]
        having = [kind for kind, names in kinds.items() if name in names]
        if len(having) > 1:  # a pool is a file, the others may be a plug-in's
            raise DDError(f"method '{text}': {name} is a {' and a '.join(having)}; rename one")
        kind = having[0] if having else None
        if kind is None or (kind == "pool" and name != modifier):
            known = [name for names in kinds.values() for name in names]
            raise unknown(f"modifier of method '{text}'", name, known)
        if kind in chosen:
            what = "network source" if kind == "pool" else kind
            raise DDError(f"method '{text}': names more than one {what}, at most one is allowed")
        chosen[kind] = modifier if kind == "pool" else parse_part(modifier, objective)
    return Method(objective, settings, **chosen)


def parse_part(text: str, objective: str) -> Part:
    """The parametrisation or regulariser called ``text``, ``NAME[@KEY=VALUE,...]``.

    Raises:
        DDError: for an unknown name or setting.
    """
    name, _, tail = text.partition("@")
    return Part(name, _settings(tail, resolve_part(name, objective, "", 1), name, text))


def parse_arch_settings(text: str, known: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A network and its own settings, from ``ARCH@SETTING=VALUE,...``.

    Args:
        text: the text.
        known: all settings; their values give the types.

    Raises:
        DDError: if a setting is unknown or of another type, or if there is no setting.
    """
    arch, _, tail = text.partition("@")
    if not tail:
        raise DDError(f"'{text}' must be ARCH@SETTING=VALUE,...")
    return arch, _settings(tail, known, "evaluation", text)


def _settings(tail: str, known: Mapping[str, Any], owner: str, text: str) -> dict[str, Any]:
    """The settings of ``owner`` after the ``@``, with the types of the ``known`` settings."""
    given = _assignments(tail, f"method '{text}'", known)
    for name, value in given.items():
        if name not in known:
            raise unknown(f"setting of {owner}", name, known)
        given[name] = _value(f"method '{text}': {name}", value, type_in(owner, known[name]))
    return given


def _named(name: str, settings: Mapping[str, Any]) -> str:
    """``NAME@KEY=VALUE,...`` with sorted keys; only ``name`` if there are no settings."""
    chosen = ",".join(f"{k}={format_value(v)}" for k, v in sorted(settings.items()))
    return f"{name}@{chosen}" if chosen else name


class Definitions(Mapping[str, Mapping[str, Any]]):
    """The definitions of protocols by name: those of the workflow, and of plug-ins.

    A plug-in defines each of its protocols, under the protocol's own name. A definition of the
    workflow may have this name, too, if it is of this protocol: then it counts.

    Args:
        own: those of the workflow (``workflow/config/protocols.yaml``).
    """

    def __init__(self, own: Mapping[str, Mapping[str, Any]]) -> None:
        self.own = own
        self._others = {name for name, options in own.items() if options["protocol"] != name}

    def __getitem__(self, name: str) -> Mapping[str, Any]:
        entry = protocol_of_plugin(name, self._others)
        if entry is None or name in self.own:
            return self.own[name]
        return plugin_files.options(entry) | {"protocol": name}

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self.own, *plugins.catalogue().names("protocol"))))

    def __len__(self) -> int:
        return sum(1 for _ in self)  # a list of them would ask for their number first


def protocol_of_plugin(name: str, own: Collection[str] = ()) -> Entry | None:
    """The protocol of a plug-in called ``name``, if there is one; it then counts as used.

    Raises:
        DDError: if it is the name of a protocol of this suite, or one of ``own``, too.
    """
    return plugins.find(name, ("protocol",), {HARD, SOFT, KD, STEPS, REGRESSION, *own})


def planned_as(protocol: str) -> str:
    """Which of :data:`HARD`, :data:`SOFT` and :data:`KD` a plan treats ``protocol`` as.

    Under :data:`SOFT` it makes the labels of the option ``teacher``; under :data:`KD` this teacher
    is one of the networks that the evaluation trains. (The suite's own ``kd`` trains it only if
    :func:`needs_teacher`.)
    """
    entry = protocol_of_plugin(protocol)
    return protocol if entry is None else plugin_files.like(entry)


def needs_teacher(temperature: float, alpha: float) -> bool:
    """Whether the teacher has any weight in the loss of the suite's protocol ``kd``."""
    return temperature > 0 and alpha > 0


@dataclass(frozen=True)
class Protocol:
    """An evaluation protocol: its canonical name and the options of ``python -m dd evaluate``."""

    name: str
    options: Mapping[str, Any]

    def __str__(self) -> str:
        return self.name


def parse_protocol(
    text: str, protocols: Mapping[str, Mapping[str, Any]], **overrides: Any
) -> Protocol:
    """The protocol called ``text``, with further ``overrides`` of its options.

    The canonical name lists, in alphabetical order, only the options that differ from the
    definition: ``kd@temperature=3`` becomes ``kd`` if ``kd`` has temperature 3 by definition.

    Args:
        text: ``<name>[@<option>=<value>,...]``.
        protocols: the definitions by name (``workflow/config/protocols.yaml``).

    Raises:
        DDError: for an unknown protocol or option, or a value of another type.
    """
    name, _, tail = text.partition("@")
    if name not in protocols:
        raise unknown("protocol", name, protocols)
    defaults = protocols[name]
    given = _assignments(tail, f"protocol '{text}'", defaults)
    options = dict(defaults)
    for option, value in (given | overrides).items():
        if option not in defaults:
            raise unknown(f"option of protocol '{name}'", option, defaults)
        # a definition such as `temperature: 3` allows any number, not only whole numbers
        expected = type_by(defaults[option])
        options[option] = _value(f"protocol '{text}': {option}", value, expected)
    changed = [
        f"{option}={format_value(options[option])}"
        for option in sorted(options)
        if options[option] != defaults[option]
    ]
    return Protocol("@".join(filter(None, (name, ",".join(changed)))), options)


def format_value(value: Any) -> str:
    """A value as written in paths and tables: 3.0 becomes ``3``."""
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _assignments(text: str, where: str, known: Collection[str]) -> dict[str, Any]:
    """``NAME=VALUE,...`` as a mapping.

    A value may consist of networks with options, as in ``auxiliary=convnet:depth=1,width=64.vit``.
    """
    given: dict[str, Any] = {}
    name = ""
    for part in filter(None, text.split(",")):
        word, equals, value = part.partition("=")
        if not equals:
            raise DDError(f"{where}: '{part}' must be NAME=VALUE")
        if word not in known and ":" in given.get(name, ""):  # a further option of the network
            given[name] += f",{part}"
        else:
            name = word
            given[name] = value
    return given


def _value(what: str, value: Any, kind: Type) -> Any:
    """``value``, the text in a name or a value from a document, converted to ``kind``.

    Raises:
        DDError: if it is of another type, or a text with characters that a path must not have.
    """
    value = from_text(what, value, kind) if isinstance(value, str) else as_type(what, value, kind)
    if isinstance(value, str) and (bad := re.search(r"[^A-Za-z0-9_.:,=+-]", value)):
        raise DDError(
            f"{what} is {value!r}: it becomes part of a path, which must not contain {bad[0]!r}"
        )
    return value
