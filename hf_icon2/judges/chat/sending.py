"""Sends requests until they are answered, cannot be, or it is time to stop."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_icon2.judges.chat.asking import Trouble, ask
from hf_icon2.judges.chat.fields import SAMPLING
from hf_icon2.judges.chat.gate import Gate
from hf_icon2.judges.chat.ledger import Ledger
from hf_icon2.judges.chat.records import ChatFailure, ChatReply, ChatRequest
from hf_icon2.judges.chat.store import ReplyStore

if TYPE_CHECKING:
    from huggingface_hub import InferenceClient

logger = logging.getLogger(__name__)

_LONGEST_BACKOFF = 60.0  # seconds


@dataclass(frozen=True)
class Patience:
    """How long a request, and the whole, is tried; see `ChatClient`."""

    retries: int
    backoff: float
    longest_pause: float
    window: int

    def __post_init__(self) -> None:
        checks = {
            f"retries={self.retries!r} is not allowed; give 0 or more": self.retries >= 0,
            f"backoff={self.backoff!r} is not allowed; give 0 seconds or more": self.backoff >= 0,
            f"longest_pause={self.longest_pause!r} is not allowed; give 0 seconds or more": self.longest_pause
            >= 0,
            f"window={self.window!r} is not allowed; give at least 1 request": self.window >= 1,
        }
        for message, fine in checks.items():
            if not fine:
                raise ValueError(message)


class Sender:
    """Answers requests one by one, in any number of threads.

    Args:
        client: With the endpoint, its key and the timeout.
        model: Name of the model at the endpoint.
        extra: Further fields of the requests' bodies.
        patience: How long is tried.
        gate: Limits what is in flight.
        store: Keeps the replies.
        ledger: Keeps the account.
    """

    def __init__(
        self,
        client: InferenceClient,
        model: str | None,
        extra: Mapping[str, Any],
        patience: Patience,
        gate: Gate,
        store: ReplyStore,
        ledger: Ledger,
    ) -> None:
        self.stopped: str | None = None
        self._client, self._model, self._extra = client, model, extra
        self._patience, self._gate, self._store, self._ledger = patience, gate, store, ledger
        self._last: deque[str | None] = deque(maxlen=patience.window)  # why requests failed; None for replies
        self.accepted = False
        """Whether the endpoint has ever answered us, so that a refusal is not of us but of a request."""
        self._told = False  # why the first request was sent again
        self._refused: frozenset[str] = frozenset()  # fields that the model does not take
        self._asked: set[str] = set()  # keys that some thread sees to

    def answer(self, key: str, request: ChatRequest, ended: Callable[[], bool]) -> ChatReply | ChatFailure:
        """Sends a request until it is answered, cannot be, or nobody wants it any more.

        Args:
            key: Of the request.
            request: What is asked.
            ended: Whether whoever asked is gone.
        """

        def given_up() -> bool:
            return self.stopped is not None or ended()

        with self._alone(key, given_up):
            return self._persist(key, request, given_up)

    @contextmanager
    def _alone(self, key: str, given_up: Callable[[], bool]) -> Iterator[None]:
        """Waits until no other thread sees to the same request; its reply is then in the store."""
        with self._gate.changed:
            self._gate.changed.wait_for(lambda: key not in self._asked or given_up())
            first = key not in self._asked
            self._asked.add(key)
        try:
            yield
        finally:
            if first:
                with self._gate.changed:
                    self._asked.discard(key)
                    self._gate.changed.notify_all()

    def _persist(
        self, key: str, request: ChatRequest, given_up: Callable[[], bool]
    ) -> ChatReply | ChatFailure:
        sent = retries = 0
        while True:
            outcome = self._attempt(key, request, sent > 0, given_up)
            sent += 1
            if isinstance(outcome, ChatReply):
                self._finished(None)
                return outcome
            if outcome is None or self._hopeless(outcome):
                return ChatFailure(self.stopped or "the batch was interrupted", stopped=True)
            if outcome.refuses:
                continue
            if not outcome.passes or retries == self._patience.retries:
                reason = outcome.reason + (f"; asked {sent} times" if sent > 1 else "")
                self._finished(reason)
                return ChatFailure(reason)
            self._tell(outcome)
            self._gate.rest(max(self._wait(retries), outcome.pause or 0.0), given_up)
            retries += 1

    def _attempt(
        self, key: str, request: ChatRequest, again: bool, given_up: Callable[[], bool]
    ) -> ChatReply | Trouble | None:
        """Sends a request once, when it may be; None if it is too late."""
        if not self._gate.enter(given_up):
            return None
        try:
            known = self._store.replies([key]).get(key)
            if known is not None:  # another process, or thread, has asked the same meanwhile
                self._ledger.count_cached(1)
                return known
            booked = self._ledger.book(request, given_up)
            if isinstance(booked, str):
                self._stop(f"{booked}; raise the budget to go on")
            if booked is None or isinstance(booked, str):
                return None
            outcome, sent = None, time.monotonic()
            try:
                outcome = ask(self._client, self._model, self._extra, request, self._refused)
            finally:
                self._ledger.settle(key, request, booked, outcome, again)
            self._heed(outcome, sent)
            return outcome
        finally:
            self._gate.leave()

    def _heed(self, outcome: ChatReply | Trouble, sent: float) -> None:
        """What an outcome means for the requests to come."""
        if isinstance(outcome, ChatReply):
            self.accepted = True
            self._gate.succeeded()
            return
        if outcome.refuses:
            self._go_without(outcome.refuses)
        if outcome.status in (429, 503):
            self._gate.overrun(sent)
        if outcome.passes and outcome.pause is not None:
            if outcome.pause <= self._patience.longest_pause:
                self._gate.pause(outcome.pause)
            else:
                self._stop(
                    f"{outcome.reason}; it wants no requests for {outcome.pause:.0f} s, run this again after that"
                )
        if self._hopeless(outcome):
            self._stop(outcome.reason)

    def _tell(self, trouble: Trouble) -> None:
        """Who waits for an endpoint that is not there wonders why."""
        with self._gate.changed:
            told, self._told = self._told, True
        if not told:
            logger.warning("%s; asking again, up to %d times", trouble.reason, self._patience.retries)

    def _go_without(self, fields: frozenset[str]) -> None:
        with self._gate.changed:
            new = fields - self._refused
            self._refused |= fields
        for name in sorted(new & SAMPLING):
            logger.warning("the model takes no %s; it replies at its own", name)

    def _hopeless(self, trouble: Trouble) -> bool:
        """Some endpoints refuse single requests, which they do not like, with 403."""
        return trouble.hopeless or (trouble.status == 403 and not self.accepted)

    def _wait(self, attempt: int) -> float:
        """Exponential backoff with full jitter, so that requests which failed together do not come back together."""
        return random.uniform(0, min(_LONGEST_BACKOFF, self._patience.backoff * 2.0 ** min(attempt, 30)))

    def _finished(self, reason: str | None) -> None:
        """Stops when most of the last requests failed for good."""
        with self._gate.changed:
            self._last.append(reason)
            reasons = Counter(reason for reason in self._last if reason is not None)
            if len(self._last) < self._patience.window or 2 * reasons.total() <= self._patience.window:
                return
            common, _ = reasons.most_common(1)[0]
            self._stop(
                f"{reasons.total()} of the last {self._patience.window} requests failed, mostly because {common}"
            )
            self._last.clear()

    def _stop(self, why: str) -> None:
        with self._gate.changed:
            if self.stopped is None:
                self.stopped = why
                logger.warning("no more requests are sent: %s", why)
            self._gate.changed.notify_all()
