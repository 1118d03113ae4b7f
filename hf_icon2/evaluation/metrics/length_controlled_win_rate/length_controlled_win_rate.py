"""Length-controlled win rate for `evaluate.load`; copied by it, and imported from the copy."""

from typing import Any

from hf_icon2.evaluation import metric_info
from hf_icon2.evaluation.length_control import length_controlled

_INPUTS = """
Args:
    predictions: Probability that the model is preferred to the baseline, per row: 0 to 1, one half for a tie.
    lengths: Characters of the model's answers.
    baseline_lengths: Characters of the baseline's answers.
    difficulty: Of the rows' instructions, to `compute` only, where it is known, as for AlpacaEval's own.
    seed: Of the drawing.

Returns:
    length_controlled_win_rate (0 to 1), its _low and _high (95 %), and its _standard_error.
"""


class LengthControlledWinRate(metric_info.Metric):  # type: ignore[misc]
    """Win rate if the model's answers were as long as the baseline's: the regression of AlpacaEval 2."""

    def _info(self) -> Any:  # noqa: ANN401
        columns = {"predictions": "float64", "lengths": "float64", "baseline_lengths": "float64"}
        return metric_info.metric_info("Length-controlled win rate of AlpacaEval 2.", _INPUTS, columns)

    def _compute(
        self,
        predictions: list[float],
        lengths: list[float],
        baseline_lengths: list[float],
        difficulty: list[float] | None = None,
        seed: int = 0,
    ) -> dict[str, float]:
        found = length_controlled(predictions, lengths, baseline_lengths, difficulty=difficulty, seed=seed)
        return metric_info.flat("length_controlled_win_rate", found)
