"""What a reply to a ranking prompt says, and what two replies to the same question say together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations
from string import ascii_uppercase as LETTERS

Order = tuple[int, ...]
"""Indices of answers, best first."""

_LINE = re.compile(r"(?:(?i:(?:final )?ranking:)\s*)?([A-Z](?: *> *[A-Z])+)\s*\.?")
_MARKUP = re.compile(r"\*\*|[`\"\\]")
_MOST_SHOWN = 60


def parse_ranking(reply: str, count: int) -> Order:
    """The order that a reply gives to lettered answers.

    Args:
        reply: One line of its own, every letter once, such as `B > A > D > C`, with or without `Ranking:` before it
            and a full stop after it. Bold type, quotes, and lines that rank nothing are passed over, and so is what a
            model thinks, up to `</think>`.
        count: Number of answers, 2 to 26; they are lettered from A.

    Returns:
        Seats, best first, counted from 0.

    Raises:
        ValueError: For anything else, with a shortened copy of the reply.
    """
    said = reply.rpartition("</think>")[2].partition("<think>")[0].strip()
    ranking = [line for line in _MARKUP.sub("", said).split("\n") if ">" in line]
    found = _LINE.fullmatch(ranking[0].strip()) if len(ranking) == 1 else None
    if found is None:
        raise ValueError(f"the reply is not one ranking line: {shortened(said or reply.strip())}")
    letters = re.findall("[A-Z]", found[1])
    if sorted(letters) != list(LETTERS[:count]):
        raise ValueError(
            f"the reply does not rank each of {LETTERS[0]} to {LETTERS[count - 1]} once: {shortened(said)}"
        )
    return tuple(LETTERS.index(letter) for letter in letters)


def shortened(text: str) -> str:
    """The text in quotes, its middle left out where it is long."""
    half = _MOST_SHOWN // 2
    return repr(text if len(text) <= _MOST_SHOWN else f"{text[:half]} ... {text[-half:]}")


def kendall_tau(first: Order, second: Order) -> float:
    """Share of pairs that two orders of the same items rank alike minus the share they rank differently, -1 to 1."""
    place = {item: index for index, item in enumerate(second)}
    alike = [place[better] < place[worse] for better, worse in combinations(first, 2)]
    return 2 * sum(alike) / len(alike) - 1


def mean_beaten(orders: Sequence[Order]) -> tuple[float, ...]:
    """How many others each item beats, on average over the orders (Borda's count).

    Neighbours that two orders swap are tied. Where they differ by more, no scores could tie exactly the pairs in
    dispute (two items may be ordered alike by both and each be in dispute with a third); all move to the middle.

    Returns:
        Per item, 0 to K - 1.
    """
    items = range(len(orders[0]))
    return tuple(sum(len(items) - 1 - order.index(item) for order in orders) / len(orders) for item in items)
