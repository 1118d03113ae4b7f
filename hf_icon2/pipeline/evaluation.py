"""The measurement of a run: the same held-out prompts answered before and after training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from hf_icon2.criteria import GENERAL
from hf_icon2.evaluation.answering import answer_prompts
from hf_icon2.loading import load_model
from hf_icon2.pipeline.subject import Subject
from hf_icon2.prompts import Instruction, Message, as_messages, pre_query_prefix, user_texts
from hf_icon2.recipe import Evaluation
from hf_icon2.steering.noise import row_seed
from hf_icon2.steering.sampling import Sampling
from hf_icon2.synthesis.instructions import instruction_id

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
    settings, seed = subject.recipe.evaluation, subject.recipe.seed
    if not subject.held_out:
        return {"accuracy": None, "rewards": None}, iter(())
    prompts = subject.held_out
    if settings.turns > 1:  # by the recipe's model, so that all rounds are asked the same
        prompts = in_context(subject.first.model, subject.tokenizer, prompts, settings, seed)
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
    accuracy = _accuracies(asked, answers) if subject.is_toy else None
    return {"accuracy": accuracy, "rewards": rewards}, rows


def check_context(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Instruction], turns: int) -> None:
    """Refuses to put prompts into conversations of so many user turns where the model would not see them.

    Raises:
        ValueError: For too few prompts, or a chat template that is missing or does not show every turn.
    """
    if len(prompts) < turns:
        raise ValueError(
            f"evaluation.turns={turns} takes a prompt and {turns - 1} others before it, but there are {len(prompts)} "
            "held-out prompts; give more"
        )
    if tokenizer.chat_template is None:
        raise ValueError(
            f"evaluation.turns={turns} needs a chat template, and this tokenizer has none; set it to 1"
        )
    pre_query_prefix(
        tokenizer, [{"role": role, "content": role} for role in ("user", "assistant") * (turns - 1)]
    )


def in_context(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Instruction],
    settings: Evaluation,
    seed: int,
) -> list[Instruction]:
    """Makes each prompt the last of `settings.turns` user turns.

    The turns before are other prompts of the list, in an order drawn by the seed, each with the model's own answer.
    """
    check_context(tokenizer, prompts, settings.turns)
    order = Random(seed).sample(range(len(prompts)), len(prompts))
    talks: list[list[Message]] = [[] for _ in prompts]
    for turn in range(1, settings.turns):
        for place, index in enumerate(order):
            talks[index] += as_messages(prompts[order[place - turn]])
        answers = sample_answers(
            model, tokenizer, talks, replace(settings, samples=1), row_seed(seed, f"context-{turn}")
        )
        for talk, answer in zip(talks, answers, strict=True):
            talk.append({"role": "assistant", "content": answer})
    return [[*talk, *as_messages(prompt)] for talk, prompt in zip(talks, prompts, strict=True)]


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


def truth_shares(prompts: Sequence[Instruction], answers: Sequence[str]) -> dict[str, Any]:
    """Shares of the toy's truth table: all behaviours right, each behaviour where it applies, grammar held.

    Of a conversation the answer to the last turn counts.
    """
    from hf_icon2.toy.answers import grade

    questions = [user_texts(prompt)[-1] for prompt in prompts]
    grades = [grade(question, answer) for question, answer in zip(questions, answers, strict=True)]

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


def _accuracies(prompts: Sequence[Instruction], answers: dict[str, list[str]]) -> Figures:
    shares = {name: truth_shares(prompts, texts) for name, texts in answers.items()}
    return {
        **{name: found["correct"] for name, found in shares.items()},
        "behaviours": {
            name: {when: found[name] for when, found in shares.items()}
            for name in (*BEHAVIOURS, "well_formed")
        },
        "prompts": len({instruction_id(prompt) for prompt in prompts}),
        "answers": len(prompts),
    }
