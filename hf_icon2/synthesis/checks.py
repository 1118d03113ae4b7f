"""What is wrong with preference pairs, seen without a judge: by the model that wrote them, and in sum."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datasets import Dataset, List, Value
from tqdm.auto import tqdm

from hf_icon2.blocks import find_blocks
from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.prompts import Instruction, Message, encode_prompt, pad_token_id
from hf_icon2.synthesis.flags import FLAGS, UNDECIDED, answer_flags
from hf_icon2.synthesis.readings import Row, response_projections, unsteered_logps

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

UNLIKELY = -4.0
"""Mean log-probability per token, in nats, below which an answer is flagged. A model's own samples lie near
minus its entropy, usually -0.3 to -2; random words at -ln(vocabulary), -6 to -12."""

BREAKS = 0.1
"""Share of broken answers from which a strength is said to break the text."""

NO_CRITERION = "no criterion"
"""What a summary calls the pairs that are about none."""


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
        pairs: Rows with `prompt`, `chosen`, `rejected` (message lists or texts) and `criterion`, which is null where
            a pair is about none.
        unlikely: Mean log-probability per token, in nats, below which an answer is flagged.
        batch_size: Answers per forward pass.
        show_progress: Whether to show a progress bar.

    Returns:
        The given rows with `flags` (names in `FLAGS`; flags of other kinds are kept), `projection_margin`
        (how much further the chosen answer's mean state lies along the criterion's direction, mean over its
        control layers, in mean residual norms; null without a criterion), and `logp_chosen`, `logp_rejected`
        (mean log-probability per token under the unsteered model, in nats; 0 for an empty answer). A warning in
        the log says when texts are broken.

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
    about = [(row, name) for row, name in zip(rows, names * 2, strict=True) if name is not None]
    pad, total = pad_token_id(tokenizer), len(rows)
    with tqdm(total=total + len(about), desc="checks", disable=not show_progress) as bar:
        projections = response_projections(
            model,
            directions,
            [row for row, _ in about],
            [name for _, name in about],
            pad=pad,
            batch_size=batch_size,
            progress=bar.update,
        )
        sums = unsteered_logps(model, rows, pad=pad, batch_size=batch_size, progress=bar.update)
    means = [float(value) / max(len(row.response), 1) for value, row in zip(sums, rows, strict=True)]
    chosen, rejected = projections.chunk(2) if about else (projections, projections)
    found = iter((chosen - rejected).tolist())
    margins = [None if name is None else next(found) for name in names]
    logps = list(zip(means[: total // 2], means[total // 2 :], strict=True))
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
        flags.setdefault(NO_CRITERION if name is None else name, []).append(row)
    shares = {name: _shares(rows) for name, rows in sorted(flags.items())}
    steered = "strength_chosen" not in checked.column_names or set(checked["strength_chosen"]) != {None}
    warnings = [text for name, rows in sorted(flags.items()) for text in _warnings(name, rows, steered)]
    return CheckSummary({name: len(flags[name]) for name in shares}, shares, tuple(warnings))


def _shares(rows: list[list[str]]) -> dict[str, float]:
    shares = {flag: sum(flag in row for row in rows) / len(rows) for flag in FLAGS}
    return {flag: share for flag, share in shares.items() if share > 0}


def _warnings(name: str, rows: list[list[str]], steered: bool) -> list[str]:
    found = []
    for side in ("chosen", "rejected"):
        broken = sum(bool({f"degenerate_{side}", f"unlikely_{side}"} & set(row)) for row in rows) / len(rows)
        what, remedy = (
            (f"The {side} side's strength breaks the text", "Lower that strength, or tune the directions.")
            if steered
            else (f"The {side} text is broken, and was not steered", "Lower the temperature.")
        )
        if broken > BREAKS:
            found.append(
                f"{what}: {broken:.0%} of the {side} answers for {name!r} repeat themselves, are empty, or are very "
                f"unlikely to the unsteered model (allowed: {BREAKS:.0%}). {remedy}"
            )
    flipped = sum("flipped" in row for row in rows) / len(rows)
    if flipped > 0.5:
        found.append(
            f"The pairs for {name!r} point the wrong way: in {flipped:.0%} of them the rejected answer fits "
            "the criterion better. "
            + (
                "Check the signs of the strengths, the control layers and the directions' evidence."
                if steered
                else "Nothing was steered: what told the answers apart may not be about this criterion."
            )
        )
    return found


def _model_flags(margin: float | None, chosen: float, rejected: float, *, unlikely: float) -> list[str]:
    found = {
        "unlikely_chosen": chosen < unlikely,
        "unlikely_rejected": rejected < unlikely,
        "flipped": margin is not None and margin < 0,
    }
    return [name for name, present in found.items() if present]


def _criteria(pairs: Dataset, directions: DirectionVectors) -> list[str | None]:
    """The criterion of every pair; refuses rows that cannot be checked."""
    needed = ("prompt", "chosen", "rejected", "criterion")
    if missing := [name for name in needed if name not in pairs.column_names]:
        raise ValueError(
            f"pairs lack {', '.join(missing)} (they have: {', '.join(pairs.column_names) or 'nothing'}); "
            "pass the rows of generate_pairs"
        )
    if len(pairs) == 0:
        raise ValueError("there are no pairs to check; generate some first")
    names: list[str | None] = list(pairs["criterion"])
    if unknown := set(names) - {None, *directions.names}:
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
    pairs: Dataset, flags: list[list[str]], margins: list[float | None], logps: list[tuple[float, float]]
) -> Dataset:
    """The rows with their checks; earlier checks are replaced."""
    if "flags" in pairs.column_names:
        others = [[flag for flag in row if flag not in FLAGS or flag == UNDECIDED] for row in pairs["flags"]]
        flags = [other + own for other, own in zip(others, flags, strict=True)]
    new = ("flags", "projection_margin", "logp_chosen", "logp_rejected")
    result = pairs.remove_columns([name for name in new if name in pairs.column_names])
    result = result.add_column("flags", flags, feature=List(Value("string")))
    result = result.add_column("projection_margin", margins, feature=Value("float64"))
    for place, name in enumerate(("logp_chosen", "logp_rejected")):
        result = result.add_column(name, [logp[place] for logp in logps])
    return result
