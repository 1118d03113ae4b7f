"""Plain data of strangers into a dataclass, by its type hints: exactly as they say, or not at all."""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, TypeVar

from hf_icon2.storage import shortened

Kind = TypeVar("Kind")

_hints = functools.cache(typing.get_type_hints)
_NAMES = {int: "a whole number", float: "a number", str: "text", type(None): "null"}


def build(kind: type[Kind], data: Any, where: str = "") -> Kind:  # noqa: ANN401
    """A dataclass from plain data of exactly its fields; those with a default may be missing.

    Args:
        kind: A dataclass. Hints may be `int`, `float`, `str`, `None`, `Any`, literals of text, dataclasses, and
            `tuple[X, ...]`, `list[X]`, `Mapping[str, X]` and unions of such.
        data: What JSON gave.
        where: Name of the field that holds the data, for messages.

    Raises:
        ValueError: If a field is missing, unknown or of another type.
    """
    here = where or "the record"
    if not isinstance(data, dict):
        raise ValueError(f"{here} must be an object, got {shortened(data)}")
    fields = {item.name: item for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
    optional = (dataclasses.MISSING, dataclasses.MISSING)
    required = {name for name, item in fields.items() if (item.default, item.default_factory) == optional}
    if missing := required - set(data):
        raise ValueError(f"{here} lacks {sorted(missing)}; the file is incomplete")
    if unknown := set(data) - set(fields):
        raise ValueError(f"{here} has unknown fields {shortened(sorted(unknown))}; known: {sorted(fields)}")
    hints = _hints(kind)  # type: ignore[arg-type]  # a class is hashable
    prefix = f"{where}." if where else ""
    return kind(**{name: _typed(hints[name], value, f"{prefix}{name}") for name, value in data.items()})


def _typed(hint: Any, value: Any, where: str) -> Any:  # noqa: ANN401
    """A value as its hint says."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where)  # type: ignore[arg-type]
    if origin in (tuple, list):
        if not isinstance(value, list):
            raise ValueError(f"{where} must be a list, got {shortened(value)}")
        return origin(_typed(options[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, dict):
            raise ValueError(f"{where} must be an object, got {shortened(value)}")
        return {key: _typed(options[1], item, f"{where}[{shortened(key)}]") for key, item in value.items()}
    if origin in (typing.Union, UnionType):
        return _one_of(options, value, where)
    return _scalar(str if origin is Literal else hint, value, where)


def _one_of(options: tuple[Any, ...], value: Any, where: str) -> Any:  # noqa: ANN401
    """A value as the first hint of a union that takes it, or the complaint of the first."""
    complaints = []
    for option in options:
        try:
            return _typed(option, value, where)
        except ValueError as error:
            complaints.append(error)
    raise complaints[0]


def _scalar(kind: type[Any], value: Any, where: str) -> Any:  # noqa: ANN401
    if kind is float and type(value) is int and abs(value) < 2**53:  # larger ones would change
        return float(value)
    if type(value) is not kind:  # exactly: true is no number
        raise ValueError(f"{where} must be {_NAMES[kind]}, got {shortened(value)}")
    return value
