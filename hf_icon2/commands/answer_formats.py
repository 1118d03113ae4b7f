"""Formats of `hf-icon2 answer`: what each can hold, how it is written, and what it is for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_icon2.evaluation.dialogues import Question, Replies

USE = {
    "jsonl": "hf-icon2 judge {path} OTHER.jsonl --endpoint URL",
    "alpaca-eval": "alpaca_eval --model_outputs {path}",
    "arena-hard": "put it into data/arena-hard-v2.0/model_answer of arena-hard-auto",
    "arena-hard-v0.1": "put it into data/arena-hard-v0.1/model_answer of arena-hard-auto",
    "mt-bench": "hf-icon2 mt-bench {path} --questions {prompts} --endpoint URL",
}
BY_FILE = ("arena-hard", "arena-hard-v0.1", "mt-bench")  # whose tools find a model by the file's name


def check_questions(kind: str, questions: Sequence[Question]) -> None:
    """Refuses what the format cannot hold."""
    seen = set()
    for question in questions:
        if kind not in ("jsonl", "mt-bench") and not _is_text(question):
            raise ValueError(
                f"question {question.name} is a conversation, or has several turns; --format {kind} holds single texts"
            )
        if kind != "alpaca-eval" and question.name in seen:
            raise ValueError(f"the id {question.name!r} stands twice in the prompts; give each its own")
        seen.add(question.name)


def _is_text(question: Question) -> bool:
    return len(question.turns) == 1 and isinstance(question.turns[0], str)


def _write_rows(path: Path, questions: Sequence[Question], replies: Sequence[Replies], name: str) -> None:
    from hf_icon2.evaluation.dialogues import conversation
    from hf_icon2.storage import write_json_lines

    rows = (
        {
            "id": question.name,
            "prompt": conversation(question, reply.texts[:-1]),
            "answer": reply.texts[-1],
            "model": name,
            "finish_reason": reply.finish_reasons[-1],
        }
        for question, reply in zip(questions, replies, strict=True)
    )
    write_json_lines(path, rows)


def _write_alpaca_eval(
    path: Path, questions: Sequence[Question], replies: Sequence[Replies], name: str
) -> None:
    from hf_icon2.evaluation.writers import write_alpaca_eval

    known = [question.dataset for question in questions if question.dataset is not None]
    write_alpaca_eval(
        path,
        [str(question.turns[0]) for question in questions],
        [reply.texts[0] for reply in replies],
        generator=name,
        datasets=known if len(known) == len(questions) else None,
    )


def _write_arena_hard(version: Any) -> Callable[..., None]:  # noqa: ANN401
    def write(path: Path, questions: Sequence[Question], replies: Sequence[Replies], name: str) -> None:
        from hf_icon2.evaluation.writers import write_arena_hard

        write_arena_hard(
            path,
            [str(question.name) for question in questions],
            [str(question.turns[0]) for question in questions],
            [reply.texts[0] for reply in replies],
            model=name,
            token_lengths=[reply.tokens[0] for reply in replies],
            version=version,
        )

    return write


def _write_mt_bench(path: Path, questions: Sequence[Question], replies: Sequence[Replies], name: str) -> None:
    from hf_icon2.evaluation.writers import write_mt_bench

    write_mt_bench(
        path,
        [question.name for question in questions],
        [reply.texts for reply in replies],
        model=name,
        finish_reasons=[reply.finish_reasons for reply in replies],
    )


WRITE: dict[str, Callable[..., None]] = {
    "jsonl": _write_rows,
    "alpaca-eval": _write_alpaca_eval,
    "arena-hard": _write_arena_hard("v2.0"),
    "arena-hard-v0.1": _write_arena_hard("v0.1"),
    "mt-bench": _write_mt_bench,
}
