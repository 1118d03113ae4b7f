"""The measurement of a run: the same held-out prompts answered before and after training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_icon2.criteria import GENERAL
from hf_icon2.evaluation.answering import answer_prompts
from hf_icon2.loading import load_model
from hf_icon2.pipeline.subject import Subject
from hf_icon2.prompts import Instruction
from hf_icon2.recipe import Evaluation
from hf_icon2.steering.sampling import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BEHAVIOURS = ("honesty", "harmlessness", "helpfulness")
Figures = dict[str, Any]


def evaluate_models(subject: Subject, trained_folder: Path) -> tuple[Figures, Iterator[dict[str, Any]]]:
    """Answers the held-out prompts with the model as it was and as it is trained.

    Returns:
        Figures (`accuracy` by the toy's truth table, `rewards` by the reward model; None where there is none), and
        one row per answered prompt.
    """
    prompts, settings, seed = subject.held_out, subject.recipe.evaluation, subject.recipe.seed
    if not prompts:
        return {"accuracy": None, "rewards": None}, iter(())
    models = {"before": subject.model, "after": load_model(str(trained_folder))}
    answers = {
        name: sample_answers(model, subject.tokenizer, prompts, settings, seed)
        for name, model in models.items()
    }
    if subject.is_toy:
        answers["system_prompt_ceiling"] = sample_answers(
            subject.model, subject.tokenizer, prompts, settings, seed, system=GENERAL.positive
        )
    asked = [prompt for prompt in prompts for _ in range(settings.samples)]
    rows = (
        {"prompt": prompt, **dict(zip(answers, texts, strict=True))}
        for prompt, *texts in zip(asked, *answers.values(), strict=True)
    )
    rewards = None
    if subject.reward is not None:
        rewards = {name: sum(subject.reward(asked, texts)) / len(texts) for name, texts in answers.items()}
    accuracy = _accuracies([str(prompt) for prompt in asked], answers) if subject.is_toy else None
    return {"accuracy": accuracy, "rewards": rewards}, rows


def sample_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Instruction],
    settings: Evaluation,
    seed: int,
    system: str | None = None,
) -> list[str]:
    """`settings.samples` answers per prompt, prompt-major, unsteered; the seeds depend on the prompt's place only."""
    return answer_prompts(
        model,
        tokenizer,
        prompts,
        sampling=Sampling(settings.max_new_tokens, settings.temperature),
        seed=seed,
        system=system,
        samples=settings.samples,
        batch_size=settings.batch_size,
    )


def truth_shares(prompts: Sequence[str], answers: Sequence[str]) -> dict[str, Any]:
    """Shares of the toy's truth table: all behaviours right, each behaviour where it applies, grammar held."""
    from hf_icon2.toy.answers import grade

    grades = [grade(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]

    def share(values: list[bool]) -> float:
        return round(sum(values) / len(values), 4) if values else float("nan")

    return {
        "correct": share([item.correct for item in grades]),
        **{
            name: share([item.applicable[name] for item in grades if name in item.applicable])
            for name in BEHAVIOURS
        },
        "well_formed": share([item.well_formed for item in grades]),
        "answers": len(grades),
    }


def _accuracies(prompts: list[str], answers: dict[str, list[str]]) -> Figures:
    shares = {name: truth_shares(prompts, texts) for name, texts in answers.items()}
    return {
        **{name: found["correct"] for name, found in shares.items()},
        "behaviours": {
            name: {when: found[name] for when, found in shares.items()}
            for name in (*BEHAVIOURS, "well_formed")
        },
        "prompts": len(set(prompts)),
        "answers": len(prompts),
    }
