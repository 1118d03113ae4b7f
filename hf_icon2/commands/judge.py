"""`hf-icon2 judge`: which of two files of answers is better, and how far the judge can be trusted."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_icon2.recipe import TOY
from hf_icon2.storage import write_atomic

if TYPE_CHECKING:
    from hf_icon2.judges.answer_files import Match, Matches
    from hf_icon2.judges.judging import Judge
    from hf_icon2.judges.verdicts import Comparison

SUMMARY = "compare two files of answers to the same prompts"

# Flag -> type, what it says. Not given, they leave no trace.
_ENDPOINT_FLAGS: dict[str, tuple[Any, str]] = {
    "cache": (Path, "file that keeps the replies, so that the same command never pays twice"),
    "concurrency": (int, "most requests in flight (default: 8)"),
    "reply_tokens": (
        int,
        "longest reply that is read as text (default: 1024); models that think need more",
    ),
    "budget_requests": (int, "most requests to send"),
    "budget_tokens": (int, "most tokens to spend, of prompts and replies"),
    "budget_cost": (float, "most US dollars to spend; needs the prices"),
    "price_input": (float, "US dollars per million tokens of prompt"),
    "price_output": (float, "US dollars per million tokens of reply"),
}


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
    judges = parser.add_argument_group("who judges: one of these")
    judges.add_argument(
        "--endpoint",
        help="address of an OpenAI-compatible endpoint; its key is read from HF_ICON2_ENDPOINT_KEY",
    )
    judges.add_argument(
        "--endpoint_model", help="model at the endpoint; alone, at the Hub's Inference Providers"
    )
    judges.add_argument(
        "--reward", help="id or path of a reward model (a sequence classifier with one output)"
    )
    judges.add_argument("--model", help=f"id or path of a language model; {TOY}: the bundled one")
    endpoint = parser.add_argument_group("with an endpoint")
    endpoint.add_argument(
        "--read",
        choices=["text", "logprobs"],
        default=argparse.SUPPRESS,
        help="the verdict from the reply's text (default), or from the probabilities of its first token",
    )
    for name, (kind, text) in _ENDPOINT_FLAGS.items():
        endpoint.add_argument(
            f"--{name}", type=kind, default=argparse.SUPPRESS, metavar=name.upper(), help=text
        )


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
    client = _client(arguments)
    found = _judge(arguments, client).compare(prompts, firsts, seconds, progress="judge")
    if arguments.output is not None:
        _write(arguments.output, matches.rows, found)
    rate = win_rate(found, firsts, seconds, prompts=prompts)
    asked = sum(first != second for first, second in zip(firsts, seconds, strict=True))
    if 0 < asked == rate.failed:
        raise ValueError(f"no pair has a verdict: {next(iter(rate.reasons))}")
    return "\n".join([_sides(arguments, matches), str(rate), *_notes(arguments, client)])


def _check(arguments: argparse.Namespace) -> None:
    """Refuses what cannot work before anything is loaded or paid for."""
    given = [
        name
        for name in ("endpoint", "reward", "model")
        if getattr(arguments, name) is not None
        or (name == "endpoint" and arguments.endpoint_model is not None)
    ]
    if len(given) != 1:
        said = " and ".join(f"--{name}" for name in given) or "none"
        raise ValueError(f"one judge is needed, given: {said}; allowed: --endpoint, --reward or --model")
    extra = sorted({"read", *_ENDPOINT_FLAGS} & set(vars(arguments)))
    if given != ["endpoint"] and extra:
        raise ValueError(f"--{extra[0]} is for --endpoint; leave it out with --{given[0]}")
    output = arguments.output
    if output is not None and output.resolve() in (
        path.resolve() for path in (arguments.answers_a, arguments.answers_b)
    ):
        raise ValueError(f"--output {output} would replace the answers in it; give another file")
    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        raise FileNotFoundError(f"{output} cannot be written: give --output a file in a folder that exists")


def _client(arguments: argparse.Namespace) -> Any:  # noqa: ANN401
    """The endpoint's client, or None for judges on this machine."""
    if arguments.endpoint is None and arguments.endpoint_model is None:
        return None
    from hf_icon2.judges.chat.budget import Budget, Prices
    from hf_icon2.judges.chat.client import ChatClient

    given = vars(arguments)
    if ("price_input" in given) != ("price_output" in given):
        raise ValueError("one price is given; give both --price_input and --price_output")
    return ChatClient(
        arguments.endpoint,
        arguments.endpoint_model,
        concurrency=given.get("concurrency", 8),
        cache=given.get("cache"),
        budget=Budget(given.get("budget_requests"), given.get("budget_tokens"), given.get("budget_cost")),
        prices=Prices(given["price_input"], given["price_output"]) if "price_input" in given else None,
    )


def _judge(arguments: argparse.Namespace, client: Any) -> Judge:  # noqa: ANN401
    from hf_icon2.judges.pairwise import PairwiseJudge

    if client is not None:
        given = vars(arguments)
        return PairwiseJudge.from_chat(
            client, read=given.get("read", "text"), max_tokens=given.get("reply_tokens", 1024)
        )
    if arguments.reward is not None:
        from hf_icon2.judges.reward_models import RewardModel

        return RewardModel.from_pretrained(arguments.reward)
    from hf_icon2.loading import load_model, load_tokenizer

    if arguments.model != TOY:
        return PairwiseJudge.from_model(load_model(arguments.model), load_tokenizer(arguments.model))
    from hf_icon2.toy import load_assistant
    from hf_icon2.toy.skills import ab_prompt

    return PairwiseJudge.from_model(*load_assistant(), ask=ab_prompt)


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


def _notes(arguments: argparse.Namespace, client: Any) -> list[str]:  # noqa: ANN401
    notes = [] if arguments.output is None else [f"verdicts are in {arguments.output}"]
    if client is not None:
        notes.append(str(client.usage))
        if client.stopped:
            kept = (
                "the same command goes on"
                if "cache" in vars(arguments)
                else "keep replies with --cache to go on"
            )
            notes.append(f"stopped early: {client.stopped}; {kept}")
    return notes
