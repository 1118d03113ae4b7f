"""`hf-icon2 distill --method cyclealign`: from a recipe to its objects."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hf_icon2.commands.endpoints import CACHE, chat_client, served
from hf_icon2.commands.students import measured as measured
from hf_icon2.distillation.cycle_recipe import CycleRecipe

if TYPE_CHECKING:
    from hf_icon2.distillation.cycle_recipe import Ranker as RankerSettings
    from hf_icon2.judges.chat.client import ChatClient
    from hf_icon2.judges.ranking import Ranker
    from hf_icon2.judges.verdicts import Demonstration

RECIPE, TOY_RECIPE = CycleRecipe, "cyclealign.yaml"


def distil(recipe: CycleRecipe, output: Path) -> Path:
    """Runs the cycles; returns the folder of the last student."""
    from hf_icon2.commands.students import prompts_of, student_source
    from hf_icon2.distillation.cyclealign import CycleAlign
    from hf_icon2.toy.ranker import RankerServer

    prompts = prompts_of(recipe.prompts, recipe.column, recipe.number, recipe.seed)
    demonstrations = _demonstrations(recipe.ranker)
    with served(recipe.ranker, RankerServer) as endpoint:
        chat = chat_client(recipe.ranker, endpoint, output / CACHE)
        return CycleAlign(
            student_source(recipe.student),
            prompts,
            _ranker(recipe.ranker, chat, recipe.seed),
            output,
            recipe,
            demonstrations=demonstrations,
            chat=chat,
        ).run()


def _demonstrations(settings: RankerSettings) -> tuple[Demonstration, ...]:
    from hf_icon2.distillation.demonstrations import read_demonstrations
    from hf_icon2.judges.verdicts import Demonstration
    from hf_icon2.toy.ranking import static_demonstrations

    if settings.demonstrations is not None:
        return read_demonstrations(settings.demonstrations)
    ours = static_demonstrations() if settings.is_ours else ()
    return tuple(Demonstration(question, answers) for question, answers in ours)


def _ranker(settings: RankerSettings, chat: ChatClient, seed: int) -> Ranker:
    from hf_icon2.judges.pairwise import PairwiseJudge
    from hf_icon2.judges.ranking import RankingJudge

    if settings.kind == "pairwise":
        return PairwiseJudge.from_chat(chat, read=settings.read, max_tokens=settings.reply_tokens)
    return RankingJudge(chat, seed=seed, max_tokens=settings.reply_tokens)
