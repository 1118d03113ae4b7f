"""Collects several chains of thought per question from a teacher, and its evaluations of each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from datasets import Dataset, Features, Value

from hf_icon2.distillation.reasoning.asking import Replies, Teacher
from hf_icon2.distillation.reasoning.figures import chain_figures, evaluation_figures
from hf_icon2.distillation.reasoning.parsing import parse_chain, parse_evaluation
from hf_icon2.distillation.reasoning.records import Chain, Evaluation, Question
from hf_icon2.distillation.reasoning.wording import chain_evaluation_prompt, chain_prompt

if TYPE_CHECKING:
    from hf_icon2.judges.chat.records import Chat

MOST = 1000
"""Chains per question, and evaluations per chain."""

_COLUMNS = {
    "chains": ("id", "chain", "prompt", "rationale", "label", "answer"),
    "evaluations": ("id", "chain", "number", "prompt", "rationale", "label", "evaluation", "verdict"),
}
_NUMBERS = ("chain", "number")

ChainKey = tuple[str, int]
"""Id of the question, and number of the chain."""

EvaluationKey = tuple[str, int, int]
"""The same, and number of the evaluation."""

Row = dict[str, Any]


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
    by_id = _by_id(list(questions))
    _check(chains, evaluations, temperature)
    teacher = Teacher(chat, temperature, max_tokens, seed, system, progress)
    before = _usage(chat)
    thoughts = _think(teacher, by_id, chains)
    judgements = _judge(teacher, by_id, thoughts.kept, evaluations)
    chain_rows = _chain_rows(by_id, thoughts.kept)
    evaluation_rows = _evaluation_rows(chain_rows, judgements.kept)
    report = {
        "chains": thoughts.figures() | chain_figures(by_id, chain_rows),
        "evaluations": judgements.figures() | evaluation_figures(by_id, evaluation_rows),
        "usage": _difference(before, _usage(chat)),
    }
    return Collection(_dataset("chains", chain_rows), _dataset("evaluations", evaluation_rows), report)


def _think(teacher: Teacher, by_id: Mapping[str, Question], chains: int) -> Replies[ChainKey, Chain]:
    wanted = {
        (key, number): (chain_prompt(question), number)
        for key, question in by_id.items()
        for number in range(chains)
    }
    found = teacher.ask("chains of thought", wanted, lambda key, reply: parse_chain(reply, by_id[key[0]]))
    if not found.kept:
        raise ValueError(
            f"none of {found.asked} chains of thought can be used: {found.reasons}; look at a reply of the teacher, "
            "or choose another"
        )
    return found


def _judge(
    teacher: Teacher, by_id: Mapping[str, Question], chains: Mapping[ChainKey, Chain], evaluations: int
) -> Replies[EvaluationKey, Evaluation]:
    wanted = {
        (key, chain, number): (prompt, chain * MOST + number)
        for (key, chain), thoughts in chains.items()
        for prompt in (chain_evaluation_prompt(by_id[key], thoughts),)
        for number in range(evaluations)
    }
    return teacher.ask("evaluations", wanted, lambda _key, reply: parse_evaluation(reply))


def _chain_rows(by_id: Mapping[str, Question], chains: Mapping[ChainKey, Chain]) -> list[Row]:
    return [
        {"id": key, "chain": number, "prompt": by_id[key].text, **asdict(chain), "answer": by_id[key].answer}
        for (key, number), chain in chains.items()
    ]


def _evaluation_rows(chains: Sequence[Row], evaluations: Mapping[EvaluationKey, Evaluation]) -> list[Row]:
    known = {(row["id"], row["chain"]): row for row in chains}
    return [
        {**known[key, chain], "number": number, "evaluation": one.text, "verdict": one.verdict}
        for (key, chain, number), one in evaluations.items()
    ]


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


def _usage(chat: Chat) -> dict[str, Any] | None:
    usage = getattr(chat, "usage", None)
    return None if usage is None else asdict(usage)


def _difference(before: dict[str, Any] | None, after: dict[str, Any] | None) -> dict[str, Any] | None:
    if before is None or after is None:
        return None
    return {name: None if value is None else value - (before[name] or 0) for name, value in after.items()}
