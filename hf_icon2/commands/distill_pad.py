"""`hf-icon2 distill --method pad`: from a recipe to its objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hf_icon2.commands.students import measured as measured
from hf_icon2.distillation.claim import claim_folder
from hf_icon2.distillation.recipe import ROWS, DistillationRecipe
from hf_icon2.recipe import TOY

RECIPE, TOY_RECIPE = DistillationRecipe, "pad.yaml"

CACHE = "requests.sqlite"
"""In the folder of the run: what the endpoint has answered; a run taken up again does not pay for it twice."""


def distil(recipe: DistillationRecipe, output: Path) -> Path:
    """Runs the rounds; returns the folder of the last student."""
    claim_folder(output, recipe.to_dict(), begun=(output / "round-1" / ROWS).is_file())
    from hf_icon2.commands.students import prompts_of, student_source
    from hf_icon2.distillation.rounds import distil_preferences
    from hf_icon2.judges.wording import compare_prompt
    from hf_icon2.toy.skills import ab_prompt

    model, tokenizer = _teacher(recipe)
    return distil_preferences(
        student_source(recipe.student),
        prompts_of(recipe.prompts, recipe.column, recipe.number, recipe.seed),
        output,
        recipe,
        teacher=model,
        teacher_tokenizer=tokenizer,
        judge=_judge(recipe, output / CACHE),
        ask=ab_prompt if recipe.teacher == TOY and recipe.scoring.endpoint is None else compare_prompt,
    )


def _teacher(recipe: DistillationRecipe) -> tuple[Any, Any]:
    from hf_icon2.loading import load_model, load_tokenizer
    from hf_icon2.toy import assistant_path

    if recipe.teacher is None:
        return None, None
    source = assistant_path() if recipe.teacher == TOY else recipe.teacher
    return load_model(source), load_tokenizer(source)


def _judge(recipe: DistillationRecipe, cache: Path) -> Any:  # noqa: ANN401
    if recipe.scoring.endpoint is None:
        return None
    from hf_icon2.judges.chat.client import ChatClient
    from hf_icon2.judges.chat_letters import ChatLetterJudge

    return ChatLetterJudge(ChatClient(recipe.scoring.endpoint, recipe.scoring.endpoint_model, cache=cache))
