"""`hf-icon2 distill`: a student learns how a teacher ranks its responses."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_icon2.commands.flags import add_flags, with_flags
from hf_icon2.distillation.recipe import ROWS, DistillationRecipe
from hf_icon2.recipe import TOY, read_settings
from hf_icon2.storage import read_json, write_atomic

if TYPE_CHECKING:
    from hf_icon2.prompts import Instruction

SUMMARY = "teach a student how a teacher ranks its responses"

_TOY_RECIPE = Path(__file__).parents[1] / "recipes" / "pad.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "--method", choices=["pad"], default="pad", help="pad: preference-aligned distillation"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the run; made, or taken up")
    parser.add_argument("--config", type=Path, help="recipe (.yaml or .json); flags win over it")
    add_flags(parser, DistillationRecipe)


def run(arguments: argparse.Namespace) -> str:
    """Distils, and says where the student is; of the bundled one also how good it became."""
    recipe = _recipe(arguments)
    _claim(arguments.output, recipe)
    from hf_icon2.distillation.rounds import distil_preferences
    from hf_icon2.judges.wording import compare_prompt
    from hf_icon2.toy.skills import ab_prompt

    model, tokenizer = _teacher(recipe)
    student = distil_preferences(
        _path(recipe.student, "student"),
        _prompts(recipe),
        arguments.output,
        recipe,
        teacher=model,
        teacher_tokenizer=tokenizer,
        judge=_judge(recipe),
        ask=ab_prompt if recipe.teacher == TOY and recipe.scoring.endpoint is None else compare_prompt,
    )
    return f"the student is in {student}{_measured(recipe, student)}"


def _recipe(arguments: argparse.Namespace) -> DistillationRecipe:
    """Flags over the recipe file, over that of the folder, over the bundled student's."""
    skip = ("command", "run", "method", "output", "config")
    given = {name: value for name, value in vars(arguments).items() if name not in skip}
    record = arguments.output / "recipe.json"
    data: dict[str, Any] = {}
    if arguments.config:
        data = read_settings(arguments.config)
    elif record.is_file():
        data = read_json(record)
    elif given.get("student", TOY) == TOY:
        data = read_settings(_TOY_RECIPE)
    return DistillationRecipe.from_dict(with_flags(data, given))


def _claim(folder: Path, recipe: DistillationRecipe) -> None:
    """Keeps the recipe in the folder; that of a run that has scored something else is refused."""
    import json

    record, data = folder / "recipe.json", recipe.to_dict()
    if not record.is_file() or not (folder / "round-1" / ROWS).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(record, json.dumps(data, indent=2) + "\n")
    elif (kept := read_json(record)) != data:
        names = sorted(name for name in {*kept, *data} if kept.get(name) != data.get(name))
        raise ValueError(
            f"{folder} holds a run with another recipe (see {', '.join(names)}); give another --output"
        )


def _path(name: str, which: str) -> str:
    from hf_icon2.toy import assistant_path, student_path

    if name != TOY:
        return name
    return student_path() if which == "student" else assistant_path()


def _teacher(recipe: DistillationRecipe) -> tuple[Any, Any]:
    from hf_icon2.loading import load_model, load_tokenizer

    if recipe.teacher is None:
        return None, None
    source = _path(recipe.teacher, "teacher")
    return load_model(source), load_tokenizer(source)


def _judge(recipe: DistillationRecipe) -> Any:  # noqa: ANN401
    if recipe.scoring.endpoint is None:
        return None
    from hf_icon2.judges.chat.client import ChatClient
    from hf_icon2.judges.chat_letters import ChatLetterJudge

    return ChatLetterJudge(ChatClient(recipe.scoring.endpoint, recipe.scoring.endpoint_model))


def _prompts(recipe: DistillationRecipe) -> list[Instruction]:
    import random

    if recipe.prompts is None:
        from hf_icon2.toy import instructions

        found: list[Instruction] = [item.text for item in instructions("train")]
    else:
        from hf_icon2.pipeline.subject import read_instructions

        found = read_instructions(recipe.prompts, recipe.column)
    if recipe.number is None or recipe.number >= len(found):
        return found
    return random.Random(recipe.seed).sample(found, recipe.number)


def _measured(recipe: DistillationRecipe, student: Path) -> str:
    """How good the bundled student was and is, by its truth table."""
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
