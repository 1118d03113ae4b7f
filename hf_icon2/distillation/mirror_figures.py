"""How good a student of Mind's Mirror is on questions that it was not trained on: its labels and its verdicts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

from hf_icon2.distillation.answering import answer_questions
from hf_icon2.distillation.mirror_recipe import MirrorRecipe
from hf_icon2.distillation.mirror_rows import majority
from hf_icon2.distillation.reasoning.answers import answer_value, same_answer
from hf_icon2.distillation.reasoning.figures import evaluation_figures
from hf_icon2.distillation.reasoning.records import Question
from hf_icon2.judges.evaluation_wording import EvaluationWording, evaluation_prompt
from hf_icon2.judges.self_evaluation import Reasoned, SelfEvaluator

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Examination:
    """Held-out questions to answer, and held-out chains of thought to judge.

    Args:
        questions: Those whose answer is known, or taken to be.
        chains: Rows of `id`, `prompt`, `rationale`, `label` and `verdict`, the teacher's most frequent one.
        recipe: Prefixes, what a judge is shown, and how long a label may be.
        wording: How the student is asked to judge.
        known: Ids of the questions whose answer is known.
        show_progress: Whether to show progress bars.
    """

    questions: Sequence[Question]
    chains: Sequence[Row]
    recipe: MirrorRecipe
    wording: EvaluationWording = evaluation_prompt
    known: frozenset[str] = frozenset()
    show_progress: bool = False

    def accuracy(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> float | None:
        """Share of the questions whose label is right; None without questions."""
        if not self.questions:
            return None
        settings = self.recipe.evaluation
        labels = answer_questions(
            model,
            tokenizer,
            [question.text for question in self.questions],
            prefix=self.recipe.training.label_prefix,
            max_new_tokens=settings.max_new_tokens,
            batch_size=settings.batch_size,
            progress="labels" if self.show_progress else None,
        )
        return fmean(
            same_answer(question.task, label, str(question.answer))
            for question, label in zip(self.questions, labels, strict=True)
        )

    def verdicts(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """Verdicts against the teacher's, and against the answers that are known.

        Returns:
            `recall`: of each verdict of the teacher, the share that the student gives too. `balanced_accuracy`: their
            mean. `against_answers`: mean share of the right chains that the student calls correct and of the wrong
            ones that it calls wrong. None where there is nothing to say.
        """
        training = self.recipe.training
        evaluator = SelfEvaluator(
            model,
            tokenizer,
            shows=training.shows,
            label_prefix=training.label_prefix,
            wording=self.wording,
            batch_size=self.recipe.evaluation.batch_size,
            warns=False,
        )
        found = evaluator.evaluate(
            [Reasoned(row["prompt"], row["rationale"], row["label"]) for row in self.chains],
            progress="verdicts" if self.show_progress else None,
        )
        said = [one.verdict for one in found]
        recall = recall_of_each(said, [row["verdict"] for row in self.chains])
        judged = [
            {**row, "verdict": verdict}
            for row, verdict in zip(self.chains, said, strict=True)
            if row["id"] in self.known
        ]
        by_id = {question.id: question for question in self.questions}
        return {
            "recall": recall,
            "balanced_accuracy": fmean(recall.values()) if recall else None,
            "against_answers": evaluation_figures(by_id, judged)["balanced_accuracy"],
        }

    def figures(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """Accuracy and verdicts, and of how many."""
        return {
            "questions": len(self.questions),
            "accuracy": self.accuracy(model, tokenizer),
            "chains": len(self.chains),
            **({"verdicts": self.verdicts(model, tokenizer)} if self.chains else {}),
        }


def examination(
    questions: Sequence[Question],
    chains: Iterable[Row],
    evaluations: Iterable[Row],
    recipe: MirrorRecipe,
    wording: EvaluationWording = evaluation_prompt,
    *,
    show_progress: bool = False,
) -> Examination:
    """Of held-out questions; where an answer is not known, the most frequent label of its chains stands for it.

    Args:
        questions: Held-out ones; those without answer and chains are left out.
        chains: Of all questions.
        evaluations: Of all questions.
        recipe: Of the run.
        wording: How the student is asked to judge.
        show_progress: Whether to show progress bars.
    """
    labels: dict[str, list[str]] = defaultdict(list)
    for row in chains:
        labels[row["id"]].append(row["label"])
    ids = {question.id for question in questions}
    judged: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in evaluations:
        if row["id"] in ids:
            judged[row["id"], row["chain"]].append(row)
    return Examination(
        [
            question if question.answer is not None else _answered(question, labels[question.id])
            for question in questions
            if question.answer is not None or labels[question.id]
        ],
        [{**rows[0], "verdict": majority([row["verdict"] for row in rows])} for rows in judged.values()],
        recipe,
        wording,
        frozenset(question.id for question in questions if question.answer is not None),
        show_progress,
    )


def _answered(question: Question, labels: Sequence[str]) -> Question:
    return replace(question, answer=majority(labels, partial(answer_value, question.task)))


def recall_of_each(said: Sequence[str], right: Sequence[str]) -> dict[str, float]:
    """Of each class that is right somewhere, the share of its items that are said to be of it, by name."""
    hits: dict[str, list[bool]] = defaultdict(list)
    for one, other in zip(said, right, strict=True):
        hits[other].append(one == other)
    return {name: fmean(hits[name]) for name in sorted(hits)}
