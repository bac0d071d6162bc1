"""Configuration files: YAML, checked against a JSON schema, with one-line errors."""

from __future__ import annotations

import copy
import functools
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import best_match

from dd.artifacts.text import read_text
from dd.errors import DDError, unknown

_TYPES = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a block of keys",
}
_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}
_COUNTS = {
    **dict.fromkeys(("minItems", "minProperties", "minLength"), "at least"),
    **dict.fromkeys(("maxItems", "maxProperties", "maxLength"), "at most"),
}
_WHOLE = "the file"  # as the place of a fault

_TAG = "tag:yaml.org,2002:"
# Numbers in scientific notation that YAML 1.1 takes as text: it wants a point and a sign.
_SCIENTIFIC = re.compile(r"([-+]?)(\d*)(?:\.(\d*))?[eE]([-+]?)(\d+)")


def read_yaml(path: str | Path) -> Any:
    """The content of a YAML file.

    Raises:
        DDError: if the file is missing, or as :func:`parse_yaml`.
    """
    return parse_yaml(read_text(path, "YAML"), str(path))


def parse_yaml(text: str, where: str) -> Any:
    """The content of a YAML document.

    YAML 1.1 reads some words as something else than they look like: ``no`` as false, ``010`` as 8,
    ``1e-3`` as text. Here they are errors; in quotes they stay what they are.

    Args:
        text: one document.
        where: it comes from, for messages.

    Raises:
        DDError: if it is not YAML, gives a key twice, has a key that is no name or number, or such
            a word; with its line.
    """
    return copy.deepcopy(_parsed(text, where))


@functools.lru_cache(maxsize=256)
def _parsed(text: str, where: str) -> Any:
    """As :func:`parse_yaml`, to be read alone. A plan reads a schema for each table and claim."""
    try:
        loader = yaml.SafeLoader(text)  # refuses control characters
        node = loader.get_single_node()
        if node is None:
            return None
        _check_node(node, loader, where, set())
        return loader.construct_document(node)
    except RecursionError:
        raise DDError(f"{where}: is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        raise DDError(f"{where}: is not YAML ({' '.join(str(error).split())})") from None


_NO_KEYS = {"null": "empty", "bool": "true or false", "seq": "a list", "map": "a block"}


def _check_node(node: yaml.Node, loader: yaml.SafeLoader, where: str, seen: set[int]) -> None:
    """Raise a :class:`DDError` for a key given twice or a word that reads as something else.

    Args:
        seen: nodes that were checked; one with many aliases is checked once.
    """
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.ScalarNode):
        _check_scalar(node, loader, where)
    elif isinstance(node, yaml.SequenceNode):
        for one in node.value:
            _check_node(one, loader, where, seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            _check_node(key, loader, where, seen)
            _check_node(value, loader, where, seen)
            line = key.start_mark.line + 1
            if read := _NO_KEYS.get(key.tag.removeprefix(_TAG)):
                raise DDError(f"{where}, line {line}: a key is {read}; write a name or a number")
            name = (key.tag, key.value)
            if name in lines:
                raise DDError(
                    f"{where}, line {line}: key '{key.value}' is given twice, first in line "
                    f"{lines[name]}"
                )
            lines[name] = line


def _check_scalar(node: yaml.ScalarNode, loader: yaml.SafeLoader, where: str) -> None:
    if node.style is not None:  # in quotes, or a block of text
        return
    word, kind = node.value, node.tag.removeprefix(_TAG)
    at = f"{where}, line {node.start_mark.line + 1}: {word}"
    quoted = f"'{word}' in quotes"
    if kind == "bool" and word.lower() not in ("true", "false"):
        meant = str(yaml.SafeLoader.bool_values[word.lower()]).lower()
        raise DDError(f"{at} is read as {meant}; write {meant}, or {quoted}")
    if kind == "timestamp":
        raise DDError(f"{at} is read as a date; write {quoted}")
    if kind in ("int", "float"):
        number = loader.construct_object(node)
        if not math.isfinite(number):
            raise DDError(f"{at} is no finite number")
        octal = kind == "int" and re.match(r"[-+]?0[0-7]", word)
        if octal or "_" in word or ":" in word:
            raise DDError(f"{at} is read as the number {number}; write {number}, or {quoted}")
    if kind == "str" and (parts := _SCIENTIFIC.fullmatch(word)) and (parts[2] or parts[3]):
        sign, whole, fraction, exponent_sign, exponent = parts.groups()
        meant = f"{sign}{whole or 0}.{fraction or 0}e{exponent_sign or '+'}{exponent}"
        raise DDError(f"{at} is read as text; write {meant}, or {quoted}")


def load_config(path: str | Path, schema: str | Path) -> Any:
    """The content of the YAML file ``path``, checked against the JSON schema in ``schema`` (YAML).

    Raises:
        DDError: if it does not follow the schema, with the file, the key and the right value.
    """
    document = read_yaml(path)
    check(document, _parsed(read_text(schema, "YAML"), str(schema)), path)
    return document


def check(document: Any, schema: Any, where: str | Path) -> None:
    """Raise a :class:`DDError` for the most relevant fault of ``document``, if it has any.

    Args:
        document: the content.
        schema: the JSON schema.
        where: the file that the content comes from.
    """
    _check_finite(document, where, ())
    fault = best_match(Draft202012Validator(schema).iter_errors(document))
    if fault is not None:
        raise DDError(f"{where}: {_explain(fault, document)}")


def _check_finite(value: Any, where: str | Path, path: tuple[Any, ...]) -> None:
    """Refuse NaN and infinity, which no comparison of a schema refuses."""
    if isinstance(value, float) and not math.isfinite(value):
        raise DDError(f"{where}: {'.'.join(map(str, path))} is {value}, it must be a finite number")
    if isinstance(value, dict | list):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        for key, one in inner:
            _check_finite(one, where, (*path, key))


def _parts(fault: ValidationError) -> tuple[Any, ...]:
    """The rule that was broken, its schema, the value of the rule, and the value that broke it."""
    return fault.validator, fault.schema, fault.validator_value, fault.instance


def _explain(fault: ValidationError, document: Any) -> str:
    key = _key(fault.absolute_path, document)
    rule, schema, limit, value = _parts(fault)
    if rule == "additionalProperties":
        known = schema.get("properties", {})
        extra = min(str(name) for name in value if name not in known)
        return str(unknown("key" if key == _WHOLE else f"key of {key}", extra, known))
    if rule == "required":
        missing = next(name for name in limit if name not in value)
        return f"key '{missing}' is missing in {key}"
    if rule == "enum":
        return str(unknown(f"value of {key}", str(value), map(str, limit)))
    if rule in _LIMITS:
        return f"{key} is {value!r}, it must be {_LIMITS[rule]} {limit}"
    if rule in _COUNTS:
        number = f"{len(value)} {'entry' if len(value) == 1 else 'entries'}"
        must = f"it must have {_COUNTS[rule]} {limit}"
        return f"{key} has {number}, {must}" if value else f"{key} is empty"
    if rule == "uniqueItems":
        return f"{key} lists a value twice"
    if rule == "pattern":
        what = f"a name in {key}" if "propertyNames" in fault.relative_schema_path else key
        return f"{what} is {value!r}, it must be {schema['description']}"
    if rule in ("oneOf", "anyOf") and all(form.keys() == {"required"} for form in limit):
        names = " or ".join(f"'{name}'" for form in limit for name in form["required"])
        number = "exactly one" if rule == "oneOf" else "at least one"
        return f"{key} must have {number} of the keys {names}"
    if rule in ("oneOf", "anyOf", "const", "type"):
        return f"{key} is {value!r}, it must be {_wanted(schema)}"
    return f"{key}: {' '.join(fault.message.split())}"


def _key(path: Iterable[str | int], document: Any) -> str:
    """Where something is in ``document``: its keys, joined by dots.

    In a list, an entry with an ``id`` is named by it, others by their number from 0.
    """
    names: list[str] = []
    for name in path:
        document = document[name]
        own = document.get("id") if isinstance(name, int) and isinstance(document, dict) else None
        number = f"entry {name}" if not names and isinstance(name, int) else str(name)
        names.append(own if isinstance(own, str) and own else number)
    return ".".join(names) or _WHOLE


def _wanted(schema: Mapping[str, Any]) -> str:
    """What a schema asks for, in words."""
    for rule in ("oneOf", "anyOf"):
        if rule in schema:
            return " or ".join(map(_wanted, schema[rule]))
    if "const" in schema:
        only = schema["const"]
        return f"'{only}'" if isinstance(only, str) else str(only).lower()  # as YAML writes it
    kinds = schema["type"]
    return " or ".join(_TYPES[kind] for kind in ([kinds] if isinstance(kinds, str) else kinds))
