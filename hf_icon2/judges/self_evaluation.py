"""A model that judges reasoning, its own above all: correct, wrong or uncertain (Mind's Mirror).

What it is asked has one wording, which training rows and use share: a student that was trained on other words than
it is asked with answers at random.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from tqdm.auto import tqdm

from hf_icon2.judges.chains import split_chain
from hf_icon2.judges.evaluation_wording import (
    LABEL_PREFIX,
    EvaluationWording,
    Shows,
    evaluation_prompt,
    warn_of_other_prefix,
)
from hf_icon2.judges.judging import check_columns, rank_by_reward
from hf_icon2.judges.verdicts import LEAST_MASS, VERDICTS, Demonstration, Ranking, Verdict
from hf_icon2.judges.wording import question_text
from hf_icon2.prompts import (
    Instruction,
    Message,
    answer_text,
    encode_exchange,
    encode_source,
    encode_target,
    task_prompt,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

Given = TypeVar("Given", str, list[Message])


@dataclass(frozen=True)
class SelfEvaluation:
    """What a model thinks of an answer.

    Args:
        verdict: The likeliest of the three.
        probability: Of that verdict, the three renormalised; 1/3 to 1.
        probabilities: Of each verdict, renormalised.
        mass: Probability that the model says one of the three and nothing else; near 0 it did not learn to.
    """

    verdict: Verdict
    probability: float
    probabilities: dict[Verdict, float]
    mass: float


class Reasoned(NamedTuple):
    """An answer with the reasoning that led to it.

    Args:
        question: What was asked.
        rationale: The reasoning, without the answer.
        answer: The answer.
    """

    question: str
    rationale: str
    answer: str


def self_evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    question: str,
    rationale: str,
    answer: str,
    *,
    shows: Shows = "all",
    label_prefix: str = LABEL_PREFIX,
    system: str | None = None,
    wording: EvaluationWording = evaluation_prompt,
) -> SelfEvaluation:
    """How likely a model finds each verdict on an answer; many are judged faster by `SelfEvaluator`.

    Args:
        model: Causal LM or encoder-decoder model, trained to judge (`MindsMirrorTrainer`).
        tokenizer: Its tokenizer.
        question: What was asked.
        rationale: The reasoning, without the answer.
        answer: The answer.
        shows: What the model was shown in training; see `evaluation_prompt`.
        label_prefix: What was put before the prompt in training.
        system: System prompt; None, as in training.
        wording: How it was asked in training.
    """
    evaluator = SelfEvaluator(
        model, tokenizer, shows=shows, label_prefix=label_prefix, system=system, wording=wording
    )
    return evaluator.evaluate([Reasoned(question, rationale, answer)])[0]


@dataclass(frozen=True)
class SelfEvaluator:
    """Judges many answers; see `self_evaluate` for what is not said here.

    Args:
        model: Causal LM or encoder-decoder model.
        tokenizer: Its tokenizer.
        shows: What the model was shown in training.
        label_prefix: What was put before the prompt in training.
        system: System prompt, or None.
        wording: How it was asked in training.
        read: Rationale and answer of a text that has both, such as "2 plus 5 is 7. The answer is 7."; ValueError for
            a text that has not.
        batch_size: Answers per forward pass, each with the three verdicts.
        warns: Whether to warn of verdicts that are guesses; a student in training makes many.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    shows: Shows = "all"
    label_prefix: str = LABEL_PREFIX
    system: str | None = None
    wording: EvaluationWording = evaluation_prompt
    read: Callable[[str], tuple[str, str]] = split_chain
    batch_size: int = 16
    warns: bool = True

    def evaluate(self, answers: Sequence[Reasoned], *, progress: str | None = None) -> list[SelfEvaluation]:
        """Judges answers; the verdicts' probabilities are those of the whole texts, each with its end.

        Args:
            answers: What is judged.
            progress: Name of the progress bar; None shows none.

        Raises:
            ValueError: If the model's logits are not numbers.
        """
        from hf_icon2.blocks.reading import evaluating

        found: list[SelfEvaluation] = []
        with tqdm(desc=progress, total=len(answers), disable=progress is None) as bar:
            for start in range(0, len(answers), self.batch_size):
                part = [Reasoned(*item) for item in answers[start : start + self.batch_size]]
                prompts = [self._prompt(item) for item in part]
                with evaluating(self.model):
                    found += map(_evaluation, self._log_probs(prompts))
                bar.update(len(part))
        if self.warns:
            warn_of_other_prefix(self.model, "label_prefix", self.label_prefix)
            _warn_of_guesses(found)
        return found

    def __call__(
        self, prompts: Sequence[Instruction], answers: Sequence[str], *, progress: str | None = None
    ) -> list[float]:
        """Probability that each answer is correct: a reward, as `tune` takes one and as `scores` of ranked rows.

        Args:
            prompts: Texts or conversations.
            answers: One to each, with reasoning and answer (see `read`). What cannot be read, such as a text without
                "The answer is", is judged by nobody and gets 0, the lowest there is.
            progress: Name of the progress bar; None shows none.
        """
        check_columns(prompts, answers)
        asked = [self._reasoned(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
        found = iter(self.evaluate([item for item in asked if item is not None], progress=progress))
        return [0.0 if item is None else next(found).probabilities["correct"] for item in asked]

    def rank(
        self,
        questions: Sequence[Instruction],
        answers: Sequence[Sequence[Instruction]],
        demonstrations: Sequence[Demonstration] = (),
        *,
        progress: str | None = None,
    ) -> list[Ranking]:
        """Ranks several answers to each question; the scores are the probabilities that they are correct.

        Args:
            questions: What was asked, texts or conversations.
            answers: K per question, texts or one assistant message each; K may differ.
            demonstrations: Not shown; they are here so that all judges can be called alike.
            progress: Name of the progress bar; None shows none.
        """
        check_columns(questions, answers)
        texts = [[answer_text(answer) for answer in given] for given in answers]
        return rank_by_reward(self, questions, texts, progress=progress)

    def keep(
        self,
        questions: Sequence[Instruction],
        answers: Sequence[Sequence[Given]],
        *,
        least: float = 0.5,
        progress: str | None = None,
    ) -> list[list[Given]]:
        """The answers to each question that are correct with a probability of at least `least`, best first.

        The first of them is the best of N. What cannot be read is never kept.

        Raises:
            ValueError: If `least` is not above 0 and at most 1.
        """
        if not 0 < least <= 1:
            raise ValueError(f"least={least}; allowed: above 0 up to 1")
        rankings = self.rank(questions, answers, progress=progress)
        return [
            [given[index] for index in ranking.order or () if (ranking.scores or ())[index] >= least]
            for given, ranking in zip(answers, rankings, strict=True)
        ]

    def _prompt(self, item: Reasoned) -> Instruction:
        return task_prompt(
            self.tokenizer,
            self.label_prefix,
            self.wording(*item, shows=self.shows),
            encoder_decoder=self.model.config.is_encoder_decoder,
        )

    def _reasoned(self, prompt: Instruction, answer: str) -> Reasoned | None:
        question = question_text(prompt)
        try:
            return Reasoned(question, *self.read(answer))
        except ValueError:
            return None

    def _log_probs(self, prompts: Sequence[Instruction]) -> list[list[float]]:
        """Of the three verdicts after each prompt, in nats."""
        from hf_icon2.likelihood import response_log_probs, target_log_probs

        if self.model.config.is_encoder_decoder:
            targets = [encode_target(self.tokenizer, verdict) for verdict in VERDICTS]
            inputs = [encode_source(self.tokenizer, prompt) for prompt in prompts]
            rows = target_log_probs(self.model, inputs, [targets] * len(prompts))
            return [[float(item.double().sum()) for item in row] for row in rows]
        pairs = [encode_exchange(self.tokenizer, prompt, VERDICTS, self.system) for prompt in prompts]
        flat = iter(
            response_log_probs(
                self.model,
                [prompt for prompt, verdicts in pairs for _ in verdicts],
                [verdict for _, verdicts in pairs for verdict in verdicts],
            )
        )
        return [[float(next(flat).double().sum()) for _ in VERDICTS] for _ in prompts]


def _evaluation(log_probs: Sequence[float]) -> SelfEvaluation:
    """Of the three verdicts' log-probabilities."""
    if not all(map(math.isfinite, log_probs)):
        raise ValueError(
            f"the log-probabilities of {', '.join(VERDICTS)} are {list(log_probs)}; the model's weights are broken, or "
            "its precision is too low (try float32)"
        )
    most = max(log_probs)
    total = sum(math.exp(value - most) for value in log_probs)
    probabilities = {
        verdict: math.exp(value - most) / total for verdict, value in zip(VERDICTS, log_probs, strict=True)
    }
    verdict = max(VERDICTS, key=probabilities.__getitem__)
    return SelfEvaluation(verdict, probabilities[verdict], probabilities, math.exp(most) * total)


def _warn_of_guesses(found: Sequence[SelfEvaluation]) -> None:
    guesses = sum(item.mass < LEAST_MASS for item in found)
    if guesses:
        logger.warning(
            "%d of %d verdicts are guesses: the model gives %s together less than %g; train it on evaluations, and ask "
            "with the prefix, wording and system prompt of its training",
            guesses,
            len(found),
            ", ".join(VERDICTS),
            LEAST_MASS,
        )
