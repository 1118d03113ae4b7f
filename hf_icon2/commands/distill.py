"""`hf-icon2 distill`: a student learns how another model ranks or reasons, by one of several methods."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from hf_icon2.commands.flags import add_flags, with_flags
from hf_icon2.recipe import TOY
from hf_icon2.settings import PlainRecipe, read_settings
from hf_icon2.storage import read_json

SUMMARY = "teach a student how a teacher ranks its responses, or how it reasons"

METHODS = {
    "pad": "preference-aligned distillation from a teacher's scores",
    "cyclealign": "cycles of a black box's rankings, with demonstrations from agreement",
    "minds-mirror": "reasoning and self-evaluation of a black box, in two stages",
}
"""Each a module `hf_icon2.commands.distill_<name>` with RECIPE, TOY_RECIPE, `distil` and `measured`."""

_DEFAULT = "pad"
_RECIPES = Path(__file__).parents[1] / "recipes"


def add_arguments(parser: argparse.ArgumentParser, given: Sequence[str] = ()) -> None:
    """Arguments of the command: those of the method that `given`, the command line, asks for."""
    parser.add_argument(
        "--method",
        choices=list(METHODS),
        default=_DEFAULT,
        help="; ".join(f"{name}: {text}" for name, text in METHODS.items())
        + f" (default: {_DEFAULT}; with --help, the settings of this one are shown)",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the run; made, or taken up")
    parser.add_argument("--config", type=Path, help="recipe (.yaml or .json); flags win over it")
    add_flags(parser, _method(_asked_for(given)).RECIPE)


def run(arguments: argparse.Namespace) -> str:
    """Distils, and says where the student is; of the bundled one also how good it became."""
    method = _method(arguments.method)
    recipe = _recipe(arguments, method)
    student: Path = method.distil(recipe, arguments.output)
    return f"the student is in {student}{method.measured(recipe, student)}"


def _method(name: str) -> ModuleType:
    return import_module(f"hf_icon2.commands.distill_{name.replace('-', '_')}")


def _asked_for(given: Sequence[str]) -> str:
    """The method on a command line; the default where it is none, which the real parser will say."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--method", default=_DEFAULT)
    try:
        name: str = finder.parse_known_args(list(given))[0].method
    except argparse.ArgumentError:
        return _DEFAULT
    return name if name in METHODS else _DEFAULT


def _recipe(arguments: argparse.Namespace, method: ModuleType) -> Any:  # noqa: ANN401  (the method's own)
    """Flags over the recipe file, over that of the folder, over the bundled student's."""
    skip = ("command", "run", "method", "output", "config")
    given = {name: value for name, value in vars(arguments).items() if name not in skip}
    record = arguments.output / "recipe.json"
    data: dict[str, Any] = {}
    if arguments.config:
        data = read_settings(arguments.config)
    elif record.is_file():
        data = read_json(record)
        _check_method(record, data, method.RECIPE)
    elif given.get("student", TOY) == TOY:
        data = read_settings(_RECIPES / method.TOY_RECIPE)
    return method.RECIPE.from_dict(with_flags(data, given))


def _check_method(record: Path, data: dict[str, Any], kind: type[PlainRecipe]) -> None:
    if not data.keys() <= {item.name for item in dataclasses.fields(kind)}:  # type: ignore[arg-type]
        raise ValueError(
            f"{record} is the recipe of another command or method; go on with its own --method "
            f"({', '.join(METHODS)}), or give another --output"
        )
