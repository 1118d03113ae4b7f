"""Watches for reward hacking: train reward accuracy that rises faster than it did in the paper's runs.

The paper (section 6) gives the accuracy of two kinds of runs, each one epoch of 98k pairs in batches of 128:
on its own pairs, and on pairs made with opposite system prompts. The latter are told apart by style alone:
accuracy rushes to 1 and the model hardly improves. Other runs have other lengths, so accuracies are compared
at an equal share of the examples that a run will see.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

PAPER_STEPS = 98_000 / 128
# Step of the paper's run, accuracy on Icon2's pairs, accuracy on pairs from opposite system prompts: means of
# the two figures that the paper gives for each. Before the first step both are chance.
PAPER_CURVE = (
    (0, 0.50, 0.50),
    (50, 0.55, 0.85),
    (100, 0.695, 0.98),
    (150, 0.755, 0.98),
    (300, 0.82, 0.98),
    (600, 0.855, 0.98),
)
FIRST_SHARE = PAPER_CURVE[1][0] / PAPER_STEPS
METRIC = "rewards/accuracies"

ADVICE = (
    "The two sides of the pairs are told apart too easily, so the model may learn what gives them away "
    "(style, length, broken text) instead of what is better. Look at a few pairs; bring the strengths closer "
    "to 0, the negative one first; drop pairs whose flags are set; or raise beta or lower the learning rate. "
    "Pairs whose answers share their sampling noise do so on the bundled model without harm (docs/evidence.md): "
    "judge the result by the win rate (WinRateCallback) or held-out reward (early_stopping_patience), not by this "
    "accuracy."
)


def paper_accuracies(share: float) -> tuple[float, float]:
    """Train reward accuracy of the paper's runs, linear between its figures and constant after the last.

    Args:
        share: Share of the run's examples seen, 0 to 1.

    Returns:
        Accuracy on Icon2's pairs, and on pairs from opposite system prompts.
    """
    step = share * PAPER_STEPS
    right = bisect_right(PAPER_CURVE, step, key=lambda row: row[0])
    if right == len(PAPER_CURVE):
        return PAPER_CURVE[-1][1:]
    (start, *low), (end, *high) = PAPER_CURVE[right - 1 : right + 1]
    part = (step - start) / (end - start)
    icon2, opposite = (a + part * (b - a) for a, b in zip(low, high, strict=True))
    return icon2, opposite


@dataclass(frozen=True)
class Comparison:
    """A run's train reward accuracy beside the paper's over the same window of examples.

    Args:
        step: Optimizer step at the window's end.
        share: Share of the run's examples seen by then.
        examples: Size of the window.
        accuracy: Mean train reward accuracy in the window.
        icon2: Mean of the paper's curve for its own pairs over the same shares.
        opposite: Mean of its curve for opposite system prompts, where rewards were hacked.
    """

    step: int
    share: float
    examples: int
    accuracy: float
    icon2: float
    opposite: float

    @property
    def excess(self) -> float:
        """Position between the two curves: 0 on the one of Icon2's pairs, 1 on the reward-hacking one."""
        return (self.accuracy - self.icon2) / (self.opposite - self.icon2)


def compare_with_paper(
    history: Sequence[Mapping[str, Any]], *, max_steps: int, batch_size: int, window: int
) -> Comparison | None:
    """Compares the latest stretch of a training log with the paper's curves.

    Args:
        history: Log entries as in `TrainerState.log_history`, oldest first; others than `METRIC` are passed
            over.
        max_steps: Optimizer steps of the whole run.
        batch_size: Examples per optimizer step.
        window: Fewest examples to average over. A window also spans at least a twentieth of the run.

    Returns:
        The comparison, or None before enough examples and `FIRST_SHARE` of the run have been seen.
    """
    entries = [entry for entry in history if METRIC in entry]
    wanted = max(window, max_steps * batch_size // 20)
    if not entries or entries[-1]["step"] < FIRST_SHARE * max_steps:
        return None
    steps, sums = 0, [0.0, 0.0, 0.0]
    for index in reversed(range(len(entries))):
        end, start = entries[index]["step"], entries[index - 1]["step"] if index else 0
        values = (entries[index][METRIC], *paper_accuracies((start + end) / 2 / max_steps))
        sums = [total + (end - start) * value for total, value in zip(sums, values, strict=True)]
        steps += end - start
        if steps * batch_size >= wanted:
            last = int(entries[-1]["step"])
            return Comparison(last, last / max_steps, steps * batch_size, *(total / steps for total in sums))
    return None


class RewardHackingMonitor(TrainerCallback):
    """Warns once when train reward accuracy runs well above the curve of the paper's runs.

    The state is read from the trainer's own log, so a resumed run continues where it was.

    Args:
        tolerance: How far from Icon2's curve towards the reward-hacking one accuracy may be; 0.5 is halfway.
        window: Fewest examples to average over. At 512 the standard error is 0.016 where the curves are
            closest, a quarter of the distance to halfway.

    Attributes:
        latest: The latest comparison, None while too few examples have been seen.
        worst: The comparison with the greatest excess.
    """

    def __init__(self, *, tolerance: float = 0.5, window: int = 512) -> None:
        self.tolerance = tolerance
        self.window = window
        self.latest: Comparison | None = None
        self.worst: Comparison | None = None

    @property
    def warned(self) -> bool:
        """Whether accuracy was above the tolerated part of the way at any time."""
        return self.worst is not None and self.worst.excess > self.tolerance

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forgets an earlier run of the same trainer."""
        self.latest = self.worst = None

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Compares and, the first time it is necessary, warns."""
        current = compare_with_paper(
            state.log_history,
            max_steps=state.max_steps,
            batch_size=args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
            window=self.window,
        )
        if current is None:
            return
        before, self.latest = self.warned, current
        if self.worst is None or current.excess > self.worst.excess:
            self.worst = current
        if self.warned and not before and state.is_world_process_zero:
            logger.warning("%s %s", self.summary(), ADVICE)

    def summary(self) -> str:
        """What was seen, in a sentence or two."""
        if self.latest is None or self.worst is None:
            return f"Too few examples to compare with the paper's runs: that takes at least {self.window}."
        shown = self.worst if self.warned else self.latest
        return (
            f"{'Possible' if self.warned else 'No sign of'} reward hacking: train reward accuracy was "
            f"{shown.accuracy:.2f} over {shown.examples} examples up to step {shown.step} ({shown.share:.0%} "
            f"of the run), where the paper's runs had {shown.icon2:.2f} on Icon2 pairs and "
            f"{shown.opposite:.2f} on pairs from opposite system prompts, which were hacked."
        )

    def outcome(self) -> dict[str, object]:
        """The same for a JSON report: `warned`, and the latest and worst comparison or None."""
        return {
            "warned": self.warned,
            "latest": asdict(self.latest) if self.latest else None,
            "worst": asdict(self.worst) if self.worst else None,
        }
