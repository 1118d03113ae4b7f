"""Raw win rate for `evaluate.load`; copied by it, and imported from the copy."""

from typing import Any

from hf_icon2.evaluation import metric_info
from hf_icon2.evaluation.preferences import raw_win_rate

_INPUTS = """
Args:
    predictions: Probability that the model is preferred to the baseline, per row: 0 to 1, one half for a tie.
    prompts: Ids of the rows' prompts, to `compute` only; rows with one id are drawn together in the interval.
    seed: Of the drawing.

Returns:
    raw_win_rate (0 to 1), raw_win_rate_low and raw_win_rate_high (95 %), raw_win_rate_standard_error.
"""


class RawWinRate(metric_info.Metric):  # type: ignore[misc]
    """Share of prompts on which a model is preferred to a baseline, as AlpacaEval defines it."""

    def _info(self) -> Any:  # noqa: ANN401
        return metric_info.metric_info("Raw win rate of AlpacaEval.", _INPUTS, {"predictions": "float64"})

    def _compute(
        self, predictions: list[float], prompts: list[object] | None = None, seed: int = 0
    ) -> dict[str, float]:
        found = raw_win_rate(predictions, prompts=prompts, seed=seed)
        return metric_info.flat("raw_win_rate", found)
