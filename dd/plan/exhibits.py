"""Turn the YAML of a table or figure into cells, one for each combination of axis values."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dd.artifacts.fields import NUMBER, TEXT, block, either, list_of, shown, some
from dd.config.documents import load_config
from dd.config.methods import parse_protocol
from dd.config.run import Run
from dd.config.settings import MOST, Type, as_type
from dd.errors import DDError, unknown

PIVOTS = ("results", "reweighting", "areas")  # kinds whose columns are axes
_TYPES: Mapping[str, Type] = {
    **dict.fromkeys(("dataset", "method", "arch", "protocol"), str),
    **dict.fromkeys(("ipc", "iterations"), int),
}
_MOST = {"ipc": 10**5, "iterations": MOST}  # as in the schema of a run
_SELECT = block({"axis": TEXT, "values": some(list_of(either(NUMBER, TEXT)))})
BOUND = ("dataset", "method", "ipc", "iterations", "arch", "protocol", "select")


@dataclass(frozen=True)
class Cell:
    """One number (or image) of a table or figure, and what it is made from.

    Attributes:
        labels: the position of the cell: the value of each axis.
        dataset, method, ipc, iterations: identify its synthetic sets, one per seed.
        protocols: canonical evaluation protocols; several only if the best one is selected.
        arch: the network that is evaluated; None if the cell only shows images.
        seeds: those of its synthetic sets.
        selected: the option whose best value is selected on test data; "" if none is selected.
    """

    labels: Mapping[str, Any]
    dataset: str
    method: str
    ipc: int
    iterations: int
    protocols: tuple[str, ...]
    arch: str | None
    seeds: tuple[int, ...]
    selected: str = ""


@dataclass(frozen=True)
class Exhibit:
    """A table or figure: its definition and the run it belongs to.

    Attributes:
        renders: ``table`` or ``figure``.
        name: the stem of ``path``, the file of its definition.
    """

    renders: str
    name: str
    path: str
    definition: Mapping[str, Any]
    run: Run

    @property
    def axes(self) -> list[str]:
        """The names of the axes: the dataset first, then the others in the order of the file."""
        return ["dataset", *(a for a in self.definition.get("axes", {}) if a != "dataset")]

    @property
    def datasets(self) -> dict[str, dict[str, Any]]:
        """The datasets of the run that this table or figure shows, with their options."""
        known = self.run.datasets
        return {name: known[name] for name in self.values("dataset") if name in known}

    @property
    def published(self) -> list[Mapping[str, Any]]:
        """The sources of published values.

        Each has a ``file``, a filter for its rows (``where``) and a filter for the cells that the
        values may be compared with (``only``).
        """
        sources = self.definition.get("published", [])
        return [sources] if isinstance(sources, Mapping) else sources

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of its synthetic sets: for it by name, for its paper, or those of the run."""
        for narrower in (self.name, self.definition["paper"]):
            if narrower in self.run.seeds_for:
                return tuple(self.run.seeds_for[narrower])
        return tuple(self.run.seeds)

    @property
    def is_shown(self) -> bool:
        """Whether the run shows it: not if its user left out the datasets of all its cells."""
        if not self.run.other_datasets:
            return True
        return all(map(self.values, self.axes)) and bool(
            self.cells() or "axes" not in self.definition
        )

    def values(self, axis: str) -> dict[Any, dict[str, Any]]:
        """The values of ``axis`` in this run, and for each value the settings that it binds.

        Raises:
            DDError: for a value that the axis does not have, or that binds no block; the message
                names where it stands.
        """
        others = self.run.other_datasets
        asked = self.asked_values(axis)
        return {value: b for value, b in asked.items() if b.get("dataset") not in others}

    def asked_values(self, axis: str) -> dict[Any, dict[str, Any]]:
        """As :meth:`values`, those of datasets that the user of the run left out included."""
        run, given = self.run, self.definition.get("axes", {}).get(axis)
        _, asked = self._asked(axis)
        if isinstance(given, Mapping):
            for value, binds in given.items():
                if not isinstance(binds, Mapping):
                    raise DDError(
                        f"{self.path}: '{value}' of axis '{axis}' is {shown(binds)}, it must be a "
                        "block of what it binds"
                    )
        if axis == "dataset" and given is None:
            given = list(run.datasets)
        if isinstance(given, Mapping):
            chosen = list(given) if asked is None else asked
            for value in chosen:
                if value not in given:
                    fault = unknown_value(f"axis '{axis}' of {self.name}", value, given)
                    raise DDError(f"{self.where(axis)}: {fault}")
            return {value: dict(given[value]) for value in chosen}
        if isinstance(given, list):
            return {value: {axis: value} for value in (given if asked is None else asked)}
        if given in ("first", "last"):
            if asked is None:
                others = f", only {', '.join(run.axes)}" if run.axes else ""
                raise DDError(
                    f"{self.where(axis)} is '{given}', but run {run.name} lists no {axis} in axes"
                    f"{others}"
                )
            try:
                given = (min if given == "first" else max)(asked)
            except TypeError:
                raise DDError(
                    f"{self.where(axis)} has numbers and text, of which none is the {given}; write "
                    "all without quotes, or all with"
                ) from None
        return {given: {axis: given}}

    def where(self, axis: str, value: Any = None) -> str:
        """Where the values of ``axis`` stand, for messages: in the run, or in the definition; for
        one that is a block in the definition with ``value``: where this stands."""
        given = self.definition.get("axes", {}).get(axis)
        if isinstance(given, Mapping) and value in given:
            return f"{self.path}: axes.{axis}.{value}"
        key, _ = self._asked(axis)
        return f"run {self.run.name}, {key}" if key else f"{self.path}: axes.{axis}"

    @property
    def selected(self) -> set[str]:
        """The options of protocols whose best value it selects."""
        binds = [bound for axis in self.axes for bound in self.values(axis).values()]
        chosen = [bound["select"] for bound in binds if "select" in bound]
        return {select["axis"] for select in chosen if _SELECT.fits(select)}  # cells refuse others

    def _asked(self, axis: str) -> tuple[str, list[Any] | None]:
        """The values that the run sets for ``axis`` and their key in the run; None if it sets none.

        Values for this table or figure come first, then those for its paper, then those for all.
        """
        run = self.run
        for narrower in (self.name, self.definition["paper"]):
            if axis in run.axes_for.get(narrower, {}):
                return f"axes_for.{narrower}.{axis}", run.axes_for[narrower][axis]
        return (f"axes.{axis}", run.axes[axis]) if axis in run.axes else ("", None)

    def cells(self) -> list[Cell]:
        """All cells that are not excluded. The last axis varies fastest.

        Raises:
            DDError: if a binding is unknown or missing; the message names the file.
        """
        return list(self._cells)

    @cached_property  # a plan and its checks ask for them again and again
    def _cells(self) -> list[Cell]:
        if "axes" not in self.definition:
            return []
        axes = {axis: self.values(axis) for axis in self.axes}
        rules = [*self.definition.get("exclude", []), *self.left_out()]
        cells = []
        for combination in itertools.product(*(values.items() for values in axes.values())):
            labels = dict(zip(axes, (value for value, _ in combination), strict=True))
            bound = {key: value for _, binds in combination for key, value in binds.items()}
            if not _excluded(labels, rules):
                try:
                    cells.append(self._cell(labels, bound))
                except DDError as error:
                    place = ", ".join(f"{axis} {value}" for axis, value in labels.items())
                    raise DDError(f"{self.path}: {error} (cell: {place})") from None
        return cells

    def left_out(self) -> list[Mapping[str, list[Any]]]:
        """The rules of the run by which cells of this table or figure are left out."""
        known = {axis: self.values(axis) for axis in self.axes} if self.run.exclude else {}
        return [
            rule
            for rule in self.run.exclude
            if rule.keys() <= known.keys()
            and all(any(value in known[axis] for value in rule[axis]) for axis in rule)
        ]

    def _cell(self, labels: Mapping[str, Any], bound: dict[str, Any]) -> Cell:
        run = self.run
        for key in ("method", "ipc"):
            if key not in bound:
                others = sorted(bound.keys() - {*BOUND})
                near = difflib.get_close_matches(key, others, n=1)
                hint = f"; did you mean it by '{near[0]}'?" if near else ""
                raise DDError(f"no axis binds '{key}'{hint}")
        for key, wanted in _TYPES.items():
            if key in bound:
                as_type(f"'{key}', which an axis binds,", bound[key], wanted)
        for key, most in _MOST.items():
            if not 0 <= bound.get(key, 0) <= most:
                raise DDError(f"'{key}', which an axis binds, is {bound[key]}, not 0 to {most}")
        if "select" in bound and not _SELECT.fits(bound["select"]):
            raise DDError(f"'select', which an axis binds, must be {_SELECT.what}")
        dataset, method, ipc = bound["dataset"], str(run.parse(bound["method"])), bound["ipc"]
        if dataset not in run.datasets:
            raise unknown("dataset", str(dataset), run.datasets)
        recipe = run.distillation(method, dataset, ipc)["iterations"]
        # Objectives that take real images (random, herding, kcenter, full) have 0 iterations in
        # their recipe, so the values of an axis of iterations do not apply to them.
        iterations = bound.get("iterations", recipe) if recipe else 0
        selected = bound["select"]["axis"] if "select" in bound else ""
        protocols, arch = self._protocols(bound), bound.get("arch")
        place = (dataset, method, ipc, iterations, protocols, arch)
        return Cell(labels, *place, seeds=self.seeds, selected=selected)

    def _protocols(self, bound: Mapping[str, Any]) -> tuple[str, ...]:
        name, known = bound.get("protocol", "hard"), self.run.protocols
        options = {key: value for key, value in bound.items() if key not in BOUND}
        if "select" not in bound:
            return (str(parse_protocol(name, known, **options)),)
        if "released" not in name:
            raise DDError(
                f"protocol '{name}': only a 'released' protocol may be selected on test data"
            )
        axis, values = bound["select"]["axis"], bound["select"]["values"]
        _, asked = self._asked(axis)
        values = values if asked is None else asked
        return tuple(str(parse_protocol(name, known, **options, **{axis: v})) for v in values)


def unknown_value(owner: str, value: Any, known: Iterable[Any]) -> DDError:
    """A :class:`DDError` for a value that is not in ``known``, those of ``owner``.

    In YAML the number 10 and the text "10" are two values. If only this is wrong, it says so.
    """
    known = list(known)
    for one in known:
        if str(one) == str(value):
            quotes = "with" if isinstance(one, str) else "without"
            return DDError(
                f"{owner} has no {_kind(value)} {value!r}, but the {_kind(one)} {one!r}; write it "
                f"{quotes} quotes"
            )
    return unknown(f"value of {owner}", str(value), map(str, known))


def _kind(value: Any) -> str:
    return "text" if isinstance(value, str) else "number"


def _excluded(labels: Mapping[str, Any], rules: Iterable[Mapping[str, list[Any]]]) -> bool:
    return any(all(labels.get(axis) in values for axis, values in rule.items()) for rule in rules)


def load_exhibit(kind: str, path: str | Path, run: Run) -> Exhibit:
    """The table or figure (``kind``) defined in the YAML file ``path``.

    Raises:
        DDError: if the definition does not fit its schema or names an axis that it does not have.
    """
    definition = load_config(path, run.schema(kind))
    exhibit = Exhibit(kind, Path(path).stem, str(path), definition, run)
    named = list(definition.get("rows", []))
    named += [axis for axes in definition.get("layout", {}).values() for axis in axes]
    named += definition.get("columns", []) if definition["kind"] in PIVOTS else []
    named += [axis for rule in definition.get("exclude", []) for axis in rule]
    named += [definition["best_of"]] if "best_of" in definition else []
    named += [axis for source in exhibit.published for axis in source.get("only", {})]
    for axis in named:
        if axis not in exhibit.axes:
            raise DDError(f"{path}: {unknown('axis', axis, exhibit.axes)}")
    _check_values(
        exhibit, "best_except", {definition.get("best_of"): definition.get("best_except", [])}
    )
    for number, rule in enumerate(definition.get("exclude", [])):
        _check_values(exhibit, f"exclude.{number}", rule)
    return exhibit


def _check_values(exhibit: Exhibit, key: str, named: Mapping[Any, Iterable[Any]]) -> None:
    """Raise a :class:`DDError` for a value in ``key`` of the definition that its axis, if this
    lists its values, has neither there nor in the run."""
    for axis, values in named.items():
        given = exhibit.definition.get("axes", {}).get(axis)
        if isinstance(given, list | Mapping):
            known = [*given, *(exhibit.values(axis) if isinstance(given, list) else ())]
            for value in values:
                if value not in known:
                    fault = unknown_value(f"axis '{axis}'", value, known)
                    raise DDError(f"{exhibit.path}: {key}: {fault}")


def published_files(exhibit: Exhibit) -> list[str]:
    """The files of published values that ``exhibit`` reads."""
    folder = Path(exhibit.run.workflow, "reference")
    return [str(folder / source["file"]) for source in exhibit.published]
