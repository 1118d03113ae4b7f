"""`hf-icon2 distill --method cyclealign`: from a recipe to its objects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hf_icon2.distillation.cycle_recipe import CycleRecipe

if TYPE_CHECKING:
    from hf_icon2.judges.ranking import Ranker
    from hf_icon2.judges.verdicts import Demonstration

RECIPE, TOY_RECIPE = CycleRecipe, "cyclealign.yaml"

CACHE = "requests.sqlite"
"""In the folder of the run: what the black box has answered, and what it cost."""


def distil(recipe: CycleRecipe, output: Path) -> Path:
    """Runs the cycles; returns the folder of the last student."""
    from hf_icon2.commands.students import prompts_of, student_source
    from hf_icon2.distillation.cyclealign import CycleAlign

    prompts = prompts_of(recipe.prompts, recipe.column, recipe.number, recipe.seed)
    demonstrations = _demonstrations(recipe)
    with _black_box(recipe) as endpoint:
        return CycleAlign(
            student_source(recipe.student),
            prompts,
            _ranker(recipe, endpoint, output / CACHE),
            output,
            recipe,
            demonstrations=demonstrations,
        ).run()


def _demonstrations(recipe: CycleRecipe) -> tuple[Demonstration, ...]:
    from hf_icon2.distillation.demonstrations import read_demonstrations
    from hf_icon2.judges.verdicts import Demonstration
    from hf_icon2.toy.ranking import static_demonstrations

    if recipe.ranker.demonstrations is not None:
        return read_demonstrations(recipe.ranker.demonstrations)
    if recipe.ranker.endpoint is not None:
        return ()
    return tuple(Demonstration(question, answers) for question, answers in static_demonstrations())


@contextmanager
def _black_box(recipe: CycleRecipe) -> Iterator[str]:
    """The address of the endpoint; the toy's own is served as long as the run lasts."""
    if recipe.ranker.endpoint is not None:
        yield recipe.ranker.endpoint
        return
    from hf_icon2.toy.ranker import RankerServer

    with RankerServer() as server:
        yield server.endpoint


def _ranker(recipe: CycleRecipe, endpoint: str, cache: Path) -> Ranker:
    from hf_icon2.judges.chat.budget import Budget, Prices
    from hf_icon2.judges.chat.client import ChatClient
    from hf_icon2.judges.ranking import RankingJudge

    settings = recipe.ranker
    prices = None
    if settings.input_price is not None and settings.output_price is not None:
        prices = Prices(settings.input_price, settings.output_price)
    chat = ChatClient(
        endpoint,
        settings.endpoint_model,
        concurrency=settings.concurrency,
        timeout=settings.timeout,
        retries=settings.retries,
        cache=cache,
        budget=Budget(settings.most_requests, settings.most_tokens, settings.most_cost),
        prices=prices,
    )
    return RankingJudge(chat, seed=recipe.seed, max_tokens=settings.max_tokens)
