"""Templates filled with text that may hold anything: names and prompts can break neither table, code nor metadata.

What a template prints is escaped, unless a filter says where it stands: `code` (between backticks), `json` (inside a
code block) or `raw` (Markdown of ours). A template that lacks a value is an error.
"""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path

from huggingface_hub import CardData
from jinja2 import Environment, StrictUndefined


class Markdown(str):
    """Text that is Markdown already."""

    __slots__ = ()


def plain(text: str) -> Markdown:
    """Text that Markdown shows as it is, on one line, also in a table."""
    one_line = " ".join(text.split())
    return Markdown(re.sub(r"([\\`*\[\]<>|~]|(?<!\w)_|_(?!\w))", r"\\\1", one_line))


def code(text: object) -> Markdown:
    """Text between backticks, more of them than stand in it; on one line, also in a table."""
    one_line = " ".join(str(text).split()).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", one_line)), default=0))
    space = " " if "`" in one_line else ""
    return Markdown(f"{fence}{space}{one_line}{space}{fence}")


def hub_id(name: str | None) -> str | None:
    """The name if it can be a repo of the Hub, None for a path or nothing."""
    if name is None or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or Path(name).exists():
        return None
    return name


def spoken(model: str | None) -> str:
    """A model's name in a sentence: its id on the Hub, or the last part of a path, which tells nothing private."""
    if model is None:
        return "a local model"
    is_words = " " in model and "/" not in model
    return hub_id(model) or (model if is_words else f"the local model {Path(model).name}")


def render(template: str, data: CardData, **values: object) -> str:
    """A card: metadata on top, below it the template `<template>.md` of this folder with its values."""
    text = files(__package__).joinpath(f"{template}.md").read_text(encoding="utf-8")
    filled = _ENVIRONMENT.from_string(text).render(card_data=data.to_yaml(), **values)
    return filled.rstrip() + "\n"


def _printed(value: object) -> object:
    return plain(value) if isinstance(value, str) and not isinstance(value, Markdown) else value


_ENVIRONMENT = Environment(undefined=StrictUndefined, finalize=_printed, autoescape=False)  # noqa: S701
_ENVIRONMENT.filters |= {
    "code": code,
    "json": lambda value: Markdown(json.dumps(value, ensure_ascii=False)),
    "raw": lambda value: Markdown(value),
}
