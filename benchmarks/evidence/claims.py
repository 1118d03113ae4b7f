"""What the paper says, in a form that the toy can answer, and whether it holds there.

A claim is a figure per seed that is above zero where the claim holds. Nothing here is worded by hand for a result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from evidence.figures import Evidence

HOLDS, MEAN_ONLY, FAILS = "holds", "holds in the mean only", "does not hold"


@dataclass(frozen=True)
class Claim:
    """One statement.

    Args:
        text: What is said.
        source: Where the paper says so, or "ours".
        measure: Seeds' figures; above zero where it holds.
        unit: What the figure is.
    """

    text: str
    source: str
    measure: Callable[[Evidence], Sequence[float]]
    unit: str


@dataclass(frozen=True)
class Finding:
    """A claim and what was found."""

    claim: Claim
    values: tuple[float, ...]

    @property
    def verdict(self) -> str:
        if min(self.values) > 0:
            return HOLDS
        return MEAN_ONLY if fmean(self.values) > 0 else FAILS

    @property
    def figure(self) -> str:
        mean = f"{fmean(self.values):+.3f}"
        if len(self.values) > 1:
            mean += f" ({min(self.values):+.3f} to {max(self.values):+.3f})"
        return f"{mean} {self.claim.unit}"


def findings(evidence: Evidence) -> list[Finding]:
    """All claims whose cells were measured."""
    found = []
    for claim in CLAIMS:
        try:
            values = tuple(claim.measure(evidence))
        except KeyError:
            continue
        if values:
            found.append(Finding(claim, values))
    return found


def above(better: str, worse: str) -> Callable[[Evidence], Sequence[float]]:
    """Share of held-out answers that are right after training on one arm, minus that of another."""
    return lambda evidence: evidence.difference(better, worse)


RIGHT = "of answers right"
OURS, PLAIN = "icon2 3H", "icon2-independent 3H"  # with shared noise, and as in the paper
GENERAL, ALL_FOUR = "icon2-independent General", "icon2-independent General + 3H"
BEST = "icon2 General + 3H"
SAMPLED, PROMPTED = "sampling-ranking 3H", "direct-prompting General + 3H"
WAYS = (OURS, PLAIN, SAMPLED, "direct-prompting 3H", "self-rewarding 3H", "self-refine 3H")
NOISILY = "sampling-ranking 3H, reward=noisy"


def tenth_of_gain(evidence: Evidence) -> list[float]:
    """A tenth of Icon²'s gain, minus the gain of opposite system prompts."""
    gains = zip(evidence.gain(ALL_FOUR), evidence.gain(PROMPTED), strict=True)
    return [0.1 * icon2 - prompted for icon2, prompted in gains]


def saved(key: str, factor: float = 1.0) -> Callable[[Evidence], Sequence[float]]:
    """What a kept pair of ranked samples costs more than one of Icon²'s."""
    return lambda evidence: [
        factor * (sampled - steered)
        for sampled, steered in zip(
            evidence.per_pair(SAMPLED, key), evidence.per_pair(PLAIN, key), strict=True
        )
    ]


def cosine_above(least: float, *sets: str) -> Callable[[Evidence], Sequence[float]]:
    return lambda evidence: [value - least for value in evidence.lowest_cosine(sets)]


CLAIMS = (
    # Table 1 and 2
    Claim("3H criteria align better than the general one alone", "Table 1", above(PLAIN, GENERAL), RIGHT),
    Claim("General + 3H aligns better than 3H", "Table 1", above(ALL_FOUR, PLAIN), RIGHT),
    Claim(
        "Icon² (General + 3H) beats Sampling-Ranking by a noisy reward",
        "Table 1",
        above(ALL_FOUR, NOISILY),
        RIGHT,
    ),
    Claim(
        "Icon² (General + 3H) beats Sampling-Ranking by the truth", "Table 1", above(ALL_FOUR, SAMPLED), RIGHT
    ),
    Claim(
        "Icon² (General + 3H) beats Self-Rewarding", "Table 1", above(ALL_FOUR, "self-rewarding 3H"), RIGHT
    ),
    Claim("Icon² (General + 3H) beats Self-Refine", "Table 1", above(ALL_FOUR, "self-refine 3H"), RIGHT),
    Claim("Icon² (General + 3H) beats direct prompting", "Table 2", above(ALL_FOUR, PROMPTED), RIGHT),
    Claim(
        "Direct prompting gains less than a tenth of what Icon² gains",
        "Table 2",
        tenth_of_gain,
        "(a tenth of Icon²'s gain, minus that of direct prompting)",
    ),
    # Table 3
    Claim(
        "The consistency filter helps on self-written instructions",
        "Table 3",
        above(OURS, f"{OURS}, filtered=False"),
        RIGHT,
    ),
    Claim(
        "The consistency filter helps on given instructions",
        "Table 3",
        above(f"{OURS}, source=given", f"{OURS}, source=given, filtered=False"),
        RIGHT,
    ),
    Claim(
        "Self-written instructions serve better than given ones",
        "Table 3",
        above(OURS, f"{OURS}, source=given"),
        RIGHT,
    ),
    Claim(
        "Self-written instructions serve better than a narrow set",
        "Table 3",
        above(OURS, f"{OURS}, source=facts only"),
        RIGHT,
    ),
    # Table 4
    Claim(
        "A kept pair costs fewer tokens than by Sampling-Ranking",
        "Table 4",
        saved("tokens"),
        "tokens per pair",
    ),
    Claim(
        "A kept pair costs less time than by Sampling-Ranking",
        "Table 4",
        saved("pairs_cpu", 1000),
        "CPU milliseconds per pair",
    ),
    # Table 9
    Claim(
        "Directions from 256 instructions are those from 800",
        "Table 9",
        cosine_above(0.99, "256 given"),
        "(lowest cosine at the steered layers, minus 0.99)",
    ),
    Claim(
        "Directions from another source of instructions are the same",
        "Table 9",
        cosine_above(0.99, "256 self-written", "256 facts only"),
        "(lowest cosine at the steered layers, minus 0.99)",
    ),
    # Tables 12 to 17, Figure 4
    Claim(
        "Reward accuracy rises more slowly on Icon²'s pairs than on pairs from opposite prompts",
        "Tables 12-13",
        lambda evidence: evidence.early_accuracy_gap("direct-prompting 3H", PLAIN),
        "of pairs, in the first quarter of the run",
    ),
    Claim(
        "Of the ways to make pairs, those whose reward accuracy rises faster align worse",
        "Tables 12-13",
        lambda evidence: [-tau for tau in evidence.speed_and_result(WAYS)],
        "(Kendall's tau of early accuracy and result, reversed)",
    ),
    Claim(
        "The best positive strength lies inside the range tried",
        "Table 14",
        lambda evidence: evidence.inner_optimum(),
        "(share of the criteria, minus one half)",
    ),
    Claim(
        "A more negative strength makes more of the pairs right, and worse answers",
        "Table 15",
        lambda evidence: evidence.monotone_negatives(),
        "(lowest Kendall's tau of any criterion)",
    ),
    Claim(
        "100 instructions are enough to choose a strength",
        "Tables 16-17",
        lambda evidence: [0.02 - regret for regret in evidence.regret("100")],
        "(0.02 of reward, minus what the choice loses)",
    ),
    Claim(
        "Middle layers steer better than early ones",
        "Figure 4",
        lambda evidence: evidence.layer_gap((2, 3), (0, 1)),
        "of reward between the signs",
    ),
    Claim(
        "Middle layers steer better than late ones",
        "Figure 4",
        lambda evidence: evidence.layer_gap((2, 3), (4, 5)),
        "of reward between the signs",
    ),
    # ours
    Claim(
        "Shared noise makes more of the decisive pairs right",
        "ours",
        lambda evidence: evidence.rightness_gap(OURS, PLAIN),
        "of decisive pairs",
    ),
    Claim("Shared noise aligns better on the same tokens", "ours", above(OURS, PLAIN), RIGHT),
    Claim(
        "With shared noise, Icon² (General + 3H) beats Sampling-Ranking by a noisy reward",
        "ours",
        above(BEST, NOISILY),
        RIGHT,
    ),
    Claim(
        "With shared noise, Icon² (General + 3H) beats Self-Rewarding",
        "ours",
        above(BEST, "self-rewarding 3H"),
        RIGHT,
    ),
    Claim(
        "With shared noise, Icon² (General + 3H) beats direct prompting", "ours", above(BEST, PROMPTED), RIGHT
    ),
    Claim(
        "Layers per criterion serve better than the middle third",
        "ours",
        above(OURS, f"{OURS}, layers=middle"),
        RIGHT,
    ),
    Claim(
        "Tuned strengths serve better than the paper's, at the middle third",
        "ours",
        above(f"{OURS}, layers=middle", f"{OURS}, layers=paper"),
        RIGHT,
    ),
    Claim(
        "Standardized consistency serves better than the paper's dot product",
        "ours",
        above(OURS, f"{OURS}, score=dot"),
        RIGHT,
    ),
    Claim(
        "Standardized consistency serves better than the cosine",
        "ours",
        above(OURS, f"{OURS}, score=cosine"),
        RIGHT,
    ),
    Claim(
        "Pairs from self-written conversations of two turns improve second answers more than single ones",
        "ours",
        lambda evidence: evidence.two_turn_gap(f"{OURS}, turns=2", OURS),
        "of second answers right",
    ),
    Claim(
        "Pairs from two self-written instructions behind each other do so",
        "ours",
        lambda evidence: evidence.two_turn_gap(f"{OURS}, source=chained, turns=2", OURS),
        "of second answers right",
    ),
    Claim(
        "Two rounds beat one on the same tokens and steps", "ours", above(f"{OURS}, rounds=2", OURS), RIGHT
    ),
)
