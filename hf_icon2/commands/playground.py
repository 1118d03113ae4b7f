"""`hf-icon2 playground`: a page to try a model's directions on."""

from __future__ import annotations

import argparse

SUMMARY = "try steering on a page in the browser"
_COLUMN = "instruction"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what to show and where."""
    parser.add_argument("model", nargs="?", default="toy", help="model id or path, or toy (default: toy)")
    parser.add_argument("--directions", help="folder or Hub repo; beside the model's files by default")
    parser.add_argument(
        "--instructions",
        help="JSONL file or Hub dataset to measure directions on, and to compare typed instructions with",
    )
    parser.add_argument(
        "--column", default=_COLUMN, help=f"column with the instruction's text (default: {_COLUMN})"
    )
    parser.add_argument(
        "--port", type=_port, help="where to listen (default: the first free one from 7860 on)"
    )


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 1 to 65535, got {text!r}")
    return int(text)


def run(arguments: argparse.Namespace) -> object:
    """Loads the model, measures directions where none are given, and serves the page until Ctrl-C."""
    try:
        from hf_icon2.playground.page import launch
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ImportError(
            "the playground needs gradio, which is missing; run: pip install 'hf_icon2[playground]'"
        ) from error
    from hf_icon2.pipeline.subject import read_instructions
    from hf_icon2.playground.subject import TOY, open_model, open_toy

    if arguments.model == TOY:
        if arguments.instructions:
            raise ValueError(
                "the bundled assistant has instructions of its own; leave out --instructions, or name a model"
            )
        subject = open_toy(arguments.directions)
    else:
        source, column = arguments.instructions, arguments.column
        subject = open_model(
            arguments.model,
            arguments.directions,
            instructions=[str(text) for text in read_instructions(source, column)] if source else (),
            code=(
                "from hf_icon2.pipeline.subject import read_instructions",
                f"read_instructions({source!r}, {column!r})",
            ),
        )
    launch(subject, port=arguments.port)
    return "playground closed"
