"""Keeps what is spent within the budget, and counts what was done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hf_icon2.judges.chat.asking import Trouble
from hf_icon2.judges.chat.budget import Budget, Prices, Spending, Usage, most_of, spending
from hf_icon2.judges.chat.gate import Gate
from hf_icon2.judges.chat.records import ChatReply, ChatRequest
from hf_icon2.judges.chat.store import ReplyStore


class Ledger:
    """Books requests before they are sent and settles them after; used by several threads.

    Args:
        gate: Tells those who wait that something was settled.
        store: Holds the account.
        budget: Most to spend.
        prices: To count cost by, or None.
    """

    def __init__(self, gate: Gate, store: ReplyStore, budget: Budget, prices: Prices | None) -> None:
        self.usage = Usage(cost=None if prices is None else 0.0)
        self._changed, self._store = gate.changed, store
        self._budget, self._prices = budget, prices
        self._beyond = (0, 0)  # tokens of prompt and reply by which the endpoint has exceeded estimates
        self._unsettled = 0

    def book(self, request: ChatRequest, given_up: Callable[[], bool]) -> Spending | str | None:
        """Books the most that a request may cost; waits for requests in flight whose rest could make room.

        Returns:
            What was booked; a sentence if the budget does not allow it; None if the caller has given up.
        """
        with self._changed:
            while not given_up():
                most = most_of(request, self._beyond, self._prices)
                lacks = self._store.book(most, self._budget)
                if lacks is None:
                    self._unsettled += 1
                    return most
                if self._unsettled == 0:
                    return lacks
                self._changed.wait()
        return None

    def settle(
        self,
        key: str,
        request: ChatRequest,
        booked: Spending,
        outcome: ChatReply | Trouble | None,
        again: bool,
    ) -> None:
        """Books what the request has cost in place of the most it could, and stores its reply.

        Args:
            key: Of the request.
            request: What was asked.
            booked: As `book` returned it.
            outcome: What came back; None if that is unknown.
            again: Whether the request had been sent before.
        """
        reply = outcome if isinstance(outcome, ChatReply) else None
        try:
            self._store.settle(booked, self._real(booked, outcome), None if reply is None else (key, reply))
        finally:
            with self._changed:
                self._unsettled -= 1
                self._note(request, reply, again)
                self._changed.notify_all()

    def count_cached(self, number: int) -> None:
        """Counts requests that needed not be sent."""
        with self._changed:
            self.usage = replace(self.usage, cached=self.usage.cached + number)

    def _real(self, booked: Spending, outcome: ChatReply | Trouble | None) -> Spending:
        if isinstance(outcome, ChatReply) and outcome.prompt_tokens + outcome.completion_tokens:
            return spending(outcome.prompt_tokens, outcome.completion_tokens, self._prices)
        if isinstance(outcome, Trouble) and not outcome.charged:
            return Spending(1)
        return booked

    def _note(self, request: ChatRequest, reply: ChatReply | None, again: bool) -> None:
        prompt, completion = (reply.prompt_tokens, reply.completion_tokens) if reply else (0, 0)
        least = most_of(request, (0, 0), None)
        self._beyond = (
            max(self._beyond[0], prompt - least.prompt_tokens),
            max(self._beyond[1], completion - least.completion_tokens),
        )
        usage = self.usage
        self.usage = replace(
            usage,
            requests=usage.requests + 1,
            retries=usage.retries + again,
            prompt_tokens=usage.prompt_tokens + prompt,
            completion_tokens=usage.completion_tokens + completion,
            cost=None
            if self._prices is None
            else (usage.cost or 0.0) + self._prices.cost(prompt, completion),
        )
