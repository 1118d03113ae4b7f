"""Questions of one or more turns, and what a model replies: each turn with its own earlier replies in context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm.auto import tqdm

from hf_icon2.evaluation.answering import BENCHMARK_SAMPLING, complete_prompts
from hf_icon2.judges.answer_files import read_rows, row_id, row_prompt
from hf_icon2.prompts import Instruction, as_messages, decode_answer
from hf_icon2.steering.decoding import Completion, Sampling
from hf_icon2.storage import shortened

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hf_icon2.directions.vectors import DirectionVectors
    from hf_icon2.steering.plans import RowSteering


class Question(NamedTuple):
    """What a user says, turn by turn.

    Args:
        name: Its id; a number where it is one in the file.
        turns: The first may be a conversation, the others are texts.
        category: What it is about, such as "math".
        dataset: The part of a benchmark it comes from.
    """

    name: str | int
    turns: tuple[Instruction, ...]
    category: str | None = None
    dataset: str | None = None


class Replies(NamedTuple):
    """What a model replies to a question, turn by turn.

    Args:
        texts: The replies.
        tokens: Number of tokens of each.
        finish_reasons: "stop" for one that ended by itself, "length" for one that was cut.
    """

    texts: tuple[str, ...]
    tokens: tuple[int, ...] = ()
    finish_reasons: tuple[str, ...] = ()


def read_questions(path: Path) -> list[Question]:
    """Reads the question file of MT-Bench, Arena-Hard or AlpacaEval, or any rows of prompts.

    A row has `turns`, or a prompt as `read_answers` knows it (prompt, instruction or question), or `messages` that
    end with the user's. It may have an id (its place from 0 by default), a `category`, and a `dataset`.

    Args:
        path: File of JSON lines, or of one JSON list.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not JSON, is empty, or a row has no prompt.
    """
    questions = []
    for number, row in enumerate(read_rows(path), 1):
        try:
            questions.append(_question(row, number - 1))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"row {number} of {path} cannot be used: {error}") from error
    if not questions:
        raise ValueError(f"{path} holds no questions; give rows with a prompt, or with turns")
    return questions


def answer_turns(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    *,
    sampling: Sampling = BENCHMARK_SAMPLING,
    temperatures: Mapping[str, float] | None = None,
    seed: int = 0,
    system: str | None = None,
    directions: DirectionVectors | None = None,
    steering: RowSteering | None = None,
    batch_size: int = 32,
    progress: str | None = None,
) -> list[Replies]:
    """Replies to all turns of all questions; first to all first turns, then to all second ones.

    Args:
        model: Causal LM, or a PEFT model around one.
        tokenizer: Its tokenizer; several turns need a chat template.
        questions: What is asked; seeds follow from their names.
        sampling: How tokens are chosen.
        temperatures: Per category, where they differ from that of `sampling`.
        seed: Of the run.
        system: System prompt, or None.
        directions: Needed to steer.
        steering: Strength per criterion; None replies as the model is.
        batch_size: Prompts decoded at a time.
        progress: Name of the progress bar; None shows none.

    Raises:
        ValueError: If there are several turns and no chat template, or steering lacks directions.
    """
    if tokenizer.chat_template is None and any(len(question.turns) > 1 for question in questions):
        raise ValueError(
            "a second turn needs a chat template, and this tokenizer has none; set tokenizer.chat_template, or ask "
            "questions of one turn"
        )
    drawn: list[list[Completion]] = [[] for _ in questions]
    total = sum(len(question.turns) for question in questions)
    with tqdm(desc=progress, total=total, disable=progress is None) as bar:
        for turn in range(max((len(question.turns) for question in questions), default=0)):
            for temperature, places in _by_temperature(questions, turn, sampling, temperatures).items():
                completions = complete_prompts(
                    model,
                    tokenizer,
                    [_conversation(tokenizer, questions[place], drawn[place]) for place in places],
                    sampling=replace(sampling, temperature=temperature),
                    seed=seed,
                    system=system,
                    directions=directions,
                    steering=steering,
                    names=[_seed_name(questions[place], turn) for place in places],
                    batch_size=batch_size,
                    progress=bar.update,
                )
                for place, completion in zip(places, completions, strict=True):
                    drawn[place].append(completion)
    return [_replies(tokenizer, completions) for completions in drawn]


def conversation(question: Question, replies: Sequence[str]) -> Instruction:
    """The prompt of the next turn: what was said and replied so far, and what the user says now."""
    if not replies:
        return question.turns[0]
    messages = as_messages(question.turns[0])
    for reply, turn in zip(replies, question.turns[1:], strict=False):
        messages += [{"role": "assistant", "content": reply}, *as_messages(turn)]
    return messages


def _question(row: Any, place: int) -> Question:  # noqa: ANN401
    if not isinstance(row, Mapping):
        raise ValueError(f"it is {shortened(row)}, not an object with a prompt")
    name = row_id(row)
    number = row.get("question_id")  # FastChat looks answers up by the number, not by its digits
    if isinstance(number, int):
        return Question(number, _turns(row), row.get("category"), row.get("dataset"))
    return Question(
        str(place) if name is None else name, _turns(row), row.get("category"), row.get("dataset")
    )


def _turns(row: Mapping[str, Any]) -> tuple[Instruction, ...]:
    if row.get("turns"):
        texts = [turn["content"] if isinstance(turn, Mapping) else turn for turn in row["turns"]]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise ValueError(f"its turns are {shortened(row['turns'])}; allowed: texts that are not empty")
        return tuple(texts)
    if row.get("messages"):
        return (as_messages(row["messages"]),)
    return (row_prompt(row),)


def _by_temperature(
    questions: Sequence[Question], turn: int, sampling: Sampling, temperatures: Mapping[str, float] | None
) -> dict[float, list[int]]:
    """Places of the questions that have such a turn, by the temperature of their replies."""
    found: dict[float, list[int]] = {}
    for place, question in enumerate(questions):
        if turn < len(question.turns):
            temperature = (temperatures or {}).get(question.category or "", sampling.temperature)
            found.setdefault(temperature, []).append(place)
    return found


def _conversation(
    tokenizer: PreTrainedTokenizerBase, question: Question, completions: Sequence[Completion]
) -> Instruction:
    return conversation(question, [decode_answer(tokenizer, completion.ids) for completion in completions])


def _seed_name(question: Question, turn: int) -> str:
    return str(question.name) if turn == 0 else f"{question.name}/{turn}"


def _replies(tokenizer: PreTrainedTokenizerBase, completions: Sequence[Completion]) -> Replies:
    return Replies(
        tuple(decode_answer(tokenizer, completion.ids) for completion in completions),
        tuple(len(completion.ids) for completion in completions),
        tuple(completion.finish_reason for completion in completions),
    )
