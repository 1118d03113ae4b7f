"""What a run aligns: the model, its tokenizer, and, for the bundled world, the truth table that measures it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_icon2.prompts import Instruction, encode_prompt, pad_token_id
from hf_icon2.recipe import TOY, Evaluation, Recipe
from hf_icon2.steering.decoding import Sampling, generate_variants
from hf_icon2.steering.noise import row_seed
from hf_icon2.synthesis.tuning import Reward

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BEHAVIOURS = ("honesty", "harmlessness", "helpfulness")


@dataclass
class Subject:
    """The model of a recipe, loaded at first use."""

    recipe: Recipe

    @cached_property
    def source(self) -> str:
        """Model id or path; the toy's folder for the toy."""
        if self.recipe.model != TOY:
            return self.recipe.model
        from hf_icon2.toy import assistant_path

        return str(assistant_path())

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model before training, in eval mode."""
        return load_model(self.source, self.recipe.revision)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.source, revision=self.recipe.revision)  # type: ignore[no-any-return]

    @property
    def is_toy(self) -> bool:
        """Whether a truth table decides what is right."""
        return self.recipe.model == TOY

    @cached_property
    def held_out(self) -> list[Instruction]:
        """Prompts of the final measurement; no instruction of the run may be one of them."""
        if self.is_toy:
            from hf_icon2.toy.world import instructions

            return [item.text for item in instructions("test")]
        settings = self.recipe.evaluation
        return read_instructions(settings.prompts, settings.column) if settings.prompts else []

    @cached_property
    def excluded(self) -> list[str]:
        """Texts that must not enter the run: the held-out prompts, and the toy's validation prompts."""
        texts = [item for item in self.held_out if isinstance(item, str)]
        if self.is_toy:
            from hf_icon2.toy.world import instructions

            texts += [item.text for item in instructions("validation")]
        return texts

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


def load_model(source: str, revision: str | None = None) -> PreTrainedModel:
    """A causal LM on the GPU where there is one, in eval mode; code in the repo is never run."""
    import torch
    from transformers import AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return AutoModelForCausalLM.from_pretrained(source, revision=revision).to(device).eval()  # type: ignore[no-any-return]


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


def sample_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Instruction],
    settings: Evaluation,
    seed: int,
    system: str | None = None,
) -> list[str]:
    """`settings.samples` answers per prompt, prompt-major, unsteered; the seeds depend on the prompt's place only."""
    answers = generate_variants(
        model,
        [encode_prompt(tokenizer, prompt, system) for prompt in prompts],
        [[None] * len(prompts)] * settings.samples,
        sampling=Sampling(settings.max_new_tokens, settings.temperature),
        seeds=[
            [row_seed(seed, f"{draw}/{place}") for place in range(len(prompts))] for draw in range(settings.samples)
        ],
        pad=pad_token_id(tokenizer),
        batch_size=settings.batch_size,
    )
    return [
        tokenizer.decode(side[place].ids, skip_special_tokens=True)
        for place in range(len(prompts))
        for side in answers
    ]


def truth_shares(prompts: Sequence[str], answers: Sequence[str]) -> dict[str, Any]:
    """Shares of the toy's truth table: all behaviours right, each behaviour where it applies, grammar held."""
    from hf_icon2.toy.answers import grade

    grades = [grade(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]

    def share(values: list[bool]) -> float:
        return round(sum(values) / len(values), 4) if values else float("nan")

    return {
        "correct": share([item.correct for item in grades]),
        **{
            name: share([item.applicable[name] for item in grades if name in item.applicable]) for name in BEHAVIOURS
        },
        "well_formed": share([item.well_formed for item in grades]),
        "answers": len(grades),
    }
