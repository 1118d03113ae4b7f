"""Flags that say who judges, for commands that judge; and the judge they ask for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_icon2.recipe import TOY

if TYPE_CHECKING:
    from hf_icon2.judges.judging import Judge

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


def add_judges(parser: argparse.ArgumentParser) -> None:
    """Flags of all judges."""
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


def check_judge(arguments: argparse.Namespace) -> None:
    """Refuses anything but one judge, before it is loaded or paid for."""
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


def client_of(arguments: argparse.Namespace) -> Any:  # noqa: ANN401
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


def judge_of(arguments: argparse.Namespace, client: Any) -> Judge:  # noqa: ANN401
    """The judge; `client` is that of `client_of`."""
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


def spent(arguments: argparse.Namespace, client: Any) -> list[str]:  # noqa: ANN401
    """What the client did, and whether it stopped early."""
    notes: list[str] = []
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
