"""What can be wrong with a preference pair, seen without a judge.

Flags from the two answers alone come from `answer_flags`; those that need the model from `check_pairs`.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datasets import Dataset, List, Value
from tqdm.auto import tqdm

from hf_icon2.blocks import find_blocks
from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.prompts import Instruction, Message, encode_prompt, pad_token_id
from hf_icon2.steering.decoding import Completion
from hf_icon2.synthesis.readings import Row, response_projections, unsteered_logps

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

Tokens = Sequence[Hashable]
"""An answer as token ids, or as words."""

FLAGS: Mapping[str, str] = {
    "identical": "both answers are the same",
    "length_only": "one answer is the other one cut short, or with words repeated",
    "degenerate_chosen": "the chosen answer is empty or repeats itself",
    "degenerate_rejected": "the rejected answer is empty or repeats itself",
    "unlikely_chosen": "the unsteered model finds the chosen answer very unlikely",
    "unlikely_rejected": "the unsteered model finds the rejected answer very unlikely",
    "flipped": "by the model's own states the rejected answer fits the criterion better",
    "undecided": "the reward or judge did not tell the answers apart",
}

DROPPED_FLAGS = ("identical", "degenerate_chosen", "degenerate_rejected", "undecided")
"""Pairs that teach nothing or something wrong whatever the criterion."""

UNLIKELY = -4.0
"""Mean log-probability per token, in nats, below which an answer is flagged. A model's own samples lie near
minus its entropy, usually -0.3 to -2; random words at -ln(vocabulary), -6 to -12."""

BREAKS = 0.1
"""Share of broken answers from which a strength is said to break the text."""


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


def check_pairs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    directions: DirectionVectors,
    pairs: Dataset,
    *,
    unlikely: float = UNLIKELY,
    batch_size: int = 16,
    show_progress: bool = True,
) -> Dataset:
    """Flags what is wrong with each pair, by reading both answers with the unsteered model.

    Args:
        model: The model that wrote the pairs.
        tokenizer: Its tokenizer.
        directions: Measured on this model.
        pairs: Rows with `prompt`, `chosen`, `rejected` (message lists or texts) and `criterion`.
        unlikely: Mean log-probability per token, in nats, below which an answer is flagged.
        batch_size: Answers per forward pass.
        show_progress: Whether to show a progress bar.

    Returns:
        The given rows with `flags` (names in `FLAGS`; flags of other kinds are kept), `projection_margin`
        (how much further the chosen answer's mean state lies along the criterion's direction, mean over its
        control layers, in mean residual norms), and `logp_chosen`, `logp_rejected` (mean log-probability per
        token under the unsteered model, in nats; 0 for an empty answer). A warning in the log says when
        strengths break the text.

    Raises:
        ValueError: For no rows, missing columns, an unknown criterion, or directions of another model or
            template.
    """
    names = _criteria(pairs, directions)
    blocks = find_blocks(model)
    directions.check_model(blocks.hidden_size, len(blocks.layers), tokenizer)
    prompts = [encode_prompt(tokenizer, prompt) for prompt in pairs["prompt"]]
    sides = [[_answer_ids(tokenizer, answer) for answer in pairs[side]] for side in ("chosen", "rejected")]
    rows = [
        Row(*row) for side in sides for row in zip(prompts, side, strict=True)
    ]  # all chosen, all rejected
    pad, total = pad_token_id(tokenizer), len(rows)
    with tqdm(total=2 * total, desc="checks", disable=not show_progress) as bar:
        projections = response_projections(
            model, directions, rows, names * 2, pad=pad, batch_size=batch_size, progress=bar.update
        )
        sums = unsteered_logps(model, rows, pad=pad, batch_size=batch_size, progress=bar.update)
    means = [float(value) / max(len(row.response), 1) for value, row in zip(sums, rows, strict=True)]
    half = total // 2
    margins = (projections[:half] - projections[half:]).tolist()
    logps = list(zip(means[:half], means[half:], strict=True))
    flags = [
        answer_flags(*both) + _model_flags(margin, *logp, unlikely=unlikely)
        for both, margin, logp in zip(zip(*sides, strict=True), margins, logps, strict=True)
    ]
    checked = _with_checks(pairs, flags, margins, logps)
    for warning in summarize_checks(checked).warnings:
        logger.warning("%s", warning)
    return checked


@dataclass(frozen=True)
class CheckSummary:
    """What the flags of many pairs say together; `str(summary)` says it in sentences.

    Args:
        rows: Pairs per criterion.
        shares: Per criterion, the share of its pairs that carry each flag; flags that nobody carries are left
            out.
        warnings: Sentences on what is wrong and what to do, usually none.
    """

    rows: Mapping[str, int]
    shares: Mapping[str, Mapping[str, float]]
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            f"{name}, {self.rows[name]} pairs: "
            + (", ".join(f"{share:.0%} {flag}" for flag, share in shares.items()) or "nothing flagged")
            for name, shares in self.shares.items()
        ]
        return "\n".join([*lines, *self.warnings])


def summarize_checks(checked: Dataset) -> CheckSummary:
    """Shares of each flag per criterion, and sentences on what is wrong with the strengths.

    Args:
        checked: Rows with `criterion` and `flags`, from `check_pairs` or `generate_pairs`.
    """
    flags: dict[str, list[list[str]]] = {}
    for name, row in zip(checked["criterion"], checked["flags"], strict=True):
        flags.setdefault(name, []).append(row)
    shares = {name: _shares(rows) for name, rows in sorted(flags.items())}
    warnings = [text for name, rows in sorted(flags.items()) for text in _warnings(name, rows)]
    return CheckSummary({name: len(flags[name]) for name in shares}, shares, tuple(warnings))


def _shares(rows: list[list[str]]) -> dict[str, float]:
    shares = {flag: sum(flag in row for row in rows) / len(rows) for flag in FLAGS}
    return {flag: share for flag, share in shares.items() if share > 0}


def _warnings(name: str, rows: list[list[str]]) -> list[str]:
    found = []
    for side in ("chosen", "rejected"):
        broken = sum(bool({f"degenerate_{side}", f"unlikely_{side}"} & set(row)) for row in rows) / len(rows)
        if broken > BREAKS:
            found.append(
                f"The {side} side's strength breaks the text: {broken:.0%} of the {side} answers for "
                f"{name!r} repeat themselves, are empty, or are very unlikely to the unsteered model "
                f"(allowed: {BREAKS:.0%}). Lower that strength, or tune the directions."
            )
    flipped = sum("flipped" in row for row in rows) / len(rows)
    if flipped > 0.5:
        found.append(
            f"The pairs for {name!r} point the wrong way: in {flipped:.0%} of them the rejected answer fits "
            "the criterion better. Check the signs of the strengths, the control layers and the directions' "
            "evidence."
        )
    return found


def _model_flags(margin: float, chosen: float, rejected: float, *, unlikely: float) -> list[str]:
    found = {
        "unlikely_chosen": chosen < unlikely,
        "unlikely_rejected": rejected < unlikely,
        "flipped": margin < 0,
    }
    return [name for name, present in found.items() if present]


def _criteria(pairs: Dataset, directions: DirectionVectors) -> list[str]:
    """The criterion of every pair; refuses rows that cannot be checked."""
    needed = ("prompt", "chosen", "rejected", "criterion")
    if missing := [name for name in needed if name not in pairs.column_names]:
        raise ValueError(
            f"pairs lack {', '.join(missing)} (they have: {', '.join(pairs.column_names) or 'nothing'}); "
            "pass the rows of generate_pairs"
        )
    if len(pairs) == 0:
        raise ValueError("there are no pairs to check; generate some first")
    names: list[str] = list(pairs["criterion"])
    if unknown := set(names) - set(directions.names):
        raise ValueError(
            f"pairs name criteria {sorted(map(str, unknown))}; these directions have: "
            f"{', '.join(directions.names)}"
        )
    return names


def _answer_ids(tokenizer: PreTrainedTokenizerBase, answer: Instruction | list[Message]) -> list[int]:
    text = answer if isinstance(answer, str) else answer[-1]["content"]
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _with_checks(
    pairs: Dataset, flags: list[list[str]], margins: list[float], logps: list[tuple[float, float]]
) -> Dataset:
    """The rows with their checks; earlier checks are replaced."""
    if "flags" in pairs.column_names:
        others = [
            [flag for flag in row if flag not in FLAGS or flag == "undecided"] for row in pairs["flags"]
        ]
        flags = [other + own for other, own in zip(others, flags, strict=True)]
    new = ("flags", "projection_margin", "logp_chosen", "logp_rejected")
    result = pairs.remove_columns([name for name in new if name in pairs.column_names])
    result = result.add_column("flags", flags, feature=List(Value("string")))
    result = result.add_column("projection_margin", margins)
    for place, name in enumerate(("logp_chosen", "logp_rejected")):
        result = result.add_column(name, [logp[place] for logp in logps])
    return result
