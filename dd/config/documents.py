"""Configuration files: YAML, checked against a JSON schema, with one-line errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import best_match

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


def read_yaml(path: str | Path) -> Any:
    """The content of a YAML file.

    Raises:
        DDError: if the file is missing or not YAML.
    """
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DDError(f"{path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DDError(f"{path}: is not YAML ({' '.join(str(error).split())})") from None


def load_config(path: str | Path, schema: str | Path) -> Any:
    """The content of the YAML file ``path``, checked against the JSON schema in ``schema`` (YAML).

    Raises:
        DDError: if it does not follow the schema, with the file, the key and the right value.
    """
    document = read_yaml(path)
    check(document, read_yaml(schema), path)
    return document


def check(document: Any, schema: Any, where: str | Path) -> None:
    """Raise a :class:`DDError` for the most relevant fault of ``document``, if it has any.

    Args:
        document: the content.
        schema: the JSON schema.
        where: the file that the content comes from.
    """
    fault = best_match(Draft202012Validator(schema).iter_errors(document))
    if fault is not None:
        raise DDError(f"{where}: {_explain(fault)}")


def _parts(fault: ValidationError) -> tuple[Any, ...]:
    """The rule that was broken, its schema, the value of the rule, and the value that broke it."""
    return fault.validator, fault.schema, fault.validator_value, fault.instance


def _explain(fault: ValidationError) -> str:
    key = ".".join(map(str, fault.absolute_path)) or "the file"
    rule, schema, limit, value = _parts(fault)
    if rule == "additionalProperties":
        known = schema.get("properties", {})
        extra = min(str(name) for name in value if name not in known)
        return str(unknown("key" if key == "the file" else f"key of {key}", extra, known))
    if rule == "required":
        missing = next(name for name in limit if name not in value)
        return f"key '{missing}' is missing in {key}"
    if rule == "type":
        kinds = [limit] if isinstance(limit, str) else limit
        return f"{key} is {value!r}, it must be {' or '.join(_TYPES[kind] for kind in kinds)}"
    if rule == "enum":
        return str(unknown(f"value of {key}", str(value), map(str, limit)))
    if rule in _LIMITS:
        return f"{key} is {value!r}, it must be {_LIMITS[rule]} {limit}"
    if rule in ("minItems", "minProperties", "minLength"):
        return f"{key} is empty"
    if rule == "uniqueItems":
        return f"{key} lists a value twice"
    if rule == "pattern":
        what = f"a name in {key}" if "propertyNames" in fault.relative_schema_path else key
        return f"{what} is {value!r}, it must be {schema['description']}"
    return f"{key}: {' '.join(fault.message.split())}"
