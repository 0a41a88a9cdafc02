"""Turns YAML and JSON text into frozen, validated values; what is wrong is said in one line."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from distredge.errors import InputError


class Frozen(BaseModel):
    """A configuration value: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Model = TypeVar("Model", bound=BaseModel)


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("should be a number, not true or false")
    return value


Whole = Annotated[int, Field(strict=True)]
"""An integer that is written as one."""

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""A finite number."""

Version1 = Annotated[Literal[1], BeforeValidator(_no_bool)]
"""`schema_version` of the files that this release reads and writes."""

ElementBytes = Annotated[Literal[1, 2, 4], BeforeValidator(_no_bool)]
"""What an element may take."""


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for i, key in enumerate(keys):
            if any(key.value == earlier.value for earlier in keys[:i]):
                problem = f"the key '{key.value}' is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, model: type[Model], error: type[InputError]) -> Model:
    """The value that a YAML file describes; raises `error` with one line if it cannot be read or is malformed."""
    try:
        data = yaml.load(_read(path, error), _UniqueKeys)
    except (yaml.YAMLError, ValueError, RecursionError) as exc:  # ValueError: a date or a number that is none
        raise error(f"{path}: not valid YAML: {' '.join(str(exc).split())}") from exc
    return validate(data, model, error, str(path))


def read_json(path: Path, model: type[Model], error: type[InputError]) -> Model:
    """The value that a JSON file describes; raises `error` with one line if it cannot be read or is malformed."""
    try:
        data = json.loads(_read(path, error))
    except (ValueError, RecursionError) as exc:
        raise error(f"{path}: not valid JSON: {exc}") from exc
    return validate(data, model, error, str(path))


def validate(data: object, model: type[Model], error: type[InputError], where: str) -> Model:
    """`data` as a `model`; raises `error` naming the first wrong field and, for an unknown key, the nearest known."""
    if not isinstance(data, dict):
        raise error(f"{where}: expected a mapping with the keys {', '.join(model.model_fields)}")
    try:
        return model.model_validate(data)
    except ValidationError as exc:
        raise error(f"{where}: {' '.join(_first_line(exc, model).split())}") from exc


def _read(path: Path, error: type[InputError]) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not a text file"
        raise error(f"cannot read '{path}': {reason}") from exc


def _first_line(exc: ValidationError, model: type[BaseModel]) -> str:
    # A misspelt key is often a missing one as well: the misspelling is what to name.
    first = min(exc.errors(), key=lambda e: e["type"] != "extra_forbidden")
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(first["loc"][-1]), _field_names(model), n=1)
        return f"unknown key '{where}'" + (f", did you mean '{near[0]}'?" if near else "")
    said = first["msg"].removeprefix("Value error, ")
    return f"'{where}': {said}" if where else said


def _field_names(model: type[BaseModel]) -> list[str]:
    names: list[str] = []
    for name, field in model.model_fields.items():
        names.append(name)
        for inner in getattr(field.annotation, "__args__", (field.annotation,)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                names.extend(_field_names(inner))
    return names
