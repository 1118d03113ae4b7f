"""Many chat requests to one endpoint: none lost, none paid for twice, no more than allowed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_icon2.judges.chat.asking import open_connections
from hf_icon2.judges.chat.batch import Batch
from hf_icon2.judges.chat.budget import Budget, Prices, Usage
from hf_icon2.judges.chat.gate import Gate
from hf_icon2.judges.chat.keys import ROUTER, checked_endpoint, key_for
from hf_icon2.judges.chat.ledger import Ledger
from hf_icon2.judges.chat.records import ChatFailure, ChatReply, ChatRequest
from hf_icon2.judges.chat.sending import Patience, Sender
from hf_icon2.judges.chat.store import ReplyStore, request_key

_MOST_CONNECTIONS = 100  # of huggingface_hub's session


class ChatClient:
    """Asks an OpenAI-compatible endpoint; implements `Chat`.

    The key comes from the environment variable HF_ICON2_ENDPOINT_KEY; hosts of Hugging Face are shown the Hub's
    token where it is not set. It is never logged, cached, or put into a message.

    What may pass (no connection, no answer in time, status 408, 425, 429 or 5xx, a cut or malformed body) is asked
    again after a random part of `backoff` x 2^n seconds, or when the endpoint's `Retry-After` is over, which holds
    up all requests. What cannot pass is a `ChatFailure` at once. 429 and 503 halve the number of requests in
    flight, successes let it grow again; the limit is the client's, whatever the number of threads that call it. Of
    equal requests, also of several threads, one is sent.

    A model that refuses `max_tokens` for `max_completion_tokens`, or a temperature or `top_p` other than its own, is
    asked anew as it wants, and so from then on; a warning says that it samples as it likes. Cache and budget stay
    those of the request as it was meant.

    Calls end early, and `stopped` says why, if the budget is spent, if the endpoint refuses whoever asks (401, 402, or
    403 before any reply, 429 for want of credit), if it wants a pause above `longest_pause`, or if more than half
    of the last `window` requests failed for good. What was not answered is then a `ChatFailure` with `stopped`;
    asked again, with the same cache, it goes on from there.

    Args:
        endpoint: Address like `http://127.0.0.1:8000/v1`; None for the Hub's Inference Providers.
        model: Name of the model at the endpoint, where it serves several.
        concurrency: Most requests in flight, 1 to 100.
        timeout: Seconds without a byte after which an endpoint counts as silent. One that sends a byte now and then,
            as some do while a model thinks, is waited for without end.
        retries: Times that a request is sent again.
        cache: SQLite file that keeps the replies and what was spent; made if missing. What is in it is never asked
            again, not even after a kill. None forgets with the client.
        budget: Most to spend.
        prices: Of the model, to count the cost by.
        extra: Further fields of each request's body, such as `{"reasoning_effort": "low"}`.
        backoff: Seconds; the base of the waits.
        longest_pause: Longest `Retry-After` that is waited for, in seconds.
        window: Finished requests that the early stop looks at.

    Raises:
        OSError: If the cache cannot be used.
        ValueError: If an argument is not allowed, the address may hold a key, the cache is damaged, or proxies or
            certificates of the environment cannot be used.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        model: str | None = None,
        *,
        concurrency: int = 8,
        timeout: float = 120.0,
        retries: int = 6,
        cache: Path | str | None = None,
        budget: Budget | None = None,
        prices: Prices | None = None,
        extra: Mapping[str, Any] | None = None,
        backoff: float = 1.0,
        longest_pause: float = 600.0,
        window: int = 20,
    ) -> None:
        from huggingface_hub import InferenceClient

        if endpoint is None and model is None:
            raise ValueError("the Hub's Inference Providers need model=; or give the address of an endpoint")
        if not 1 <= concurrency <= _MOST_CONNECTIONS:
            raise ValueError(f"concurrency={concurrency!r} is not allowed; give 1 to {_MOST_CONNECTIONS}")
        if not 0 < timeout < math.inf:
            raise ValueError(f"timeout={timeout!r} is not allowed; give seconds, more than 0")
        if budget is not None and budget.cost is not None and prices is None:
            raise ValueError(
                f"a budget of ${budget.cost:g} needs prices=Prices(input, output) to count the cost by"
            )
        self.endpoint = checked_endpoint(ROUTER if endpoint is None else endpoint)
        open_connections()
        self.model = model
        self._extra = dict(extra or {})
        patience = Patience(retries, backoff, longest_pause, window)
        client = InferenceClient(base_url=self.endpoint, api_key=key_for(self.endpoint), timeout=timeout)
        self._gate = Gate(concurrency)
        self._store = ReplyStore(None if cache is None else Path(cache))
        self._ledger = Ledger(self._gate, self._store, budget or Budget(), prices)
        self._sender = Sender(client, model, self._extra, patience, self._gate, self._store, self._ledger)
        self._running = 0  # calls of `complete`

    @property
    def allowed(self) -> int:
        """How many requests may be in flight now."""
        return self._gate.allowed

    @property
    def stopped(self) -> str | None:
        """Why the last call ended early; None if it did not."""
        return self._sender.stopped

    @property
    def usage(self) -> Usage:
        """What this client has done since it was made."""
        return self._ledger.usage

    def complete(
        self, requests: Sequence[ChatRequest], *, progress: str | None = None
    ) -> list[ChatReply | ChatFailure]:
        """Answers all requests, in their order; equal ones are sent once.

        Args:
            requests: What to ask.
            progress: Name of the progress bar; None shows none.

        Raises:
            OSError: If the cache can no longer be used; replies until then are kept.
            ValueError: If it is damaged.
        """
        asked = [] if isinstance(requests, ChatRequest) else list(requests)
        if isinstance(requests, ChatRequest) or not all(isinstance(each, ChatRequest) for each in asked):
            raise TypeError(
                "complete() takes a list of ChatRequest, got something else; pass [request] for one"
            )
        batch = Batch(asked, self._key_of, self._known)
        self._begin()
        try:
            batch.work(
                lambda key, request: self._sender.answer(key, request, lambda: batch.ended),
                self._gate.most,
                progress,
                self._cost,
            )
        finally:
            self._end(batch)
        return batch.outcomes

    def _begin(self) -> None:
        with self._gate.changed:
            if self._running == 0:
                self._sender.stopped = None
            self._running += 1

    def _end(self, batch: Batch) -> None:
        self._ledger.count_cached(batch.repeated)
        with self._gate.changed:
            self._running -= 1
            batch.ended = True
            self._gate.changed.notify_all()

    def _key_of(self, request: ChatRequest) -> str:
        return request_key(self.endpoint, self.model, self._extra, request)

    def _known(self, keys: Sequence[str]) -> dict[str, ChatReply]:
        known = self._store.replies(keys)
        self._sender.accepted |= bool(known)
        return known

    def _cost(self) -> str:
        cost = self.usage.cost
        return "" if cost is None else f"${cost:.4f}"
