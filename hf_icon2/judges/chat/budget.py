"""What requests cost, and how much may be spent."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

from hf_icon2.judges.chat.records import ChatRequest

_LAYOUT_TOKENS = 16  # of the chat template, per message


@dataclass(frozen=True)
class Prices:
    """What an endpoint takes.

    Args:
        input: USD per million tokens of the prompt.
        output: USD per million tokens of the reply.
    """

    input: float
    output: float

    def __post_init__(self) -> None:
        for name, value in (("input", self.input), ("output", self.output)):
            if not 0 <= value < math.inf:
                raise ValueError(
                    f"the price {name}={value!r} is not allowed; give USD per million tokens, 0 or more"
                )

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """USD for so many tokens."""
        return (self.input * prompt_tokens + self.output * completion_tokens) / 1e6


@dataclass(frozen=True)
class Budget:
    """The most that may be spent on one cache file, over all processes that ever used it.

    A request is sent only if the most it can cost still fits; that much is booked before, and replaced by what the
    endpoint reports after. So the budget holds whatever the concurrency. The most is taken to be one token per
    byte of UTF-8 of the messages, 16 more per message for the chat template, and `max_tokens` for the reply; if
    an endpoint ever reports more, by as much more from then on. What ends without a report (a timeout, a cut body,
    a process killed meanwhile) stays booked in full, because it may have been charged; a status of error does not.

    Args:
        requests: Requests sent, those sent again included. None for any number, here and below.
        tokens: Tokens of prompts and replies together.
        cost: USD; needs `Prices`. What was spent on the same file without prices does not count.
    """

    requests: int | None = None
    tokens: int | None = None
    cost: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"the budget {field.name}={value!r} is not allowed; give 0 or more, or None")

    def lacks(self, spent: Spending, more: Spending) -> str | None:
        """A sentence about the cap that spending `more` would exceed; None if all hold."""
        after = spent + more
        if self.requests is not None and after.requests > self.requests:
            return f"the budget of {self.requests:,} requests is spent"
        if self.tokens is not None and after.tokens > self.tokens:
            return (
                f"the budget of {self.tokens:,} tokens is spent: {spent.tokens:,} are, and the next request may take "
                f"{more.tokens:,}"
            )
        # One part in a billion for the rounding of sums, so that an exact budget can be used up.
        if self.cost is not None and after.cost > self.cost * (1 + 1e-9):
            return (
                f"the budget of ${self.cost:.6g} is spent: ${spent.cost:.6g} are, and the next request may cost "
                f"${more.cost:.6g}"
            )
        return None


@dataclass(frozen=True)
class Spending:
    """What was spent, or may be: requests, tokens, and USD."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0

    @property
    def tokens(self) -> int:
        """Of prompts and replies together."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Spending) -> Spending:
        return Spending(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cost + other.cost,
        )

    def __sub__(self, other: Spending) -> Spending:
        return self + Spending(-other.requests, -other.prompt_tokens, -other.completion_tokens, -other.cost)


@dataclass(frozen=True)
class Usage:
    """What a client has done since it was made.

    Args:
        requests: Sent, those sent again included.
        retries: Of these, sent again.
        cached: Requests answered from the cache, or by the reply to an equal one.
        prompt_tokens: As the endpoint reports them.
        completion_tokens: The same of the replies.
        cost: USD for these tokens; None without prices.
    """

    requests: int = 0
    retries: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None

    def __str__(self) -> str:
        cost = "" if self.cost is None else f", ${self.cost:.4f}"
        return (
            f"{self.requests:,} requests sent ({self.retries:,} again), {self.cached:,} answered from the cache, "
            f"{self.prompt_tokens:,} prompt and {self.completion_tokens:,} completion tokens{cost}"
        )


def most_of(request: ChatRequest, beyond: tuple[int, int], prices: Prices | None) -> Spending:
    """The most that sending a request once can cost; see `Budget`.

    Args:
        request: What is asked.
        beyond: Tokens of prompt and reply by which the endpoint has exceeded such estimates.
        prices: None counts no cost.
    """
    prompt = _bytes_of(text for message in request.messages for text in message.values())
    return spending(
        prompt + _LAYOUT_TOKENS * (len(request.messages) + 1) + beyond[0],
        request.max_tokens + beyond[1],
        prices,
    )


def spending(prompt_tokens: int, completion_tokens: int, prices: Prices | None) -> Spending:
    """One request of so many tokens."""
    cost = prices.cost(prompt_tokens, completion_tokens) if prices else 0.0
    return Spending(1, prompt_tokens, completion_tokens, cost)


def _bytes_of(texts: Iterable[str]) -> int:
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
