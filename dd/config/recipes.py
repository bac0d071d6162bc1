"""Hyperparameters of every objective, by dataset and images per class (``recipes.yaml``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dd import plugins
from dd.config import plugin_files
from dd.config.documents import read_yaml
from dd.config.settings import Type, as_type, type_by
from dd.errors import DDError, unknown
from dd.plugins import Catalogue, Entry

RECIPES = Path(__file__).with_name("recipes.yaml")
SECTIONS = ("ipc", "dataset", "objective", "network")
PARTS = tuple(plugin_files.PARTS.values())  # `own` and `fallback` are about them
ASKED_OF_WEIGHTS = "least_accuracy"  # the setting of `pretrain` that given weights have, too
ANY = "any"  # in `own` and `fallback`: every dataset
_SECTIONS_OF = {
    "buffer": ("dataset",),
    "generator": ("dataset",),
    "relabel": ("dataset",),
    "pretrain": ("network", "dataset"),
    "evaluation": ("ipc", "network", "objective", "dataset"),
}


@dataclass(frozen=True)
class Fallback:
    """Which settings are used in place of those that a recipe does not have.

    Attributes:
        takes: a description of these settings ("those for CIFAR-10").
        of_ipc: whether they are the dataset's own settings, chosen for another IPC.
    """

    takes: str
    of_ipc: bool = False

    def said(self, name: str, where: str) -> str:
        """A message for a person who starts a stage by hand.

        Args:
            name: the recipe.
            where: the dataset, or the dataset and the IPC.
        """
        return (
            f"{name} has no settings of its own for {where}; unless an option sets them, it takes "
            f"{self.takes}"
        )


def joined(words: Sequence[str]) -> str:
    """``words`` as a list in a sentence: a, b and c."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


@cache
def load_recipes() -> dict[str, Any]:
    """The content of ``recipes.yaml``: one block per objective, part or stage.

    Raises:
        DDError: if a block has settings by dataset but does not say for which datasets they were
            chosen.
    """
    written = read_yaml(RECIPES)
    blocks = {name: _with_evaluation(block, written) for name, block in written.items()}
    for name, block in blocks.items():
        _check_own(f"{RECIPES.name}: {name}", block)
    return blocks


def recipe(name: str) -> Mapping[str, Any]:
    """The block of recipes called ``name``, of this suite or of a plug-in.

    Raises:
        DDError: for an unknown name, one that two have, or a block that a plug-in gets wrong.
    """
    own = load_recipes()
    entry = plugin(name)
    if entry is not None:
        return _of_plugin(entry)
    if name not in own:
        known = plugins.catalogue()
        raise unknown(
            "recipe", name, [*own, *(n for k in plugin_files.PARTS for n in known.names(k))]
        )
    return own[name]


def plugin(name: str) -> Entry | None:
    """The objective, parametrisation or regulariser of a plug-in called ``name``, if there is one;
    it then counts as used."""
    return plugins.find(name, plugin_files.PARTS, (*load_recipes(), "evaluation"))


def type_in(name: str, value: Any) -> Type:
    """The type of a setting that has ``value`` in the block ``name``. A plug-in may write a whole
    number where its class, which is not known here, takes any."""
    return type_by(value) if plugin(name) else type(value)


@cache
def _of_plugin(entry: Entry) -> Mapping[str, Any]:
    """The block of a plug-in's file, checked."""
    own = load_recipes()
    block, part = plugin_files.described(entry), plugin_files.PARTS[entry.kind]
    wanted = (part, "evaluation") if entry.kind == "objective" else (part,)
    for key in wanted:
        if key not in block:
            raise DDError(f"{entry}: its recipe has no '{key}'")
    try:
        block = _with_evaluation(block, own)
    except DDError as error:
        raise DDError(f"{entry}: {error}") from None
    if entry.kind == "objective":
        known, given = (merged(of["evaluation"], "") for of in (own["dc"], block))
        for key in known.keys() | given.keys():
            if key not in given:
                raise DDError(f"{entry}: its recipe has no '{key}' in evaluation")
            if key not in known:
                raise DDError(f"{entry}: {unknown('setting of evaluation', key, known)}")
            as_type(f"{entry}: evaluation setting '{key}'", given[key], type(known[key]))
        settings = merged(block["distillation"], "")
        if "steps" in block and block["steps"] not in settings:
            raise DDError(f"{entry}: steps: {unknown('setting', block['steps'], settings)}")
    _check_own(str(entry), block)
    return block


def settings_of_plugins(kind: str) -> Iterator[tuple[Entry, dict[str, Any]]]:
    """What plug-ins of a ``kind`` bring, with their general settings, for the help of a command.

    One that is broken is left out: this is said where it is used. None counts as used.
    """
    for entry in plugins.catalogue().entries:
        if entry.kind == kind:
            with suppress(DDError):
                yield entry, merged(_of_plugin(entry)[plugin_files.PARTS[kind]], "")


def _with_evaluation(block: Mapping[str, Any], own: Mapping[str, Any]) -> Mapping[str, Any]:
    """``block``; if its ``evaluation`` is the name of one of the ``own``, with that one's."""
    named = block.get("evaluation")
    if not isinstance(named, str):
        return block
    given = {name: other.get("evaluation") for name, other in own.items()}
    having = [name for name, settings in given.items() if isinstance(settings, Mapping)]
    if named not in having:
        raise unknown("objective in evaluation", named, having)
    return {**block, "evaluation": given[named]}


def fallback(name: str, dataset: str, ipc: int) -> Fallback | None:
    """The settings that ``name`` takes for ``dataset`` at ``ipc`` if it has none of its own.

    Overrides of a run make no difference: settings that a run does not override still come from
    there.

    Args:
        name: an objective, parametrisation or regulariser, or ``relabel``.
        dataset: the dataset's name.
        ipc: images per class.

    Returns:
        None if the settings were chosen for this dataset and IPC, or are the same for all.

    Raises:
        DDError: for an unknown name.
    """
    block = recipe(name)
    own = block.get("own", {ANY: []})
    chosen = own.get(dataset, own.get(ANY))
    if chosen is None:
        texts = block["fallback"]
        return Fallback(texts.get(dataset, texts[ANY]))
    if not chosen or ipc in chosen:
        return None
    smaller = [listed for listed in chosen if listed < ipc]
    taken = f"those for IPC {max(smaller)}" if smaller else "its general ones"
    return Fallback(taken, of_ipc=True)


def evaluation_fallback(objective: str, dataset: str, ipc: int) -> Fallback | None:
    """As :func:`fallback`, for the settings with which networks are trained on sets of
    ``objective``.

    The fallback is about the dataset only: whose settings another IPC takes is said where the set
    is distilled. None also if they do not differ by dataset, even if other settings of the recipe
    do.
    """
    taken = fallback(objective, dataset, ipc)
    differs = _by_dataset({"evaluation": recipe(objective)["evaluation"]})
    return taken if differs and taken and not taken.of_ipc else None


def objectives() -> tuple[str, ...]:
    """The names of all objectives that have a recipe."""
    return _having("distillation")


def evaluated() -> tuple[str, ...]:
    """The names of all objectives on whose sets networks are trained, also ``full``."""
    return _having("evaluation")


@cache
def datasets() -> tuple[str, ...]:
    """The names of all datasets for which this suite has settings."""

    def named(block: Mapping[str, Any]) -> Iterator[str]:
        for key, inner in block.items():
            if isinstance(inner, Mapping):
                yield from inner if key in ("dataset", "own") else ()
                yield from named(inner)

    return tuple(sorted({*named(load_recipes())} - {ANY}))


def parametrisations() -> tuple[str, ...]:
    """The names of all parametrisations except pixels."""
    return _having("parametrisation")


def regularisers() -> tuple[str, ...]:
    """The names of all regularisers."""
    return _having("regularisation")


def uses_pretrained(objective: str) -> bool:
    """Whether ``objective`` uses trained, frozen networks instead of new ones."""
    return recipe(objective).get("networks") == "pretrained"


def learns_targets(objective: str) -> bool:
    """Whether labels that ``objective`` learns are targets of a regression, no probabilities."""
    return recipe(objective).get("labels") == "targets"


def epochs_of_steps(objective: str) -> str | None:
    """The setting of ``objective`` that says how often networks see the whole set in the steps
    that the set says; None if its sets say no steps."""
    return recipe(objective).get("steps")


def uses_generator(parametrisation: str) -> bool:
    """Whether ``parametrisation`` decodes the latents of a generator."""
    return recipe(parametrisation).get("generator") == "trained"


def _having(part: str) -> tuple[str, ...]:
    return _names(part, plugins.catalogue())


@cache  # a plan asks for names and settings hundreds of thousands of times
def _names(part: str, known: Catalogue) -> tuple[str, ...]:
    of_plugins = {
        name
        for kind, its_part in plugin_files.PARTS.items()
        if part == its_part or (kind == "objective" and part == "evaluation")
        for name in known.names(kind)
    }
    own = {name for name, block in load_recipes().items() if part in block}
    return tuple(sorted(own | of_plugins))


def resolve(
    objective: str, dataset: str, ipc: int, overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The distillation settings of ``objective``.

    Args:
        objective: ``dc``, ``dsa``, ``dm``, ``random``, ``herding``, ``kcenter``, ...
        dataset: the dataset's name; a dataset without an entry takes the general settings.
        ipc: images per class.
        overrides: settings that override the recipe.

    Raises:
        DDError: for an unknown objective, an unknown setting or a value of another type.
    """
    return _resolve(objective, "distillation", dataset, ipc, overrides or {})


def resolve_evaluation(
    objective: str,
    dataset: str,
    ipc: int,
    overrides: Mapping[str, Any] | None = None,
    network: str = "",
) -> dict[str, Any]:
    """The settings with which ``network`` is trained on a set that ``objective`` made.

    Without ``network``: those of a network that no section names. For the other arguments see
    :func:`resolve`.
    """
    return _resolve(objective, "evaluation", dataset, ipc, overrides or {}, network=network)


def resolve_training(
    stage: str, dataset: str, overrides: Mapping[str, Any] | None = None, network: str = ""
) -> dict[str, Any]:
    """The settings of a ``stage`` on ``dataset``, for ``network`` if it trains one.

    The stage is one that does not depend on the method: ``buffer``, ``pretrain``, ``generator`` or
    ``relabel``.
    """
    return _resolve(stage, "training", dataset, 1, overrides or {}, network=network)


def resolve_part(
    name: str,
    objective: str,
    dataset: str,
    ipc: int,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The settings of the parametrisation or regulariser ``name`` in a distillation."""
    kinds = ("parametrisation", "regularisation")
    kind = next((kind for kind in kinds if name in _having(kind)), kinds[0])
    return _resolve(name, kind, dataset, ipc, overrides or {}, objective=objective)


def check_overrides(name: str, dataset: str, ipc: int, overrides: Mapping[str, Any]) -> None:
    """Raise a :class:`DDError` if ``overrides`` do not fit the settings of the block ``name``.

    The name is that of an objective, a part or a stage, or ``evaluation``, which stands for the
    evaluation settings of all objectives.
    """
    if name == "evaluation":
        # plug-ins need not be asked: their objectives have the same settings of evaluation
        for objective, block in load_recipes().items():
            if "evaluation" in block:
                resolve_evaluation(objective, dataset, ipc, overrides)
    elif name in (*parametrisations(), *regularisers()):
        resolve_part(name, "", dataset, ipc, overrides)
    elif name in _having("training"):
        resolve_training(name, dataset, overrides)
    else:
        resolve(name, dataset, ipc, overrides)


def _resolve(
    name: str,
    part: str,
    dataset: str,
    ipc: int,
    overrides: Mapping[str, Any],
    objective: str = "",
    network: str = "",
) -> dict[str, Any]:
    known = _having(part)
    if name not in known:
        raise unknown("objective" if part in ("distillation", "evaluation") else part, name, known)
    plugin(name)  # counts it as used, though the settings may be kept from before
    settings = _recipe(name, part, dataset, ipc, objective, network, plugins.catalogue())
    for key, value in overrides.items():
        if key not in settings:
            raise unknown(f"{part} setting of {name}", key, settings)
        as_type(f"{part} setting '{key}' of {name}", value, type_in(name, settings[key]))
    return {**settings, **overrides}


@cache
def _recipe(
    name: str, part: str, dataset: str, ipc: int, objective: str, network: str, known: Catalogue
) -> Mapping[str, Any]:
    return merged(recipe(name)[part], dataset, ipc, objective, network)


def merged(
    block: Mapping[str, Any], dataset: str, ipc: int = 1, objective: str = "", network: str = ""
) -> dict[str, Any]:
    """The settings of a ``block``, refined by its sections that apply (see ``recipes.yaml``)."""
    sections = {name: block[name] for name in SECTIONS if isinstance(block.get(name), Mapping)}
    settings = {name: value for name, value in block.items() if name not in sections}
    by_ipc = {_whole(listed): refined for listed, refined in sections.get("ipc", {}).items()}
    fitting = [refined for listed, refined in sorted(by_ipc.items()) if listed <= ipc][-1:]
    fitting += _of_network(sections.get("network", {}), network)
    named = {"objective": objective, "dataset": dataset}
    fitting += [sections.get(section, {}).get(name, {}) for section, name in named.items()]
    for refined in filter(None, fitting):
        settings |= merged(refined, dataset, ipc, objective, network)
    return settings


def _of_network(section: Mapping[str, Any], network: str) -> list[Mapping[str, Any]]:
    """The entries of a ``section`` that apply to ``network``, the most specific one last.

    An entry names an architecture, or an architecture with options (``convnet:norm=batch``); then
    it applies to all networks that have these options.
    """

    def split(spec: str) -> tuple[str, set[str]]:
        name, _, options = spec.partition(":")
        return name, set(filter(None, options.split(",")))

    name, given = split(network)
    entries = [(split(listed), refined) for listed, refined in section.items()]
    fitting = [(len(o), refined) for (n, o), refined in entries if n == name and o <= given]
    return [refined for _, refined in sorted(fitting, key=lambda entry: entry[0])]


def check_sections(name: str, block: Mapping[str, Any]) -> None:
    """Raise a :class:`DDError` for a section that the block called ``name`` must not have."""
    parts = (*parametrisations(), *regularisers())
    methods = ("ipc", "objective", "dataset") if name in parts else ("ipc", "dataset")
    allowed: tuple[str, ...] = _SECTIONS_OF.get(name, methods)
    for section in SECTIONS:
        refined = block.get(section)
        if not isinstance(refined, Mapping):
            continue
        if section not in allowed:
            raise DDError(
                f"recipes of {name}: settings cannot differ by {section} there, only by "
                f"{' and '.join(allowed)}"
            )
        for inner in refined.values():
            check_sections(name, inner)


def _check_own(where: str, block: Mapping[str, Any]) -> None:
    """Raise a :class:`DDError` if a block of recipes would fall back without a message."""
    if any(part in block for part in PARTS) and "own" not in block and _by_dataset(block):
        raise DDError(
            f"{where}: its settings differ by dataset; say in 'own' for which they were chosen, "
            "and in 'fallback' whose settings the others take"
        )
    if ANY not in block.get("own", {ANY: []}) and ANY not in block.get("fallback", {}):
        raise DDError(f"{where}: 'fallback' must say under '{ANY}' whose settings others take")


def _by_dataset(block: Mapping[str, Any]) -> bool:
    """Whether settings in ``block`` differ by dataset.

    Augmentation does not count: it follows from whether the images of a dataset may be mirrored.
    """
    for section, inner in block.items():
        if not isinstance(inner, Mapping) or section in ("own", "fallback"):
            continue
        if section == "dataset" and any(set(refined) - {"augment"} for refined in inner.values()):
            return True
        if _by_dataset(inner):
            return True
    return False


def _whole(key: Any) -> int:
    """A key of an ``ipc`` section as a number (JSON writes it as text)."""
    if not str(key).isdecimal():
        raise DDError(f"a recipe's section ipc: '{key}' must be a number of images per class")
    return int(key)
