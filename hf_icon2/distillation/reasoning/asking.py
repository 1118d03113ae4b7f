"""Asks a teacher the same thing several times over, and keeps what can be read."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from hf_icon2.judges.chat.records import ChatFailure, ChatReply, ChatRequest

if TYPE_CHECKING:
    from hf_icon2.judges.chat.records import Chat

logger = logging.getLogger(__name__)

_SEED_STEP = 1_000_003
_SEEDS = 2**31 - 1  # endpoints take 32 bits with a sign; a prime keeps large seeds apart

Key = TypeVar("Key")
Read = TypeVar("Read")


@dataclass
class Replies(Generic[Key, Read]):
    """What could be read, by key and in the order asked, and why the rest could not."""

    kept: dict[Key, Read]
    dropped: Counter[str]

    @property
    def asked(self) -> int:
        """How many there were."""
        return len(self.kept) + self.dropped.total()

    @property
    def reasons(self) -> str:
        """Why replies were dropped, the most frequent reason first."""
        return "; ".join(f"{reason} ({count})" for reason, count in self.dropped.most_common())

    def figures(self) -> dict[str, Any]:
        """How many were `asked` and `kept`, the `share` kept, and those `dropped` by reason."""
        share = len(self.kept) / self.asked if self.asked else None
        dropped = dict(self.dropped.most_common())
        return {"asked": self.asked, "kept": len(self.kept), "share": share, "dropped": dropped}


@dataclass(frozen=True)
class Teacher:
    """Asks many prompts and reads what comes back.

    Args:
        chat: Answers the requests.
        temperature: Of the sampling.
        max_tokens: Longest reply.
        seed: Of the sampling, or None to send none.
        system: System prompt, or None.
        progress: Whether to show progress bars.
    """

    chat: Chat
    temperature: float
    max_tokens: int
    seed: int | None
    system: str | None
    progress: bool

    def ask(
        self, what: str, wanted: Mapping[Key, tuple[str, int]], read: Callable[[Key, str], Read]
    ) -> Replies[Key, Read]:
        """Asks prompts and reads the replies.

        Args:
            what: Name of what is asked for, in the plural.
            wanted: Prompts, each with a number that tells it from others of the same words.
            read: What a reply of a key says; its ValueError is the reason to drop it, up to the first colon.

        Raises:
            OSError: If the chat stopped before all was answered.
        """
        requests = [self._request(prompt, repeat) for prompt, repeat in wanted.values()]
        replies = self.chat.complete(requests, progress=what if self.progress else None)
        stops = [one.reason for one in replies if isinstance(one, ChatFailure) and one.stopped]
        if stops:
            raise OSError(
                f"the teacher stopped: {stops[0]}; {len(replies) - len(stops)} of {len(replies)} {what} were "
                "answered and stay in the chat client's cache, which is lost with it unless it is a file (cache=); "
                "mend the cause or raise the budget, and the same call goes on"
            )
        kept: dict[Key, Read] = {}
        dropped: Counter[str] = Counter()
        for key, reply in zip(wanted, replies, strict=True):
            try:
                kept[key] = read(key, self._text(reply))
            except ValueError as error:
                dropped[str(error).partition(":")[0]] += 1
        found = Replies(kept, dropped)
        if dropped:
            logger.warning("%d of %d %s are dropped: %s", dropped.total(), len(wanted), what, found.reasons)
        return found

    def _request(self, prompt: str, repeat: int) -> ChatRequest:
        system = () if self.system is None else ({"role": "system", "content": self.system},)
        return ChatRequest(
            (*system, {"role": "user", "content": prompt}),
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            seed=None if self.seed is None else (self.seed * _SEED_STEP + repeat) % _SEEDS,
            repeat=repeat,
        )

    def _text(self, reply: ChatReply | ChatFailure) -> str:
        if isinstance(reply, ChatFailure):
            raise ValueError(reply.reason)
        if reply.finish_reason == "length":
            raise ValueError(f"the reply was cut at max_tokens={self.max_tokens}, raise it")
        return reply.text
