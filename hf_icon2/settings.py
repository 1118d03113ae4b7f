"""Settings as frozen dataclasses: checked, from plain data and back, from YAML or JSON. Needs no torch."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import field
from pathlib import Path
from typing import Any, Literal, Self

from hf_icon2.storage import read_json, read_limited, shortened


def setting(default: Any, text: str) -> Any:  # noqa: ANN401  (dataclasses.field returns Any)
    """A field with its one-line help."""
    return field(default=default, metadata={"help": text})


def check_settings(checks: Mapping[str, bool]) -> None:
    """Raises ValueError with the first sentence that does not hold."""
    for sentence, holds in checks.items():
        if not holds:
            raise ValueError(f"{sentence}; change the recipe")


class PlainRecipe:
    """A recipe's dataclass as plain data and back."""

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain JSON data."""
        data: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))  # type: ignore[call-overload]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Builds a recipe from plain data; missing settings keep their defaults, unknown ones are refused."""
        recipe: Self = build(cls, data)
        return recipe


def sections(kind: type) -> dict[str, type[Any]]:
    """The sections of a recipe's dataclass by name."""
    factories: dict[str, Any] = {item.name: item.default_factory for item in dataclasses.fields(kind)}
    return {name: factory for name, factory in factories.items() if isinstance(factory, type)}


def build(kind: type, data: Mapping[str, Any]) -> Any:  # noqa: ANN401  (an instance of `kind`)
    """A recipe's dataclass from plain data; missing settings keep their defaults, unknown ones are refused.

    Args:
        kind: Frozen dataclass whose fields are settings, or sections of settings.
        data: Settings by name, and by name of their section.

    Raises:
        ValueError: For an unknown setting or a value of another type.
    """
    values = dict(data)
    for name, section in sections(kind).items():
        if name in values:
            values[name] = _build(section, {} if values[name] is None else values[name], f"{name}.")
    return _build(kind, values, "")


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    """Settings whose values differ, old and new by dotted name in alphabetical order; a missing one is None.

    Args:
        old: Plain data.
        new: Plain data.
        prefix: Before each name.
    """
    found: dict[str, tuple[Any, Any]] = {}
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            found |= differences(before, after, f"{prefix}{name}.")
        elif before != after:
            found[f"{prefix}{name}"] = (before, after)
    return found


def read_settings(path: str | Path) -> dict[str, Any]:
    """Plain data of a `.yaml` or `.json` file."""
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"there is no recipe {source}")
    if source.suffix == ".json":
        data = read_json(source)
    else:
        import yaml

        broken = (yaml.YAMLError, ValueError, RecursionError)  # ValueError: bytes or dates that are none
        try:
            data = yaml.safe_load(read_limited(source, 2**18).decode("utf-8"))
        except broken as error:
            raise ValueError(f"{source} is not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{source} must map settings to values, got {type(data).__name__}")
    return data


def _build(kind: type, values: Mapping[str, Any], prefix: str) -> Any:  # noqa: ANN401
    if dataclasses.is_dataclass(values):
        return values
    if not isinstance(values, Mapping):
        raise ValueError(
            f"{prefix.rstrip('.') or 'a recipe'} must map settings to values, got {shortened(values)}"
        )
    known = {item.name: item for item in dataclasses.fields(kind)}
    if unknown := [f"{prefix}{name}" for name in values if name not in known]:
        raise ValueError(
            f"unknown settings {shortened(unknown)}; known: {', '.join(prefix + name for name in known)}"
        )
    hints = typing.get_type_hints(kind)
    return kind(**{name: _value(hints[name], value, f"{prefix}{name}") for name, value in values.items()})


def _value(hint: Any, value: Any, name: str) -> Any:  # noqa: ANN401
    """A value of plain data as its setting's type: lists become tuples, and 1e-4, text in YAML, a number."""
    options = typing.get_args(hint) or (hint,)
    if typing.get_origin(hint) is tuple:
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_value(options[0], item, name) for item in items)
    if typing.get_origin(hint) is Literal:
        if value not in options:
            raise ValueError(
                f"{name} must be {' or '.join(options)}, got {shortened(value)}; change the recipe"
            )
        return value
    if float in options and type(value) in (int, str):
        with suppress(ValueError, OverflowError):
            value = float(value)
    if (
        type(value) not in options or value in (math.inf, -math.inf) or value != value
    ):  # exactly: True is no number
        wanted = " or ".join(_KINDS.get(option, option.__name__) for option in options)
        raise ValueError(f"{name} must be {wanted}, got {shortened(value)}; change the recipe")
    return value


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "nothing"}
