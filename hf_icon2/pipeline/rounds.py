"""The rounds of a run: each measures, synthesises, pairs and trains anew, from the model of the round before.

So the pairs of a later round come from the policy that learns from them. The last round lies in the run's folder
itself, earlier ones in `round-k/`, all laid out alike: a run of one round is the last one alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from hf_icon2.pipeline.folder import RunFolder
from hf_icon2.pipeline.stages import Run
from hf_icon2.pipeline.subject import Subject
from hf_icon2.steering.noise import row_seed


def round_folders(folder: RunFolder) -> list[RunFolder]:
    """The folders of the rounds, in order; each has the recipe with the seed of its round."""
    recipe, last = folder.recipe, folder.recipe.rounds
    return [
        RunFolder(
            folder.path if number == last else folder.path / f"round-{number}",
            replace(recipe, seed=_seed(recipe.seed, number)),
        )
        for number in range(1, last + 1)
    ]


def rounds_of(folder: RunFolder) -> Iterator[Run]:
    """The rounds in order, one at a time; models are loaded when a stage needs them.

    What a round samples for training has a seed of its own. The measurement has the recipe's, so that a round
    starts from the very accuracy with which the one before ended, and so has the split into pairs to train on and
    held-out pairs, so that no prompt changes sides.
    """
    trained = None
    for place in round_folders(folder):
        (place.path / "stages").mkdir(parents=True, exist_ok=True)
        yield Run(place, Subject(folder.recipe, trained))
        trained = place.path / "model"


def _seed(seed: int, number: int) -> int:
    """Seed of a round; the first one's is the recipe's, so that it equals a run of one round."""
    return seed if number == 1 else row_seed(seed, f"round-{number}") % 2**31
