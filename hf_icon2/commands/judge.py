"""`hf-icon2 judge`: which of two files of answers is better, and how far the judge can be trusted."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hf_icon2.commands.judges import add_judges, check_judge, client_of, judge_of, spent
from hf_icon2.storage import write_atomic

if TYPE_CHECKING:
    from hf_icon2.judges.answer_files import Match, Matches
    from hf_icon2.judges.verdicts import Comparison
    from hf_icon2.prompts import Instruction

SUMMARY = "compare two files of answers to the same prompts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.description = (
        "Compare two files of answers to the same prompts, each pair in both orders. Files are JSON lines (or one JSON "
        "list, as of alpaca_eval) with a prompt or instruction, and an answer, output or response; or messages."
    )
    parser.add_argument("answers_a", type=Path, help="answers of the first side")
    parser.add_argument("answers_b", type=Path, help="answers of the second side")
    parser.add_argument("--answer_a", help="column of the answers in the first file, where it is another")
    parser.add_argument("--answer_b", help="the same of the second file")
    parser.add_argument(
        "--join",
        choices=["auto", "id", "prompt"],
        default="auto",
        help="what rows belong together by (default: the id where all have one, else the prompt)",
    )
    parser.add_argument("--output", type=Path, help="JSON lines file for the verdicts")
    add_judges(parser)


def run(arguments: argparse.Namespace) -> str:
    """Judges, keeps the verdicts, and says who wins."""
    from hf_icon2.evaluation.win_rate import win_rate
    from hf_icon2.judges.answer_files import matched, read_answers

    _check(arguments)
    matches = matched(
        read_answers(arguments.answers_a, arguments.answer_a),
        read_answers(arguments.answers_b, arguments.answer_b),
        arguments.join,
    )
    prompts, firsts, seconds = zip(
        *((row.prompt, row.first, row.second) for row in matches.rows), strict=True
    )
    client = client_of(arguments)
    found = judge_of(arguments, client).compare(prompts, firsts, seconds, progress="judge")
    if arguments.output is not None:
        _write(arguments.output, matches.rows, found)
    rate = win_rate(found, firsts, seconds, prompts=prompts)
    asked = sum(first != second for first, second in zip(firsts, seconds, strict=True))
    if 0 < asked == rate.failed:
        raise ValueError(f"no pair has a verdict: {next(iter(rate.reasons))}")
    notes = [] if arguments.output is None else [f"verdicts are in {arguments.output}"]
    notes += spent(arguments, client)
    controlled = _length_controlled(found, firsts, seconds, prompts)
    return "\n".join([_sides(arguments, matches), str(rate), controlled, *notes])


def _check(arguments: argparse.Namespace) -> None:
    """Refuses what cannot work before anything is loaded or paid for."""
    check_judge(arguments)
    output = arguments.output
    if output is not None and output.resolve() in (
        path.resolve() for path in (arguments.answers_a, arguments.answers_b)
    ):
        raise ValueError(f"--output {output} would replace the answers in it; give another file")
    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        raise FileNotFoundError(f"{output} cannot be written: give --output a file in a folder that exists")


def _length_controlled(
    found: Sequence[Comparison], firsts: Sequence[str], seconds: Sequence[str], prompts: Sequence[Instruction]
) -> str:
    """The win rate with length taken out, or why there is none."""
    from hf_icon2.evaluation.length_control import length_controlled

    # Both orders: their mean, which is 1/2 where they contradict each other.
    preferences = [math.nan if item.probability is None else item.probability for item in found]
    try:
        controlled = length_controlled(
            preferences, [len(text) for text in firsts], [len(text) for text in seconds], prompts=prompts
        )
    except (ImportError, ValueError) as error:
        return f"no length-controlled win rate: {error}"
    return "\n".join(
        [
            f"length-controlled win rate {controlled}",
            *(f"warning: {text}" for text in controlled.warnings),
        ]
    )


def _write(path: Path, rows: Sequence[Match], found: Sequence[Comparison]) -> None:
    lines = [
        json.dumps(
            {
                "id": row.name,
                "prompt": row.prompt,
                "first": row.first,
                "second": row.second,
                "winner": item.winner,
                "forward": item.forward,
                "backward": item.backward,
                "reason": item.reason,
            },
            ensure_ascii=False,
        )
        for row, item in zip(rows, found, strict=True)
    ]
    write_atomic(path, "\n".join(lines) + "\n")


def _sides(arguments: argparse.Namespace, matches: Matches) -> str:
    text = f"{arguments.answers_a} (first) against {arguments.answers_b} (second): {len(matches.rows)} pairs"
    if matches.only_first or matches.only_second:
        text += f"; {matches.only_first} and {matches.only_second} rows have no partner and are left out"
    return text
