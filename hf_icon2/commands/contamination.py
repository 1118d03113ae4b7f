"""`hf-icon2 contamination`: which prompts of a benchmark stand in training data, word for word."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from hf_icon2.storage import write_atomic

SUMMARY = "find the prompts of a benchmark in training data"

_SOURCE = "file (.jsonl, .json, .parquet, .csv, .txt), folder with data files, or id on the Hub"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.description = (
        "Find prompts of a benchmark in training data: n words in a row that both have, whatever the case and the "
        "punctuation. Prompts with fewer words are looked for as a whole and counted apart."
    )
    parser.add_argument("data", help=f"training data: {_SOURCE}")
    parser.add_argument("prompts", help=f"prompts that should not be in it: {_SOURCE}")
    parser.add_argument("--n", type=int, default=13, help="words in a row (default: 13)")
    parser.add_argument(
        "--column",
        action="append",
        help="column of the data to look at; may be repeated (default: all texts)",
    )
    parser.add_argument(
        "--prompt_column", help="column of the prompts (default: prompt, instruction, question, turns, ...)"
    )
    parser.add_argument("--split", help="split of the data, of a folder or the Hub (default: train)")
    parser.add_argument("--prompt_split", help="split of the prompts (default: train)")
    parser.add_argument("--name", help="name of the prompts in the report (default: as given)")
    parser.add_argument(
        "--output", type=Path, help="JSON file for the report, for instance for the dataset's card"
    )


def run(arguments: argparse.Namespace) -> str:
    """Reads the data once, and says what was found."""
    from hf_icon2.evaluation.contamination import contamination
    from hf_icon2.evaluation.contamination_files import stream_rows

    output = arguments.output
    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        raise ValueError(f"--output {output} cannot be written; give a file in a folder that exists")
    report = contamination(
        stream_rows(arguments.data, split=arguments.split),
        stream_rows(arguments.prompts, split=arguments.prompt_split),
        n=arguments.n,
        columns=arguments.column,
        prompt_column=arguments.prompt_column,
        prompt_set=arguments.name or Path(arguments.prompts).name,
    )
    lines = [str(report)]
    if output is not None:
        write_atomic(output, json.dumps(report.to_dict(), ensure_ascii=False, indent=1) + "\n")
        lines.append(f"the report is in {output}")
    return "\n".join(lines)
