"""Pairs as long as their tokens last."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from hf_icon2.synthesis.strategies.drafting import Draft, PairRow, Strategy, Writer

logger = logging.getLogger(__name__)


def draft_within(
    strategy: Strategy, writer: Writer, rows: Sequence[PairRow], token_budget: int | None
) -> list[Draft]:
    """Drafts of the rows, in order, as long as their tokens together stay within the budget.

    Works in batches, the last ones no larger than what is left should need, so that little is generated that does not
    count. Which rows are reached depends on their own tokens only, not on the batches.

    Args:
        strategy: Makes the drafts.
        writer: Generates their texts.
        rows: What to answer.
        token_budget: Most tokens in all; None for no bound.

    Returns:
        Drafts of the first rows.

    Raises:
        ValueError: If not even the first row fits.
    """
    if token_budget is None:
        return strategy.draft(writer, rows)
    drafts: list[Draft] = []
    spent = 0
    while len(drafts) < len(rows):
        size = _batch(writer.batch_size, token_budget - spent, spent, len(drafts))
        for draft in strategy.draft(writer, rows[len(drafts) : len(drafts) + size]):
            if spent + draft.tokens > token_budget:
                return _reached(drafts, rows, spent, token_budget, draft.tokens)
            spent += draft.tokens
            drafts.append(draft)
    return _reached(drafts, rows, spent, token_budget, 0)


def _batch(most: int, left: int, spent: int, rows: int) -> int:
    """Rows that the tokens left are enough for, by the mean so far; 1 to `most`."""
    return most if spent == 0 else max(1, min(most, left * rows // spent))


def _reached(
    drafts: list[Draft], rows: Sequence[PairRow], spent: int, budget: int, wanted: int
) -> list[Draft]:
    if not drafts:
        raise ValueError(f"the first pair takes {wanted} tokens, and token_budget is {budget}; raise it")
    logger.info(
        "token_budget: %d of %d instructions are answered, with %d of %d tokens",
        len(drafts),
        len(rows),
        spent,
        budget,
    )
    return drafts
