"""Hyperparameters of every objective, by dataset and images per class (``recipes.yaml``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dd.config.documents import read_yaml
from dd.config.settings import as_type
from dd.errors import DDError, unknown

RECIPES = Path(__file__).with_name("recipes.yaml")
SECTIONS = ("ipc", "dataset", "objective", "network")
PARTS = ("distillation", "parametrisation", "regularisation")  # what `own` and `fallback` speak of
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
    """What stands in for settings that a recipe does not have.

    Attributes:
        takes: whose settings are taken, in words ("those for CIFAR-10").
        of_ipc: whether those of the dataset are, chosen for another IPC.
    """

    takes: str
    of_ipc: bool = False

    def said(self, name: str, where: str) -> str:
        """A line for one who starts a stage by hand: ``name`` on ``where``, dataset or also IPC."""
        return (
            f"{name} has no settings of its own for {where}; where no option says otherwise it "
            f"takes {self.takes}"
        )


def joined(words: Sequence[str]) -> str:
    """``words`` as a list in a sentence: a, b and c."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


@cache
def load_recipes() -> dict[str, Any]:
    """The content of ``recipes.yaml``: one block an objective.

    Raises:
        DDError: if a block does not say for which datasets its settings were chosen, but must.
    """
    blocks = read_yaml(RECIPES)
    for name, block in blocks.items():
        _check_own(name, block)
    return blocks


def fallback(name: str, dataset: str, ipc: int) -> Fallback | None:
    """Whose settings ``name`` takes for ``dataset`` at ``ipc``, if it has none of its own.

    Whether a run overrides them makes no difference: what it leaves out still comes from there.

    Args:
        name: an objective, parametrisation or regulariser, or ``relabel``.
        dataset: the dataset's name.
        ipc: images per class.

    Returns:
        None where the settings were chosen for this dataset and IPC, or are the same for all.

    Raises:
        DDError: for an unknown name.
    """
    blocks = load_recipes()
    if name not in blocks:
        raise unknown("recipe", name, blocks)
    own = blocks[name].get("own", {ANY: []})
    chosen = own.get(dataset, own.get(ANY))
    if chosen is None:
        texts = blocks[name]["fallback"]
        return Fallback(texts.get(dataset, texts[ANY]))
    if not chosen or ipc in chosen:
        return None
    smaller = [one for one in chosen if one < ipc]
    taken = f"those for IPC {max(smaller)}" if smaller else "its general ones"
    return Fallback(taken, of_ipc=True)


def evaluation_fallback(objective: str, dataset: str, ipc: int) -> Fallback | None:
    """The same for how networks are trained on sets of ``objective``, which no recipe has by IPC:
    None also where it does not differ by dataset, whatever else of the recipe does."""
    taken = fallback(objective, dataset, ipc)
    differs = _by_dataset({"evaluation": load_recipes()[objective]["evaluation"]})
    return taken if differs and taken and not taken.of_ipc else None


def objectives() -> list[str]:
    """The names of all objectives that have a recipe."""
    return _having("distillation")


def parametrisations() -> list[str]:
    """The names of all parametrisations beside pixels."""
    return _having("parametrisation")


def regularisers() -> list[str]:
    """The names of all regularisers."""
    return _having("regularisation")


def uses_pretrained(objective: str) -> bool:
    """Whether the networks of ``objective`` come trained and frozen, instead of fresh."""
    return load_recipes()[objective].get("networks") == "pretrained"


def _having(part: str) -> list[str]:
    return sorted(name for name, block in load_recipes().items() if part in block)


def resolve(
    objective: str, dataset: str, ipc: int, overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The distillation settings of ``objective``.

    Args:
        objective: ``dc``, ``dsa``, ``dm``, ``random``, ``herding``, ``kcenter``, ...
        dataset: the dataset's name; one without an entry of its own takes the general settings.
        ipc: images per class.
        overrides: settings that win over the recipe.

    Raises:
        DDError: for an unknown objective, an unknown setting or one of another type.
    """
    return _resolve(objective, "distillation", dataset, ipc, overrides or {})


def resolve_evaluation(
    objective: str,
    dataset: str,
    ipc: int,
    overrides: Mapping[str, Any] | None = None,
    network: str = "",
) -> dict[str, Any]:
    """How ``network`` (or one that no section is about) is trained on a set that ``objective``
    made; other arguments as :func:`resolve`."""
    return _resolve(objective, "evaluation", dataset, ipc, overrides or {}, network=network)


def resolve_training(
    stage: str, dataset: str, overrides: Mapping[str, Any] | None = None, network: str = ""
) -> dict[str, Any]:
    """The settings of a ``stage`` that knows no method (``buffer``, ``pretrain``, ``generator``,
    ``relabel``) on ``dataset``, for ``network`` where it trains one."""
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
    """Raise a :class:`DDError` if ``overrides`` do not fit the settings of the block ``name``: an
    objective's, a part's, a stage's, or ``evaluation``, which are those of all objectives."""
    if name == "evaluation":
        for objective in objectives():
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
    settings = merged(load_recipes()[name][part], dataset, ipc, objective, network)
    for key, value in overrides.items():
        if key not in settings:
            raise unknown(f"{part} setting of {name}", key, settings)
        as_type(f"{part} setting '{key}' of {name}", value, type(settings[key]))
    return settings | dict(overrides)


def merged(
    block: Mapping[str, Any], dataset: str, ipc: int = 1, objective: str = "", network: str = ""
) -> dict[str, Any]:
    """The settings of a ``block`` with those of its fitting sections (see ``recipes.yaml``)."""
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
    """What a ``section`` says of ``network``: of its architecture, then of its architecture with
    options that it has (``convnet:norm=batch``), those with more options later."""

    def split(spec: str) -> tuple[str, set[str]]:
        name, _, options = spec.partition(":")
        return name, set(filter(None, options.split(",")))

    name, given = split(network)
    about = [(split(listed), refined) for listed, refined in section.items()]
    fitting = [(len(o), refined) for (n, o), refined in about if n == name and o <= given]
    return [refined for _, refined in sorted(fitting, key=lambda entry: entry[0])]


def check_sections(name: str, block: Mapping[str, Any]) -> None:
    """Raise a :class:`DDError` for a section that settings called ``name`` do not go by."""
    parts = (*parametrisations(), *regularisers())
    methods = ("ipc", "objective", "dataset") if name in parts else ("ipc", "dataset")
    allowed: tuple[str, ...] = _SECTIONS_OF.get(name, methods)
    for section in SECTIONS:
        refined = block.get(section)
        if not isinstance(refined, Mapping):
            continue
        if section not in allowed:
            raise DDError(
                f"recipes of {name}: settings do not differ by {section} there; they may by "
                f"{' and '.join(allowed)}"
            )
        for inner in refined.values():
            check_sections(name, inner)


def _check_own(name: str, block: Mapping[str, Any]) -> None:
    """Raise a :class:`DDError` if a block of ``recipes.yaml`` falls back in silence."""
    where = f"{RECIPES.name}: {name}"
    if any(part in block for part in PARTS) and "own" not in block and _by_dataset(block):
        raise DDError(
            f"{where}: its settings differ by dataset; say in 'own' for which they were chosen, "
            "and in 'fallback' whose settings the others take"
        )
    if ANY not in block.get("own", {ANY: []}) and ANY not in block.get("fallback", {}):
        raise DDError(f"{where}: 'fallback' must say under '{ANY}' whose settings others take")


def _by_dataset(block: Mapping[str, Any]) -> bool:
    """Whether settings in ``block`` differ by dataset, augmentation apart: that one follows from
    whether a dataset's images may be mirrored."""
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
