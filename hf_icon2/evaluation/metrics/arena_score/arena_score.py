"""Arena-Hard's score for `evaluate.load`; copied by it, and imported from the copy."""

from typing import Any

from hf_icon2.evaluation import metric_info
from hf_icon2.evaluation.arena import Battle, arena_scores

_INPUTS = """
Args:
    predictions: Score of a model against the baseline, per game: 1 won, one half even, 0 lost.
    models: Name of the model.
    questions: Id of the question.
    weights: Of the games, to `compute` only; Arena-Hard weighs a clear verdict (">>") 3.
    baseline: Name of the baseline, to `compute` only.
    seed: Of the drawing.

Returns:
    arena_score/MODEL (0 to 1: expected win rate against the baseline), arena_score/MODEL_low and _high (95 %). Style
    control needs features of both answers: call `arena_scores`.
"""


class ArenaScore(metric_info.Metric):  # type: ignore[misc]
    """Bradley-Terry score of models against a baseline, as Arena-Hard defines it."""

    def _info(self) -> Any:  # noqa: ANN401
        columns = {"predictions": "float64", "models": "string", "questions": "string"}
        return metric_info.metric_info("Arena-Hard's score against a baseline.", _INPUTS, columns)

    def _compute(
        self,
        predictions: list[float],
        models: list[str],
        questions: list[str],
        weights: list[float] | None = None,
        baseline: str = "baseline",
        seed: int = 0,
    ) -> dict[str, float]:
        heavy = [1.0] * len(predictions) if weights is None else weights
        battles = [
            Battle(question, model, score, weight)
            for question, model, score, weight in zip(questions, models, predictions, heavy, strict=True)
        ]
        return {
            f"arena_score/{model}{end}": value
            for model, found in arena_scores(battles, baseline, seed=seed).items()
            for end, value in (("", found.value), ("_low", found.low), ("_high", found.high))
        }
