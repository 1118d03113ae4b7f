"""What a run aligns: the model, its tokenizer, and, for the bundled world, the truth table that measures it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from hf_icon2.judges.pairwise import PairwiseJudge
from hf_icon2.loading import load_model, load_tokenizer
from hf_icon2.prompts import Instruction, Message, as_messages, user_texts
from hf_icon2.recipe import TOY, Recipe
from hf_icon2.synthesis.instructions import instruction_id
from hf_icon2.synthesis.strategies.refined import Refinement
from hf_icon2.synthesis.tuning import Reward

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class Subject:
    """The model of a recipe, or what an earlier round made of it; loaded at first use.

    Args:
        recipe: Names the model and how it is measured.
        trained: Model folder of the round before, None in the first.
    """

    recipe: Recipe
    trained: Path | None = None

    @cached_property
    def source(self) -> str:
        """Model id or path; the toy's folder for the toy."""
        if self.trained is not None:
            return str(self.trained)
        if self.recipe.model != TOY:
            return self.recipe.model
        from hf_icon2.toy import assistant_path

        return str(assistant_path())

    @property
    def revision(self) -> str | None:
        """Commit, tag or branch; a trained model has none."""
        return self.recipe.revision if self.trained is None else None

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model before training, in eval mode."""
        model = load_model(self.source, self.revision)
        if (
            self.trained is not None
        ):  # what is measured on it names it, and must not depend on where the run lies
            model.config.name_or_path = f"{Path(self.recipe.model).name} after {self.trained.parent.name}"
        return model

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer."""
        return load_tokenizer(self.source, self.revision)

    @property
    def first(self) -> Subject:
        """The recipe's model, before any round."""
        return self if self.trained is None else Subject(self.recipe)

    @property
    def is_toy(self) -> bool:
        """Whether a truth table decides what is right."""
        return self.recipe.model == TOY

    @cached_property
    def held_out(self) -> list[Instruction]:
        """Prompts of the final measurement; no instruction of the run may be one of them."""
        settings = self.recipe.evaluation
        if self.is_toy:
            from hf_icon2.toy.world import instructions

            return [
                item.text
                for item in instructions("validation" if settings.prompts == "validation" else "test")
            ]
        return read_instructions(settings.prompts, settings.column) if settings.prompts else []

    @cached_property
    def excluded(self) -> list[str]:
        """Texts that must not enter the run: held-out prompts, of the toy both those to test and to validate on."""
        if not self.is_toy:
            return [text for item in self.held_out for text in user_texts(item)]
        from hf_icon2.toy.world import all_instructions, split_of

        return [item.text for item in all_instructions() if split_of(item) != "train"]

    @cached_property
    def reward(self) -> Reward | None:
        """Scores answers, for tuning and for the report: the toy's judge, or the recipe's reward model."""
        if self.is_toy:
            from hf_icon2.toy.answers import reward

            return lambda prompts, answers: [reward(*both) for both in zip(prompts, answers, strict=True)]
        if self.recipe.tuning.reward is None:
            return None
        from hf_icon2.judges.reward_models import RewardModel

        return RewardModel.from_pretrained(self.recipe.tuning.reward)

    @property
    def judge(self) -> PairwiseJudge | None:
        """How the toy judges its own answers, in its own words; other models are asked in the library's."""
        if not self.is_toy:
            return None
        from hf_icon2.toy.skills import ab_prompt

        return PairwiseJudge.from_model(self.model, self.tokenizer, ask=ab_prompt)

    @property
    def refinement(self) -> Refinement | None:
        """How the toy is asked to criticise and revise; other models are asked in the library's words."""
        if not self.is_toy:
            return None
        from hf_icon2.toy.skills import critique_turns

        def turns(question: Instruction, answer: str, critique: str | None = None) -> list[Message]:
            *earlier, last = as_messages(question)
            return [*earlier, *critique_turns(last["content"], answer, critique=critique)]

        return Refinement(turns, turns)


def read_instructions(source: str, column: str) -> list[Instruction]:
    """Instructions from a JSON-lines file or a Hub dataset's train split."""
    from datasets import load_dataset

    path = Path(source)
    if path.suffix in (".jsonl", ".json") and not path.is_file():
        raise FileNotFoundError(f"there is no file {path} with instructions")
    rows = (
        load_dataset("json", data_files=str(path), split="train")
        if path.is_file()
        else load_dataset(source, split="train")
    )
    if column not in rows.column_names:
        raise ValueError(f"{source} has no column {column!r}; it has {', '.join(rows.column_names)}")
    texts = [text for text in rows[column] if text]
    if not texts:
        raise ValueError(f"{source} holds no instruction in column {column!r}")
    return texts


def given_rows(
    instructions: Sequence[Instruction], number: int, seed: int, excluded: Sequence[str]
) -> list[dict[str, Instruction]]:
    """At most `number` different instructions with their ids, in a seeded order.

    Raises:
        ValueError: If all of them are excluded.
    """
    texts = set(excluded)
    rows = {instruction_id(item): item for item in instructions if texts.isdisjoint(user_texts(item))}
    if not rows:
        raise ValueError(f"all of {len(instructions)} instructions are held-out prompts; give others")
    chosen = random.Random(seed).sample(list(rows), min(number, len(rows)))
    return [{"prompt": rows[name], "id": name} for name in chosen]
