"""Settings as flags: one per field of a recipe's dataclass and of its sections."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Collection, Mapping
from typing import Any

from hf_icon2.settings import sections


def add_flags(parser: argparse.ArgumentParser, kind: type) -> None:
    """One flag per setting; sections are groups of their own. Flags that are not given leave no trace."""
    _add(parser, kind, "", skip=sections(kind))
    for section, section_kind in sections(kind).items():
        _add(parser.add_argument_group(section), section_kind, f"{section}.")


def with_flags(data: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a file with those of the flags over them."""
    result = dict(data)
    for name, value in given.items():
        section, _, setting = name.rpartition(".")
        if section:
            result[section] = {**(result.get(section) or {}), setting: value}
        else:
            result[setting] = value
    return result


def _add(parser: Any, kind: type, prefix: str, skip: Collection[str] = ()) -> None:  # noqa: ANN401
    types = typing.get_type_hints(kind)
    for item in dataclasses.fields(kind):
        if item.name not in skip:
            shown = "" if item.name == "criteria" else f" (default: {item.default})"
            parser.add_argument(
                f"--{prefix}{item.name}",
                default=argparse.SUPPRESS,
                type=_reader(types[item.name]),
                metavar=item.name.upper(),
                help=item.metadata["help"] + shown,
            )


def _reader(kind: Any) -> Any:  # noqa: ANN401
    """How a flag's text becomes a value; the recipe checks it."""
    if typing.get_origin(kind) is typing.Literal:
        return str
    choices = [option for option in typing.get_args(kind) if option is not type(None)]
    if typing.get_origin(kind) is tuple:
        return lambda text: [_number(part) for part in text.split(",")]
    plain = kind if not choices else choices[0]
    return _truth if plain is bool else plain


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text.strip()


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return text.lower() == "true"
