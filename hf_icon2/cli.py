"""The `hf-icon2` command: recipes from a file and flags, then one call of the library. Loads torch only to work."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import sys
import typing
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from hf_icon2 import __version__
from hf_icon2.recipe import Recipe, read_settings, sections

COMMANDS = {
    "run": "the whole road: from directions to the report",
    "extract": "measure directions",
    "synthesize": "let the model write its own instructions",
    "filter": "score consistency, route and keep instructions",
    "tune": "choose control layers and strengths",
    "pairs": "answer every instruction in both directions",
    "train": "DPO on the pairs",
    "evaluate": "measure before and after",
}
TOOLS: tuple[str, ...] = (
    "export",
    "playground",
    "push",
)  # modules of hf_icon2.commands, each a command of its own


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status: 0 done, 1 failed with a sentence, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    _quiet_libraries()
    try:
        result = arguments.run(arguments)
    except KeyboardInterrupt:
        print(f"\ninterrupted{_go_on(arguments)}", file=sys.stderr)
        return 130
    except (OSError, ValueError, TypeError, ImportError) as error:
        after = _go_on(arguments) if isinstance(error, OSError) else ""
        print(f"error: {error}{after}", file=sys.stderr)
        return 1
    print(result)
    return 0


def _run_recipe(arguments: argparse.Namespace) -> object:
    recipe = _recipe(arguments)
    from hf_icon2.pipeline.run import run_recipe

    until = None if arguments.command == "run" else arguments.command
    return run_recipe(recipe, arguments.output, until=until)


def _go_on(arguments: argparse.Namespace) -> str:
    """Where the finished work of a run lies, if there is any."""
    if arguments.run is not _run_recipe or not (arguments.output / "recipe.json").is_file():
        return ""
    return f"; finished work is in {arguments.output}, the same command goes on"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hf-icon2",
        allow_abbrev=False,  # a mistyped setting must not become another one
        description="Align a language model with its own representation space, without annotators.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, text in COMMANDS.items():
        note = "" if name == "run" else " Earlier stages that are not done yet are run first."
        command = commands.add_parser(
            name, help=text, description=f"{text.capitalize()}.{note}", allow_abbrev=False
        )
        command.add_argument(
            "--output", type=Path, required=True, help="folder of the run; made, or taken up"
        )
        command.add_argument("--config", type=Path, help="recipe (.yaml or .json); flags win over it")
        command.set_defaults(run=_run_recipe)
        _add_flags(command, Recipe, "")
        for section, kind in sections().items():
            _add_flags(command.add_argument_group(section), kind, f"{section}.")
    for name in TOOLS:
        tool = import_module(f"hf_icon2.commands.{name}")
        command = commands.add_parser(
            name, help=tool.SUMMARY, description=f"{tool.SUMMARY.capitalize()}.", allow_abbrev=False
        )
        command.set_defaults(run=tool.run)
        tool.add_arguments(command)
    return parser


def _add_flags(parser: Any, kind: type, prefix: str) -> None:  # noqa: ANN401  (parser or group)
    """One flag per setting; sections are groups of their own."""
    types = typing.get_type_hints(kind)
    for item in dataclasses.fields(kind):
        if prefix or item.name not in sections():
            default = "" if item.name == "criteria" else f" (default: {item.default})"
            parser.add_argument(
                f"--{prefix}{item.name}",
                default=argparse.SUPPRESS,
                type=_reader(types[item.name]),
                metavar=item.name.upper(),
                help=item.metadata["help"] + default,
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


def _recipe(arguments: argparse.Namespace) -> Recipe:
    """Flags over the recipe file; without one over the folder's own recipe, or the quickstart's in a new folder."""
    given = {
        name: value
        for name, value in vars(arguments).items()
        if name not in ("command", "run", "output", "config")
    }
    record = arguments.output / "recipe.json"
    if arguments.config:
        data = read_settings(arguments.config)
    elif record.is_file():
        data = read_settings(record)
    else:
        data = (
            {} if "model" in given else read_settings(Path(__file__).parent / "recipes" / "quickstart.yaml")
        )
    for name, value in given.items():
        section, _, setting = name.rpartition(".")
        if section:
            data[section] = {**(data.get(section) or {}), setting: value}
        else:
            data[setting] = value
    return Recipe.from_dict(data)


def _quiet_libraries() -> None:
    """Our progress, not the HTTP and dataset chatter of others."""
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # read when datasets is imported
    # TRL 1.16 still uses the names that transformers 5.23 has renamed to activation_checkpointing.
    warnings.filterwarnings("ignore", message="`(is_)?gradient_checkpointing", category=FutureWarning)
    for name in ("httpx", "httpx2", "datasets", "filelock", "matplotlib"):
        logging.getLogger(name).setLevel(logging.WARNING)


if __name__ == "__main__":
    raise SystemExit(main())
