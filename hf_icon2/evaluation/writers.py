"""Files of answers that the official tools of AlpacaEval, Arena-Hard and MT-Bench score.

Each is written whole or not at all. Keys, their order and their nesting are those of the tools' own files, of
alpaca_eval 0.6, arena-hard-auto (both versions) and FastChat.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from hf_icon2.storage import write_atomic, write_json_lines

Row = dict[str, Any]
ArenaHardVersion = Literal["v2.0", "v0.1"]

_FENCED = re.compile(r"```([^`]*)```")
_HEADERS = {f"h{depth}": re.compile(rf"^#{{{depth}}}\s", re.MULTILINE) for depth in range(1, 7)}
_LISTS = {
    "ordered": re.compile(r"^\s*\d+\.\s", re.MULTILINE),
    "unordered": re.compile(r"^\s*[-*+]\s", re.MULTILINE),
}
_BOLD = {"**": re.compile(r"\*\*[^*\n]+\*\*"), "__": re.compile(r"__[^_\n]+__")}


def write_alpaca_eval(
    path: Path,
    instructions: Sequence[str],
    answers: Sequence[str],
    *,
    generator: str,
    datasets: Sequence[str] | None = None,
) -> Path:
    """Writes answers for `alpaca_eval --model_outputs FILE`, one JSON list.

    Args:
        path: Target; its folder must exist.
        instructions: As in the reference file, to which rows are joined by the instruction's text.
        answers: One to each.
        generator: Name of the model on the leaderboard.
        datasets: Part of AlpacaEval that each instruction comes from, as its files say.

    Raises:
        OSError: If it cannot be written.
        ValueError: If lists differ in length, or are empty.
    """
    _check(answers, instructions=instructions, **({} if datasets is None else {"datasets": datasets}))
    rows: list[Row] = [
        {"instruction": instruction, "output": answer, "generator": generator}
        for instruction, answer in zip(instructions, answers, strict=True)
    ]
    for row, dataset in zip(rows, datasets or [], strict=False):
        row["dataset"] = dataset
    return write_atomic(path, json.dumps(rows, indent=2, ensure_ascii=False) + "\n")


def write_arena_hard(
    path: Path,
    names: Sequence[str],
    prompts: Sequence[str],
    answers: Sequence[str],
    *,
    model: str,
    token_lengths: Sequence[int],
    version: ArenaHardVersion = "v2.0",
    written_at: float | None = None,
) -> Path:
    """Writes answers for arena-hard-auto, as `data/arena-hard-v2.0/model_answer/MODEL.jsonl`.

    The tool finds a model by the file's name, so call it as the model. Rows of v0.1 carry the prompt too, which it
    ignores and `read_answers` needs.

    Args:
        path: Target; its folder must exist.
        names: `uid` (v2.0) or `question_id` (v0.1) of each question.
        prompts: The questions.
        answers: One to each.
        model: Name of the model.
        token_lengths: Tokens of each answer. The tool's own are those of GPT-4o's tokenizer (v0.1: GPT-3.5's), and
            style control compares them with the baseline's; its `add_markdown_info.py` counts those of a file again.
        version: Of the benchmark.
        written_at: Seconds since 1970; now by default.

    Raises:
        OSError: If it cannot be written.
        ValueError: If lists differ in length or are empty, a name stands twice, or the version is unknown.
    """
    _check(answers, names=names, prompts=prompts, token_lengths=token_lengths)
    _check_unique(names)
    if version not in ("v2.0", "v0.1"):
        raise ValueError(f"version={version!r} of Arena-Hard is unknown; allowed: 'v2.0' and 'v0.1'")
    row = _arena_hard_2 if version == "v2.0" else _arena_hard_01
    now = time.time() if written_at is None else written_at
    columns = zip(names, prompts, answers, token_lengths, strict=True)
    return write_json_lines(path, (row(*column, model, now) for column in columns))


def write_mt_bench(
    path: Path,
    names: Sequence[int | str],
    answers: Sequence[Sequence[str]],
    *,
    model: str,
    finish_reasons: Sequence[Sequence[str]] | None = None,
    written_at: float | None = None,
) -> Path:
    """Writes answers for FastChat's `llm_judge`, as `data/mt_bench/model_answer/MODEL.jsonl`.

    Args:
        path: Target; its folder must exist.
        names: `question_id` of each question, a number in FastChat's file.
        answers: The turns of each, two in MT-Bench.
        model: Name of the model, and of the file.
        finish_reasons: How each turn ended, "stop" or "length"; FastChat does not know the key, our report counts.
        written_at: Seconds since 1970; now by default.

    Raises:
        OSError: If it cannot be written.
        ValueError: If lists differ in length or are empty, or a name stands twice.
    """
    _check(answers, names=names, **({} if finish_reasons is None else {"finish_reasons": finish_reasons}))
    _check_unique(names)
    now = time.time() if written_at is None else written_at
    rows: list[Row] = [
        {
            "question_id": name,
            "answer_id": _answer_id(model, name, turns),
            "model_id": model,
            "choices": [{"index": 0, "turns": list(turns)}],
            "tstamp": now,
        }
        for name, turns in zip(names, answers, strict=True)
    ]
    for row, reasons in zip(rows, finish_reasons or [], strict=False):
        row["finish_reasons"] = list(reasons)
    return write_json_lines(path, rows)


def markdown_counts(answer: str) -> dict[str, dict[str, int]]:
    """Headers, list items and bold runs outside of fenced code, as Arena-Hard counts them for style control.

    A fence loses what stands in it, and so does the same text elsewhere: the tool's own rule.
    """
    for block in _FENCED.findall(answer):
        answer = answer.replace(block, "")
    return {
        name: {kind: len(pattern.findall(answer)) for kind, pattern in patterns.items()}
        for name, patterns in (("header_count", _HEADERS), ("list_count", _LISTS), ("bold_count", _BOLD))
    }


def _arena_hard_2(name: str, prompt: str, answer: str, tokens: int, model: str, now: float) -> Row:
    return {
        "uid": name,
        "ans_id": _answer_id(model, name, answer),
        "model": model,
        "messages": [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": {"answer": answer}},
        ],
        "tstamp": now,
        "metadata": {"token_len": tokens, **markdown_counts(answer)},
    }


def _arena_hard_01(name: str, prompt: str, answer: str, tokens: int, model: str, now: float) -> Row:
    return {
        "question_id": name,
        "answer_id": _answer_id(model, name, answer),
        "model_id": model,
        "choices": [{"index": 0, "turns": [{"content": answer, "token_len": tokens}]}],
        "tstamp": now,
        "conv_metadata": {"token_len": tokens, **markdown_counts(answer)},
        "prompt": prompt,
    }


def _answer_id(*parts: object) -> str:
    """22 characters, as the tools' ids have; of the content, so that the same answers make the same file."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:22]


def _check(answers: Sequence[object], **columns: Sequence[object]) -> None:
    for name, column in columns.items():
        if len(column) != len(answers):
            raise ValueError(
                f"{len(answers)} answers and {len(column)} {name}; give one of each per question"
            )
    if not answers:
        raise ValueError("there are no answers to write; an empty file could not be scored")


def _check_unique(names: Sequence[object]) -> None:
    seen: set[object] = set()
    for name in names:
        if name in seen:
            raise ValueError(
                f"the question {name!r} is answered twice; the tools would keep one of the answers"
            )
        seen.add(name)
