"""Collects several chains of thought per question from a teacher, and its evaluations of each."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from datasets import Dataset, Features, Value

from hf_icon2.distillation.reasoning.figures import chain_figures, evaluation_figures
from hf_icon2.distillation.reasoning.parsing import parse_chain, parse_evaluation
from hf_icon2.distillation.reasoning.records import Question
from hf_icon2.distillation.reasoning.wording import chain_evaluation_prompt, chain_prompt
from hf_icon2.judges.chat.records import ChatFailure, ChatReply, ChatRequest

if TYPE_CHECKING:
    from hf_icon2.judges.chat.records import Chat

logger = logging.getLogger(__name__)

MOST = 1000
"""Chains per question, and evaluations per chain."""

_SEED_STEP = 1_000_003
_SEEDS = 2**31 - 1  # endpoints take 32 bits with a sign; a prime keeps large seeds apart
_COLUMNS = {
    "chains": ("id", "chain", "prompt", "rationale", "label", "answer"),
    "evaluations": ("id", "chain", "number", "prompt", "rationale", "label", "evaluation", "verdict"),
}
_NUMBERS = ("chain", "number")

Key = TypeVar("Key")
Read = TypeVar("Read")


@dataclass(frozen=True)
class Collection:
    """What a teacher has said.

    Args:
        chains: Rows of `id`, `chain` (number from 0), `prompt` (the question's text), `rationale`, `label` (the
            teacher's answer) and `answer` (the right one; None where it is not known).
        evaluations: Rows of `id`, `chain`, `number` (from 0), `prompt`, `rationale`, `label`, `evaluation` (text)
            and `verdict`.
        report: Plain JSON data: `chains` and `evaluations`, each with how many were `asked` and `kept`, the `share`
            kept, those `dropped` by reason, and the figures of `chain_figures` and `evaluation_figures`; and
            `usage`, what the call has spent, None where the chat does not count.
    """

    chains: Dataset
    evaluations: Dataset
    report: dict[str, Any]


def collect_reasoning(
    chat: Chat,
    questions: Iterable[Question],
    *,
    chains: int = 5,
    evaluations: int = 5,
    temperature: float = 0.7,
    max_tokens: int = 512,
    seed: int | None = 0,
    system: str | None = None,
    progress: bool = True,
) -> Collection:
    """Asks a teacher for chains of thought, then for evaluations of those that can be read.

    Every chain and evaluation is a request of its own, told apart from its like by a number and a sampling seed. A
    chat client with a cache therefore asks for none twice: a call that was killed goes on where it was, and one
    with more chains or evaluations asks only for those. What cannot be read is dropped and counted by reason;
    chains of the same words are kept, and counted.

    Args:
        chat: Asks the teacher; a `ChatClient`.
        questions: Split before (see `split_questions`); of different ids.
        chains: Per question, 1 to 1,000.
        evaluations: Per chain, 0 to 1,000.
        temperature: Of the sampling; above 0 where more than one of a kind is asked for. The paper's is unknown.
        max_tokens: Longest reply; models that think before they reply need more.
        seed: Of the sampling, for endpoints that heed one; None sends none, for those that refuse it.
        system: System prompt, or None.
        progress: Whether to show progress bars.

    Raises:
        OSError: If the teacher stopped before all was answered, as when the budget is spent.
        TypeError: If questions are something else.
        ValueError: If an argument is not allowed, or no chain of thought can be read.
    """
    questions = list(questions)
    by_id = _by_id(questions)
    _check(chains, evaluations, temperature)
    teacher = _Teacher(chat, temperature, max_tokens, seed, system, progress)
    before = _usage(chat)
    thoughts = teacher.ask(
        "chains of thought",
        {(one.id, number): (chain_prompt(one), number) for one in questions for number in range(chains)},
        lambda key, reply: parse_chain(reply, by_id[key[0]]),
    )
    if not thoughts.kept:
        raise ValueError(
            f"none of {thoughts.asked} chains of thought can be used: {_listed(thoughts.dropped)}; look at a reply of "
            "the teacher, or choose another"
        )
    judgements = teacher.ask(
        "evaluations",
        {
            (*key, number): (chain_evaluation_prompt(by_id[key[0]], chain), key[1] * MOST + number)
            for key, chain in thoughts.kept.items()
            for number in range(evaluations)
        },
        lambda _key, reply: parse_evaluation(reply),
    )
    chain_rows = [
        {"id": key, "chain": number, "prompt": by_id[key].text, **asdict(chain), "answer": by_id[key].answer}
        for (key, number), chain in thoughts.kept.items()
    ]
    known = {(row["id"], row["chain"]): row for row in chain_rows}
    evaluation_rows = [
        {**known[key, chain], "number": number, "evaluation": judgement.text, "verdict": judgement.verdict}
        for (key, chain, number), judgement in judgements.kept.items()
    ]
    report = {
        "chains": thoughts.figures() | chain_figures(by_id, chain_rows),
        "evaluations": judgements.figures() | evaluation_figures(by_id, evaluation_rows),
        "usage": _difference(before, _usage(chat)),
    }
    return Collection(_dataset("chains", chain_rows), _dataset("evaluations", evaluation_rows), report)


@dataclass
class _Replies(Generic[Key, Read]):
    """What could be read, by key and in the order asked, and why the rest could not."""

    kept: dict[Key, Read]
    dropped: Counter[str]

    @property
    def asked(self) -> int:
        return len(self.kept) + self.dropped.total()

    def figures(self) -> dict[str, Any]:
        share = len(self.kept) / self.asked if self.asked else None
        dropped = dict(self.dropped.most_common())
        return {"asked": self.asked, "kept": len(self.kept), "share": share, "dropped": dropped}


@dataclass(frozen=True)
class _Teacher:
    chat: Chat
    temperature: float
    max_tokens: int
    seed: int | None
    system: str | None
    progress: bool

    def ask(
        self, what: str, wanted: Mapping[Key, tuple[str, int]], read: Callable[[Key, str], Read]
    ) -> _Replies[Key, Read]:
        """Asks prompts, each with the number of its repetition, and reads the replies."""
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
        if dropped:
            logger.warning(
                "%d of %d %s are dropped: %s", dropped.total(), len(wanted), what, _listed(dropped)
            )
        return _Replies(kept, dropped)

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


def _by_id(questions: Sequence[Question]) -> dict[str, Question]:
    for one in questions:
        if not isinstance(one, Question):
            raise TypeError(
                f"questions are of the class Question, got {type(one).__name__}; read rows with read_svamp or its like"
            )
    found = {one.id: one for one in questions}
    if not found:
        raise ValueError("there are no questions to ask")
    if len(found) < len(questions):
        twice = next(key for key, count in Counter(one.id for one in questions).items() if count > 1)
        raise ValueError(f"the id {twice!r} belongs to more than one question; give each its own")
    return found


def _check(chains: int, evaluations: int, temperature: float) -> None:
    if not 1 <= chains <= MOST:
        raise ValueError(f"chains={chains} is not allowed; give 1 to {MOST}")
    if not 0 <= evaluations <= MOST:
        raise ValueError(f"evaluations={evaluations} is not allowed; give 0 to {MOST}")
    if not 0 <= temperature < math.inf or (temperature == 0 and max(chains, evaluations) > 1):
        raise ValueError(
            f"temperature={temperature} is not allowed: several replies to one prompt must differ; give more than 0"
        )


def _dataset(name: str, rows: Sequence[Mapping[str, Any]]) -> Dataset:
    features = Features(
        {column: Value("int64" if column in _NUMBERS else "string") for column in _COLUMNS[name]}
    )
    return Dataset.from_dict({column: [row[column] for row in rows] for column in features}, features)


def _listed(counts: Counter[str]) -> str:
    return "; ".join(f"{reason} ({count})" for reason, count in counts.most_common())


def _usage(chat: Chat) -> dict[str, Any] | None:
    usage = getattr(chat, "usage", None)
    return None if usage is None else asdict(usage)


def _difference(before: dict[str, Any] | None, after: dict[str, Any] | None) -> dict[str, Any] | None:
    if before is None or after is None:
        return None
    return {name: None if value is None else value - (before[name] or 0) for name, value in after.items()}
