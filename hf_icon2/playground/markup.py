"""The page's own HTML: answers as coloured tokens, the legend, bars. Plain text in, escaped HTML out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

_NEGATIVE, _POSITIVE = "124, 92, 200", "230, 97, 1"  # purple and orange: told apart by colour-blind eyes
_STRONGEST = 0.6  # opacity, so that the text stays readable on light and on dark
_NAMES = ("minus", "zero", "plus")
_SIGNS = ("−", "0", "+")


@dataclass(frozen=True)
class Card:
    """One column.

    Args:
        title: How the answer is steered, in words.
        pieces: The answer's text, token by token.
        projections: One per token, or None while they are not known.
        status: What is to be said below, like "12 tokens".
    """

    title: str
    pieces: Sequence[str] = ()
    projections: Sequence[float] | None = None
    status: str = ""


def pieces(decode: Callable[[list[int]], str], ids: Sequence[int]) -> list[str]:
    """The text of each token; they join to the text of all.

    A token that ends in the midst of a character has no text, and the one that completes it has the character.

    Args:
        decode: Text of a list of token ids.
        ids: T token ids.
    """
    found, shown = [], ""
    for count in range(1, len(ids) + 1):
        text = decode(list(ids[:count]))
        if text.endswith("\ufffd") and count < len(ids):
            found.append("")
            continue
        found.append(text[len(shown) :])
        shown = text
    return found


def colour(value: float, limit: float) -> str:
    """CSS colour of a projection: transparent at 0, strongest from `limit` on; purple below, orange above."""
    share = min(abs(value) / limit, 1.0) if limit > 0 else 0.0
    return f"rgba({_POSITIVE if value > 0 else _NEGATIVE}, {_STRONGEST * share:.3f})"


def colour_limit(rows: Sequence[Sequence[float]]) -> float:
    """The size that gets the strongest colour: the 95th percentile, so that one outlier does not pale the rest."""
    sizes = sorted(abs(value) for row in rows for value in row)
    return sizes[int(0.95 * (len(sizes) - 1))] if sizes else 0.0


def tokens_html(texts: Sequence[str], projections: Sequence[float] | None, limit: float) -> str:
    """Text, each token on its colour with the number as its title; plain without projections."""
    if projections is None:
        return escape("".join(texts))
    return "".join(
        f'<span class="token" style="background:{colour(value, limit)}" '
        f'title="{_signed(value, 3)}">{escape(text)}</span>'
        for text, value in zip(texts, projections, strict=True)
        if text
    )


def empty_html() -> str:
    """The columns before anything is asked."""
    return answers_html([Card("against the sliders"), Card("not steered"), Card("along the sliders")])


def answers_html(cards: Sequence[Card], limit: float = 0.0) -> str:
    """The three columns -, 0 and +."""
    columns = "".join(
        f'<section class="answer {name}" aria-label="answer under {sign}"><h3><span class="sign">{sign}</span> '
        f"<small>{escape(card.title)}</small></h3>"
        f'<p class="text">{tokens_html(card.pieces, card.projections, limit)}</p>'
        f"<footer>{escape(_footer(card))}</footer></section>"
        for name, sign, card in zip(_NAMES, _SIGNS, cards, strict=True)
    )
    return f'<div class="answers">{columns}</div>'


def prompt_html(texts: Sequence[str], projections: Sequence[float], limit: float) -> str:
    """The prompt's tokens, special ones included."""
    return f'<p class="prompt"><b>Prompt</b> {tokens_html(texts, projections, limit)}</p>'


def legend_html(criterion: str, layer: int, limit: float) -> str:
    """What the colours mean."""
    return (
        f'<div class="legend"><span>away from {escape(criterion)}</span> <b>−{limit:.2f}</b>'
        '<span class="scale" role="img" aria-label="purple below 0, orange above 0"></span>'
        f"<b>+{limit:.2f}</b> <span>towards {escape(criterion)}</span>"
        f"<small>projection of each token at layer {layer}, in mean residual norms; hover for the number</small></div>"
    )


def steering_text(steering: Mapping[str, float]) -> str:
    """A steering in words: "honesty +0.1, helpfulness −0.05", or "not steered"."""
    parts = [
        f"{name} {'+' if strength > 0 else '−'}{abs(strength):.3g}"
        for name, strength in steering.items()
        if strength
    ]
    return ", ".join(parts) or "not steered"


def consistency_html(scores: Mapping[str, float], meaning: str, full: float) -> str:
    """A bar per criterion, to the left below 0 and to the right above.

    Args:
        scores: Score per criterion.
        meaning: A sentence below the bars.
        full: Score of a bar of full length.
    """
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="bar"><i class="{"plus" if score > 0 else "minus"}" '
        f'style="width:{50 * min(abs(score) / full, 1):.1f}%"></i></td>'
        f'<td class="number">{_signed(score, 2)}</td></tr>'
        for name, score in scores.items()
    )
    return f'<div class="consistency"><table>{rows}</table><p>{escape(meaning)}</p></div>'


def card_markdown(card: str) -> str:
    """A card without its front matter, in which strangers' texts can load no picture and hold no HTML."""
    return card.partition("\n---\n")[2].replace("<", "&lt;").replace("![", "!&#91;")


def _footer(card: Card) -> str:
    if not card.projections:
        return card.status
    mean = sum(card.projections) / len(card.projections)
    return f"{card.status} · mean projection {_signed(mean, 3)}"


def _signed(number: float, digits: int) -> str:
    """A number with its sign, a true minus in place of the hyphen."""
    return f"{number:+.{digits}f}".replace("-", "−")
