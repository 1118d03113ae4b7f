"""What every method of distillation is given on the command line: a student and prompts, the bundled ones too."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hf_icon2.recipe import TOY

if TYPE_CHECKING:
    from hf_icon2.prompts import Instruction


def student_source(name: str) -> str:
    """Model id or path of a student; `toy` is the bundled one."""
    from hf_icon2.toy import student_path

    return student_path() if name == TOY else name


def prompts_of(prompts: str | None, column: str, number: int | None, seed: int) -> list[Instruction]:
    """What the student answers: of a file or dataset, else the toy's training instructions.

    Args:
        prompts: JSONL file or Hub dataset.
        column: With the prompt.
        number: How many to draw; all where it is None or there are not as many.
        seed: Of the draw.
    """
    import random

    if prompts is None:
        from hf_icon2.toy import instructions

        found: list[Instruction] = [item.text for item in instructions("train")]
    else:
        from hf_icon2.pipeline.subject import read_instructions

        found = read_instructions(prompts, column)
    if number is None or number >= len(found):
        return found
    return random.Random(seed).sample(found, number)


class _Settings(Protocol):
    student: str
    seed: int


def measured(recipe: _Settings, student: Path) -> str:
    """How good the bundled student was and is, by its truth table; nothing of another one."""
    if recipe.student != TOY:
        return ""
    from hf_icon2.loading import load_model, load_tokenizer
    from hf_icon2.pipeline.evaluation import sample_answers, truth_shares
    from hf_icon2.recipe import Evaluation
    from hf_icon2.toy import instructions, student_path

    prompts = [item.text for item in instructions("test")]
    tokenizer = load_tokenizer(student_path())
    before, after = (
        truth_shares(prompts, sample_answers(load_model(path), tokenizer, prompts, Evaluation(), recipe.seed))
        for path in (student_path(), str(student))
    )
    return f"; right in all behaviours: {before['correct']} before, {after['correct']} after"
