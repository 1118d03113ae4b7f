"""`hf-icon2 mt-bench`: answers to two-turn questions, graded from 1 to 10, or compared with those of another model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_icon2.commands.judges import add_judges, check_judge, client_of, judge_of, spent
from hf_icon2.storage import write_atomic

if TYPE_CHECKING:
    from hf_icon2.evaluation.mt_bench_reports import Grades
    from hf_icon2.judges.rating import Rater

SUMMARY = "grade a model's MT-Bench answers, or compare two models'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.description = (
        "Grade a model's answers to MT-Bench from 1 to 10, each turn by itself (an endpoint; a reward model grades in "
        "its own unit). With a second file, compare both models on every turn, in both orders, with any judge. Answers "
        "are files of `hf-icon2 answer --format mt-bench`, or of FastChat."
    )
    parser.add_argument("answers", type=Path, help="answers of the model")
    parser.add_argument("other", type=Path, nargs="?", help="answers of another model, to compare")
    parser.add_argument("--questions", type=Path, required=True, help="FastChat's question.jsonl")
    parser.add_argument("--references", type=Path, help="reference answers, shown to an endpoint that grades")
    parser.add_argument(
        "--skip_wrong_references",
        action="store_true",
        help="leave out the reference answers of FastChat that are known to be wrong",
    )
    parser.add_argument("--output", type=Path, help="JSON file for all figures")
    add_judges(parser)


def run(arguments: argparse.Namespace) -> str:
    """Judges, and says how the model fares."""
    from hf_icon2.evaluation.dialogues import read_questions
    from hf_icon2.evaluation.mt_bench import compare, read_replies

    _check(arguments)
    questions = read_questions(arguments.questions)
    answers = read_replies(arguments.answers)
    other = None if arguments.other is None else read_replies(arguments.other)
    client = client_of(arguments)
    found: Any
    notes: list[str] = []
    if other is None:
        found, notes = _graded(arguments, client, questions, answers)
    else:
        judge = judge_of(arguments, client)
        found = compare(questions, answers, other, judge, progress="mt-bench")
    if arguments.output is not None:
        write_atomic(
            arguments.output, json.dumps(_plain(found.to_dict()), indent=2, ensure_ascii=False) + "\n"
        )
        notes.append(f"all figures are in {arguments.output}")
    return "\n".join([str(found), *notes, *spent(arguments, client)])


def _check(arguments: argparse.Namespace) -> None:
    """Refuses what cannot work before anything is loaded or paid for."""
    check_judge(arguments)
    if arguments.other is None and arguments.model is not None:
        raise ValueError(
            "--model says which of two answers is better, and gives no grades; give a second file of answers, or take "
            "--endpoint or --reward"
        )
    if arguments.other is not None and arguments.references is not None:
        raise ValueError("--references are for grades; leave them out to compare two files")
    if arguments.skip_wrong_references and arguments.references is None:
        raise ValueError("--skip_wrong_references needs --references")
    if arguments.other is None and vars(arguments).get("read") == "logprobs":
        raise ValueError("a grade is read from the reply's text; leave out --read logprobs")
    output = arguments.output
    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        raise FileNotFoundError(f"{output} cannot be written: give --output a file in a folder that exists")


def _graded(
    arguments: argparse.Namespace,
    client: Any,  # noqa: ANN401
    questions: Any,  # noqa: ANN401
    answers: Any,  # noqa: ANN401
) -> tuple[Grades, list[str]]:
    from hf_icon2.evaluation.mt_bench import WRONG_REFERENCES, grade, read_replies, without_wrong

    references, notes = None, []
    if arguments.references is not None:
        references = read_replies(arguments.references)
        wrong = sorted(name for name in references if name in WRONG_REFERENCES)
        if arguments.skip_wrong_references:
            references = without_wrong(references)
        elif wrong:
            listed = ", ".join(map(str, wrong))
            notes.append(
                f"warning: FastChat's reference answers to {listed} are wrong; if these are they, leave them out with "
                "--skip_wrong_references"
            )
    found = grade(questions, answers, _rater(arguments, client), references=references, progress="mt-bench")
    if found.graded == 0:
        raise ValueError(f"no turn has a grade: {next(iter(found.reasons))}")
    return found, notes


def _rater(arguments: argparse.Namespace, client: Any) -> Rater:  # noqa: ANN401
    from hf_icon2.judges.rating import ChatRater, RewardRater

    if client is not None:
        return ChatRater(client, max_tokens=vars(arguments).get("reply_tokens", 2048))
    from hf_icon2.judges.reward_models import RewardModel

    return RewardRater(RewardModel.from_pretrained(arguments.reward))


def _plain(value: Any) -> Any:  # noqa: ANN401
    """The figures with None for NaN, which JSON lacks."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if value != value else value
