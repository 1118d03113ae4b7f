"""One instruction answered under several steerings at once, token by token."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from hf_icon2.playground.sampling import SharedNoise

MAX_CHARACTERS = 4000
MAX_NEW_TOKENS = 512
MAX_TEMPERATURE = 2.0
MAX_SEED = 2**31 - 1
_MAX_STRENGTH = 1_000_000


@dataclass(frozen=True)
class Request:
    """What a visitor asks for; refuses what the page does not allow.

    Args:
        prompt: The instruction.
        steering: Strength per criterion of the + answer; the - answer has the opposite ones.
        max_new_tokens: Longest answer.
        temperature: 0 takes the most likely token.
        seed: Of the sampling noise, which all answers share.
    """

    prompt: str
    steering: Mapping[str, float]
    max_new_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise ValueError("Type an instruction first, or choose one of the examples.")
        if len(self.prompt) > MAX_CHARACTERS:
            raise ValueError(
                f"The instruction has {len(self.prompt):,} characters; at most {MAX_CHARACTERS:,} are allowed here."
            )
        _check("The longest answer", self.max_new_tokens, 1, MAX_NEW_TOKENS, whole=True)
        _check("The temperature", self.temperature, 0, MAX_TEMPERATURE)
        _check("The seed", self.seed, 0, MAX_SEED, whole=True)
        for name, strength in self.steering.items():
            _check(f"The strength of {name}", strength, -_MAX_STRENGTH, _MAX_STRENGTH)

    @property
    def steerings(self) -> list[dict[str, float] | None]:
        """Of the answers -, 0 and +."""
        return [{name: -value for name, value in self.steering.items()}, None, dict(self.steering)]

    @property
    def noise(self) -> SharedNoise | None:
        """For one call of `generate`; None decodes greedily."""
        return SharedNoise(self.seed, self.temperature) if self.temperature else None


@dataclass(frozen=True)
class Answer:
    """An answer so far: its token ids without the end token, and whether it has ended by itself."""

    ids: tuple[int, ...] = ()
    ended: bool = False


def stream_answers(
    model: PreTrainedModel, prompt: Sequence[int], request: Request, *, pad: int, every: float = 0.0
) -> Iterator[list[Answer]]:
    """Answers under -, 0 and + as they grow: one batch of three rows, each steered in its own way.

    `generate` runs in a thread of its own and is stopped when the iterator is closed or dropped.

    Args:
        model: Made steerable.
        prompt: Token ids of the rendered instruction.
        request: Steering, sampling and length.
        pad: Padding id.
        every: Least time between two results, in seconds.

    Yields:
        The three answers after every step, or after those that came in the meantime.
    """
    steerings = request.steerings
    tokens: queue.Queue[list[int] | BaseException | None] = queue.Queue()
    stop = threading.Event()
    arguments: dict[str, Any] = {
        "input_ids": torch.tensor([list(prompt)] * len(steerings), device=model.device),
        "attention_mask": torch.ones(len(steerings), len(prompt), dtype=torch.long, device=model.device),
        "steering": steerings,
        "max_new_tokens": request.max_new_tokens,
        "do_sample": False,  # the noise samples
        "num_beams": 1,
        "logits_processor": [request.noise] if request.noise else [],
        "pad_token_id": pad,
        "streamer": _Steps(tokens),
        "stopping_criteria": [_Stopped(stop)],
    }
    threading.Thread(target=_run, args=(model, arguments, tokens), daemon=True).start()
    ends = _end_ids(model)
    answers = [Answer() for _ in steerings]
    try:
        while steps := _take(tokens, time.monotonic() + every):
            for step in steps:
                answers = [_grown(*both, ends) for both in zip(answers, step, strict=True)]
            yield answers
    finally:
        stop.set()


class _Steps(BaseStreamer):
    """Passes the tokens of every step on; the first that `generate` puts is the prompt."""

    def __init__(self, tokens: queue.Queue[Any]) -> None:
        self.tokens = tokens
        self.started = False

    def put(self, value: Tensor) -> None:
        """Takes the prompt (B, T), then one token per row (B,)."""
        if self.started:
            self.tokens.put(value.tolist())
        self.started = True

    def end(self) -> None:
        """The end is told by `_run`, which also knows of errors."""


class _Stopped(StoppingCriteria):
    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:  # noqa: ANN401
        return torch.full((len(input_ids),), self.event.is_set(), device=input_ids.device)


def _check(what: str, value: object, low: float, high: float, *, whole: bool = False) -> None:
    """Raises ValueError for what is not a number in the range; NaN is in none."""
    fits = isinstance(value, int if whole else (int, float)) and low <= value <= high
    if not fits:
        kind = "whole number" if whole else "number"
        raise ValueError(f"{what} must be a {kind} from {low:,} to {high:,}, got {value}.")


def _run(model: Any, arguments: dict[str, Any], tokens: queue.Queue[Any]) -> None:  # noqa: ANN401
    try:
        model.generate(**arguments)
        tokens.put(None)
    except BaseException as error:
        tokens.put(error)


def _take(tokens: queue.Queue[Any], until: float) -> list[list[int]]:
    """The steps that come until a point in time, at least one; none at the end."""
    steps: list[list[int]] = []
    while not steps or time.monotonic() < until:
        try:
            step = tokens.get(timeout=max(0.0, until - time.monotonic()) if steps else None)
        except queue.Empty:
            break
        if isinstance(step, BaseException):
            raise step
        if step is None:
            tokens.put(None)  # for the next call, if there are steps to show first
            break
        steps.append(step)
    return steps


def _grown(answer: Answer, token: int, ends: set[int]) -> Answer:
    if answer.ended or token in ends:
        return Answer(answer.ids, ended=True)
    return Answer((*answer.ids, token))


def _end_ids(model: PreTrainedModel) -> set[int]:
    assert model.generation_config is not None
    ends = model.generation_config.eos_token_id
    return {ends} if isinstance(ends, int) else set(ends or ())
