"""What the suite asks of the objects that plug-ins bring, and how their faults are said.

A fault against the contract of a kind is a :class:`Breach`: one line. An error that the code of a
plug-in raises itself stays as it is, so that whoever frees memory and tries again still knows it;
the command says it by :func:`blame`, with the part of the traceback that its author needs.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any

from dd import plugins
from dd.errors import DDError, printable


class Breach(DDError):
    """An object does not do what its kind must; :func:`within` says which object it is."""


@contextmanager
def within(where: str) -> Iterator[None]:
    """Say ``where`` a fault was: in front of a :class:`Breach`, as a note of an error of others."""
    try:
        yield
    except Breach as error:
        raise Breach(f"{where}: {error}") from None
    except DDError:
        raise
    except (Exception, SystemExit) as error:
        error.add_note(where)
        raise


def owner(kind: str, name: str) -> str:
    """The thing ``name`` of a ``kind``, with its plug-in if it has one that was used."""
    of_plugin = [str(entry) for entry in plugins.used_of(kind) if entry.name == name]
    return of_plugin[0] if of_plugin else f"{kind} '{name}'"


def check_shape(what: str, tensor: Any, wanted: Sequence[int]) -> None:
    """Raise a :class:`Breach` if ``tensor`` is none, or has another shape. Its values are not read,
    so a GPU is not waited for."""
    shape = getattr(tensor, "shape", None)
    if shape is None or tuple(shape) != tuple(wanted):
        have = f"is {_article(tensor)}" if shape is None else f"has shape {list(shape)}"
        right = f"of shape {list(wanted)}" if wanted else "one number (shape [])"
        raise Breach(f"{what} {have}, it must be {right}")


def check_tensors(what: str, values: Any, dotted: bool = False) -> None:
    """Raise a :class:`Breach` unless ``values``, which ``what`` gives, are tensors by name.

    Args:
        what: gave the values.
        values: should be a dictionary.
        dotted: whether the names must have a dot.
    """
    if not isinstance(values, Mapping):
        raise Breach(f"{what} gives {_article(values)}, it must give a dict of tensors")
    for name, value in values.items():
        if getattr(value, "shape", None) is None:
            raise Breach(f"{what} gives {_article(value)} as '{name}', it must be a tensor")
        if dotted and "." not in name:
            raise Breach(f"{what} gives '{name}', whose name must have a dot, as in 'latent.code'")


def check_list(what: str, values: Any, count: int, right: str) -> None:
    """Raise a :class:`Breach` unless ``values``, which ``what`` gives, are a list or a tuple of
    ``count``; ``right`` says of what."""
    if not isinstance(values, list | tuple) or len(values) != count:
        have = f"{len(values)} things" if isinstance(values, list | tuple) else _article(values)
        raise Breach(f"{what} gives {have}, it must give {right}")


def check_metrics(
    what: str, values: Any, needed: Sequence[str] = (), taken: Collection[str] = ()
) -> None:
    """Raise a :class:`Breach` unless ``values`` of ``what`` are metrics: numbers or text, by name.

    A tensor is none, as a line of ``metrics.jsonl`` cannot hold it.

    Args:
        what: gave the values.
        values: should be a dictionary.
        needed: names that it must have, with numbers.
        taken: names that others give in the same line.
    """
    if not isinstance(values, Mapping):
        raise Breach(f"{what} gives {_article(values)}, it must give a dict of metrics")
    for name in needed:
        if name not in values:
            raise Breach(f"{what} gives metrics without '{name}', which must be a number")
    for name, value in values.items():
        if name in taken:
            raise Breach(f"{what} gives a metric '{name}', as others do; give it another name")
        words = "a number" if name in needed else "a number or text"
        if not isinstance(value, int | float) and (name in needed or not isinstance(value, str)):
            raise Breach(f"{what} gives {_article(value)} as '{name}', it must be {words}")


def _article(value: object) -> str:
    """What a value is, in words."""
    return "None" if value is None else f"a value of type {type(value).__name__}"


def check_call(
    what: str, function: Callable[..., Any], names: Sequence[str], options: Collection[str] = ()
) -> None:
    """Raise a :class:`Breach` unless ``function`` takes arguments ``names``, by their places, and
    ``options``, by their names."""
    if fault := _refusal(function, names, options):
        raise Breach(f"{what} {fault}")


def misfit(own: type, base: type) -> str:
    """Which method of ``own`` cannot be called as that of ``base``, in words; "" if all can."""
    for name, method in vars(base).items():
        kinds = FunctionType | classmethod | staticmethod
        if name.startswith("_") or not isinstance(method, kinds):
            continue
        names = [*inspect.signature(getattr(base, name)).parameters]
        bound = isinstance(inspect.getattr_static(own, name), classmethod | staticmethod)
        if isinstance(method, FunctionType) and bound:
            names = names[1:]  # no self
        if fault := _refusal(getattr(own, name), names):
            return f"its method {name} {fault}"
    return ""


def _refusal(function: Any, names: Sequence[str], options: Collection[str] = ()) -> str:
    """Why a call with arguments ``names`` would fail, in words; "" if it would not."""
    if not callable(function):
        return "is no function"
    try:
        signature = inspect.signature(function)
    except ValueError:  # a function in C does not say what it takes
        return ""
    try:
        signature.bind(*names, **dict.fromkeys(options))
    except TypeError:
        taken, wanted = (", ".join(one) for one in (signature.parameters, [*names, *options]))
        return f"takes ({taken}), it must take ({wanted})"
    return ""


def said(error: BaseException) -> str:
    """An error of other code as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def blame(error: BaseException) -> str:
    """The message about an error that the code of plug-ins raised, or code that it called: one
    line, then the part of the traceback that is in the plug-ins; "" if it is none of theirs."""
    running = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    theirs = {at: plugins.of_module(at[0].f_globals.get("__name__", "")) for at in running}
    makers = dict.fromkeys(str(plugin) for plugin in theirs.values() if plugin)
    if not makers:
        return ""
    where = [*reversed(getattr(error, "__notes__", []))]
    named = [f"plug-in {maker}" for maker in makers if not any(maker in one for one in where)]
    kept = traceback.StackSummary.extract(at for at in running if theirs[at])
    line = printable(": ".join([*where, *named, said(error)]))
    return f"{line}\nIn the plug-in (the last call last):\n{''.join(kept.format())}"
