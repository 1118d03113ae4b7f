"""What a teacher thinks of a student's responses: their likelihood, and which of two it would select."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from itertools import permutations
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from tqdm.auto import tqdm

from hf_icon2.judges.letters import LetterJudge
from hf_icon2.judges.verdicts import LEAST_MASS, LetterChoice
from hf_icon2.judges.wording import Ask, compare_prompt, question_text
from hf_icon2.likelihood import continuation_log_probs
from hf_icon2.prompts import Instruction, answer_text, encode_exchange

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

Judge = Callable[[Sequence[Instruction]], Sequence[LetterChoice]]
LEAST_PROBABILITY = 1e-4
"""Selection probabilities are kept above it: a log of nearly 0 would drown every other score."""


def score_candidates(
    candidates: Dataset,
    teacher: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    judge: Judge | None = None,
    ask: Ask = compare_prompt,
    alpha: float = 0.5,
    system: str | None = None,
    show_progress: bool = True,
) -> Dataset:
    """Scores every response: alpha x mean log-probability + (1 - alpha) x log selection probability (PAD).

    A response's selection probability is the mean, over all other responses and both orders, of the probability
    that the judge picks it, of the two letters. The authors ask in one order and do not renormalise.

    Args:
        candidates: Rows of `prompt` and `responses`.
        teacher: Gives the likelihoods, and is the judge if no other is given. Not needed for alpha 0 with a judge.
            Its tokenizer may differ from the student's.
        tokenizer: The teacher's.
        judge: Answers comparisons with letter probabilities, such as `LetterJudge`.
        ask: Words the comparison.
        alpha: Weight of the likelihood, 0 to 1; at 0 or 1 the other part is not computed.
        system: System prompt that the teacher reads the conversation under, such as one that aligns it.
        show_progress: Whether to show a progress bar.

    Returns:
        The rows with `scores` (nats), and the parts that were computed, `mean_log_probs` and `selection`
        (probability); `letter_mass` is the least probability in a row that the judge gave the two letters.

    Raises:
        ValueError: If alpha is not from 0 to 1, the teacher that it needs is missing, there are no rows, or a row
            has fewer than two responses or an empty one.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha}; allowed: 0 (selection only) to 1 (likelihood only)")
    likelihood = None
    if alpha > 0:
        likelihood = _model_of(teacher, tokenizer, "alpha above 0 needs teacher= and tokenizer=")
    if alpha < 1 and judge is None:
        judge = LetterJudge(*_model_of(teacher, tokenizer, "alpha below 1 needs a judge= or a teacher="))
    rows = []
    _check(candidates)
    for row in tqdm(candidates, desc="teacher scores", disable=not show_progress):
        parts = _mean_log_probs(row, *likelihood, system) if likelihood is not None else {}
        if alpha < 1 and judge is not None:
            parts |= _selection(row, judge, ask)
        rows.append({**row, "scores": _mixed(parts, alpha), **parts})
    _warn_of_guesses([row["letter_mass"] for row in rows if "letter_mass" in row])
    return Dataset.from_list(rows)


def selection_probabilities(count: int, choices: Sequence[LetterChoice]) -> list[float]:
    """Mean probability of each of n responses to be picked, over all ordered pairs.

    Args:
        count: n.
        choices: One per ordered pair of `itertools.permutations(range(n), 2)`, the first of a pair shown first.

    Returns:
        n probabilities; their mean is one half.
    """
    total = [0.0] * count
    for (first, second), choice in zip(permutations(range(count), 2), choices, strict=True):
        total[first] += choice.probability
        total[second] += 1 - choice.probability
    return [value / (2 * (count - 1)) for value in total]


def _selection(row: dict[str, Any], judge: Judge, ask: Ask) -> dict[str, Any]:
    question, texts = question_text(row["prompt"]), [answer_text(item) for item in row["responses"]]
    choices = judge([ask(question, texts[first], texts[second]) for first, second in _pairs(len(texts))])
    return {
        "selection": selection_probabilities(len(texts), choices),
        "letter_mass": min(choice.mass for choice in choices),
    }


def _check(candidates: Dataset) -> None:
    missing = sorted({"prompt", "responses"} - set(candidates.column_names))
    if missing or len(candidates) == 0:
        lack = f"the column(s) {', '.join(missing)}" if missing else "rows"
        raise ValueError(f"the candidates lack {lack}; make them with sample_candidates")
    for index, row in enumerate(candidates):
        responses = row["responses"] or []
        if len(responses) < 2 or not all(item and answer_text(item).strip() for item in responses):
            raise ValueError(f"row {index} needs 2 or more responses, none of them empty, got {responses!r}")


def _warn_of_guesses(masses: Sequence[float]) -> None:
    """Says where the letters' probabilities are renormalised noise."""
    if guesses := sum(mass < LEAST_MASS for mass in masses):
        logger.warning(
            "in %d of %d rows the judge gave the two letters less than %g of its probability, so their selection is "
            "mostly noise; word the comparison in another way (ask=), or take another judge",
            guesses,
            len(masses),
            LEAST_MASS,
        )


def _pairs(count: int) -> list[tuple[int, ...]]:
    return list(permutations(range(count), 2))


def _mean_log_probs(
    row: dict[str, Any], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, system: str | None
) -> dict[str, Any]:
    prompt, responses = encode_exchange(tokenizer, row["prompt"], row["responses"], system)
    values = continuation_log_probs(model, prompt, responses)
    return {"mean_log_probs": [float(value.mean()) for value in values]}


def _mixed(parts: dict[str, Any], alpha: float) -> list[float]:
    likelihood = parts.get("mean_log_probs")
    selection = [math.log(max(value, LEAST_PROBABILITY)) for value in parts.get("selection", ())]
    if likelihood is None:
        return selection
    if not selection:
        return list(likelihood)
    return [alpha * one + (1 - alpha) * other for one, other in zip(likelihood, selection, strict=True)]


def _model_of(
    model: PreTrainedModel | None, tokenizer: PreTrainedTokenizerBase | None, missing: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if model is None or tokenizer is None:
        raise ValueError(missing)
    return model, tokenizer
