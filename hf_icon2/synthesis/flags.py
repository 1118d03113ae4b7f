"""What can be wrong with a preference pair, and what its two answers alone show of it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from hf_icon2.steering.decoding import Completion

Tokens = Sequence[Hashable]
"""An answer as token ids, or as words."""

UNDECIDED = "undecided"

FLAGS: Mapping[str, str] = {
    "identical": "both answers are the same",
    "length_only": "one answer is the other one cut short, or with words repeated",
    "degenerate_chosen": "the chosen answer is empty or repeats itself",
    "degenerate_rejected": "the rejected answer is empty or repeats itself",
    "unlikely_chosen": "the unsteered model finds the chosen answer very unlikely",
    "unlikely_rejected": "the unsteered model finds the rejected answer very unlikely",
    "flipped": "by the model's own states the rejected answer fits the criterion better",
    UNDECIDED: "the reward or judge did not tell the answers apart",
}

DROPPED_FLAGS = ("identical", "degenerate_chosen", "degenerate_rejected", UNDECIDED)
"""Pairs that teach nothing or something wrong whatever the criterion."""


def pair_flags(chosen: Completion, rejected: Completion) -> list[str]:
    """What two generated answers show by themselves, without the model; see `answer_flags`."""
    return answer_flags(chosen.ids, rejected.ids)


def answer_flags(chosen: Tokens, rejected: Tokens) -> list[str]:
    """What two answers alone show: identical, length_only, degenerate_chosen, degenerate_rejected."""
    found = {
        "identical": identical(chosen, rejected),
        "length_only": length_only(chosen, rejected),
        "degenerate_chosen": degenerate(chosen),
        "degenerate_rejected": degenerate(rejected),
    }
    return [name for name, present in found.items() if present]


def identical(first: Tokens, second: Tokens) -> bool:
    """Whether both answers are the same."""
    return list(first) == list(second)


def length_only(first: Tokens, second: Tokens) -> bool:
    """Whether answers differ only in length: one begins with the other, or just repeats its words.

    An empty answer is degenerate and does not count here.
    """
    short, long = sorted((list(first), list(second)), key=len)
    if not short or short == long:
        return False
    return long[: len(short)] == short or _collapsed(short) == _collapsed(long)


def _collapsed(tokens: list[Hashable]) -> list[Hashable]:
    """Without tokens that repeat the one before."""
    return [token for index, token in enumerate(tokens) if index == 0 or token != tokens[index - 1]]


def degenerate(tokens: Tokens) -> bool:
    """Whether an answer is empty or repeats itself.

    That is: some unit of up to 8 tokens follows itself at least three times, over 16 tokens or half of the
    answer; or, with 16 or more 4-grams, at least half of them are repetitions.
    """
    if not tokens:
        return True
    loop = longest_loop(tokens)
    if loop >= min(16, len(tokens) / 2) and loop > 0:
        return True
    return len(tokens) >= 19 and repeated_share(tokens) >= 0.5


def longest_loop(tokens: Tokens, *, unit: int = 8, times: int = 4) -> int:
    """Tokens covered by the longest stretch that is one unit over and over; 0 if there is none.

    Args:
        tokens: The answer.
        unit: Longest unit.
        times: How often the unit must stand there.
    """
    longest = 0
    for period in range(1, unit + 1):
        run = 0
        for index in range(period, len(tokens)):
            run = run + 1 if tokens[index] == tokens[index - period] else 0
            if run >= period * (times - 1):
                longest = max(longest, run + period)
    return longest


def repeated_share(tokens: Tokens, ngram: int = 4) -> float:
    """Share of n-grams that occurred before in the same answer; 0 to 1."""
    grams = [tuple(tokens[start : start + ngram]) for start in range(len(tokens) - ngram + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
