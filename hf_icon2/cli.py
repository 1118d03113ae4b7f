"""The `hf-icon2` command: recipes from a file and flags, then one call of the library. Loads torch only to work."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from hf_icon2 import __version__
from hf_icon2.commands.flags import add_flags, with_flags
from hf_icon2.recipe import Recipe
from hf_icon2.settings import read_settings

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
    "answer",
    "contamination",
    "distill",
    "export",
    "judge",
    "mt-bench",
    "playground",
    "push",
)  # modules of hf_icon2.commands, each a command of its own


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status: 0 done, 1 failed with a sentence, 130 interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = _parser(argv).parse_args(argv)
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


def _parser(argv: Sequence[str] = ()) -> argparse.ArgumentParser:
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
        add_flags(command, Recipe)
    for name in TOOLS:
        tool = import_module(f"hf_icon2.commands.{name.replace('-', '_')}")
        command = commands.add_parser(
            name,
            help=tool.SUMMARY,
            description=f"{tool.SUMMARY[:1].upper()}{tool.SUMMARY[1:]}.",
            allow_abbrev=False,
        )
        command.set_defaults(run=tool.run)
        if name == "distill":
            tool.add_arguments(command, argv)  # its flags depend on --method
        else:
            tool.add_arguments(command)
    return parser


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
    return Recipe.from_dict(with_flags(data, given))


def _quiet_libraries() -> None:
    """Our progress, not the HTTP and dataset chatter of others."""
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # read when datasets is imported
    # TRL 1.16 still uses the names that transformers 5.23 has renamed to activation_checkpointing.
    warnings.filterwarnings("ignore", message="`(is_)?gradient_checkpointing", category=FutureWarning)
    for name in ("httpx", "httpx2", "datasets", "filelock", "gguf", "matplotlib"):
        logging.getLogger(name).setLevel(logging.WARNING)


if __name__ == "__main__":
    raise SystemExit(main())
