"""The requests of one call, worked through by several threads."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue

from tqdm.auto import tqdm

from hf_icon2.judges.chat.records import ChatFailure, ChatReply, ChatRequest

Outcome = ChatReply | ChatFailure


class Batch:
    """Requests in their order; equal ones are one.

    Args:
        requests: What is asked.
        key_of: Tells requests apart; its ValueError is the request's failure.
        known: Finds the replies of keys that need not be asked for.
    """

    def __init__(
        self,
        requests: Sequence[ChatRequest],
        key_of: Callable[[ChatRequest], str],
        known: Callable[[Sequence[str]], Mapping[str, ChatReply]],
    ) -> None:
        self.ended = False
        self._order: list[str | ChatFailure] = [_key_or_failure(request, key_of) for request in requests]
        self._requests = {
            key: request for key, request in zip(self._order, requests, strict=True) if isinstance(key, str)
        }
        self._copies = Counter(key for key in self._order if isinstance(key, str))
        self._known = known(list(self._requests))
        self._outcomes: dict[str, Outcome] = dict(self._known)

    @property
    def outcomes(self) -> list[Outcome]:
        """One per request, in order."""
        return [key if isinstance(key, ChatFailure) else self._outcomes[key] for key in self._order]

    @property
    def repeated(self) -> int:
        """Requests answered without being asked: their reply was known, or is that of an equal one."""
        answered = {key for key, outcome in self._outcomes.items() if isinstance(outcome, ChatReply)}
        return sum(self._copies[key] for key in answered) - len(answered - self._known.keys())

    def work(
        self,
        answer: Callable[[str, ChatRequest], Outcome],
        threads: int,
        progress: str | None,
        postfix: Callable[[], str],
    ) -> None:
        """Answers what is not known.

        Args:
            answer: Answers one request, by its key; called in several threads.
            threads: How many.
            progress: Name of the progress bar, or None.
            postfix: What the bar says besides.

        Raises:
            Exception: What `answer` raises. Threads that are still in it are left to end by themselves, then as
                well as on Ctrl-C; they are daemons.
        """
        todo = deque((key, request) for key, request in self._requests.items() if key not in self._known)
        done: SimpleQueue[tuple[str, Outcome | BaseException]] = SimpleQueue()
        expected = len(todo)
        workers = [
            threading.Thread(target=self._labour, args=(todo, done, answer), daemon=True)
            for _ in range(min(threads, expected))
        ]
        with tqdm(
            total=len(self._order),
            initial=len(self._order) - sum(self._copies[key] for key, _ in todo),
            desc=progress,
            disable=progress is None,
        ) as bar:
            for worker in workers:
                worker.start()
            for _ in range(expected):
                key, outcome = done.get()
                if isinstance(outcome, BaseException):
                    raise outcome
                self._outcomes[key] = outcome
                bar.update(self._copies[key])
                bar.set_postfix_str(postfix(), refresh=False)
        for worker in workers:
            worker.join()

    def _labour(
        self,
        todo: deque[tuple[str, ChatRequest]],
        done: SimpleQueue[tuple[str, Outcome | BaseException]],
        answer: Callable[[str, ChatRequest], Outcome],
    ) -> None:
        while not self.ended:
            try:
                key, request = todo.popleft()
            except IndexError:
                return
            try:
                done.put((key, answer(key, request)))
            except BaseException as error:  # noqa: B036  (raised again by whoever waits for the result)
                done.put((key, error))
                return


def _key_or_failure(request: ChatRequest, key_of: Callable[[ChatRequest], str]) -> str | ChatFailure:
    try:
        return key_of(request)
    except ValueError as error:
        return ChatFailure(str(error))
