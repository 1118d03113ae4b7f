"""Which of two answers, A or B, a reply names as the better one; strictly: in doubt, none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal
from unicodedata import normalize

_NOUN = (
    r"(?:output|answer|response|assistant|option|candidate|completion|model|choice|summary|reply|solution)"
)
# "Output (a)", "answer: b" and "(b)" in either case; the letter alone only as a capital, since "a" is an article, and
# as the subject of a sentence not after a noun ("vitamin A").
_LABELLED = rf"{_NOUN}\s*[#:]?\s*[(\[]{{0,2}}\s*([ab])\b\s*[)\]]*|[(\[]{{1,2}}\s*([ab])\s*[)\]]+"
_NAMED = rf"(?:{_LABELLED}|(?-i:\b([AB])\b))"
_SUBJECT = (
    r"(?P<lead>(?:^|[.,;:!?]|\b(?:that|so|but|and|or|nor|then|hence|thus|therefore|believe|think|say|doubt|overall|while|though|"
    r"although|because|since|whether|if|not|neither|both)\b)\s*)(?-i:([AB])\b)"
)
_DEGREE = (
    r"(?:(?:the|a|by|far|much|slightly|clearly|definitely|overall|significantly|generally|still|certainly|"
    r"marginally|somewhat|considerably|arguably|ultimately|indeed|also)\s+)*"
)
_BETTER = r"(?:better|best|superior|preferable|preferred|stronger|winner)\b"
_END = r"(?=\s*(?:[.,;:!)\]}]|$))"
_FLAGS = re.IGNORECASE | re.MULTILINE

_VERDICTS = tuple(
    re.compile(pattern, _FLAGS)
    for pattern in (
        rf"(?:{_LABELLED}|{_SUBJECT})\s+(?:(?:is|was|seems|appears)\s+{_DEGREE}{_BETTER}|wins\b)",
        rf"\b(?:better|best|superior|preferred|preferable|stronger|winning)(?:\s+(?:one|{_NOUN}))?\s*(?:is:?|:|=)\s*{_NAMED}",
        r"\b(?:verdict|answer|decision|choice|judge?ment|winner|preference|conclusion|selection|letter)\s*(?:is:?|:|=)\s*"
        rf"(?:{_NOUN}\s*)?[(\[]*([ab])\b[)\]]*{_END}",
        rf"\b(?:choose|prefer|pick|select|favou?r|vote\s+for|go(?:ing)?\s+with)\s+{_NAMED}",
        r"\[\[\s*([ab])\s*(?:>+\s*[ab]\s*)?\]\]",
        r"\\boxed\{\s*(?:\\text\{)?\s*([ab])\s*\}",
        r"<(?:answer|verdict)>\s*([ab])\s*</",
        rf"\A\W*(?:{_NOUN}\s*)?([ab])\b[)\],]*\s+(?:because|since)\b",
    )
)
_UNDECIDED = re.compile(
    rf"{_NAMED}\s*(?:is\s+(?:not|no|never)|isn't)\s+{_DEGREE}{_BETTER}"
    r"|\ba\s+(?:tie|draw)\b|^\W*tie\W*$|\[\[\s*(?:c|tie|a\s*=\s*b)\s*\]\]|\b(?:choose|prefer|pick|select)\s+(?:neither|both|none)\b"
    r"|\bequally\s+(?:good|bad|well|helpful|correct|valid)\b"
    rf"|\b(?:neither|both)\s+(?:of\s+)?(?:them|one|is|are|{_NOUN}s?\s+(?:is|are))\s+{_DEGREE}{_BETTER}",
    _FLAGS,
)
_DENIED = re.compile(
    r"(?:\b(?:not|never|cannot|neither|nor|whether|if|unless)\b|n't\b)[^,;:]*$"
    rf"|\bor\s*$|{_NAMED}\s*and\s*$",
    re.IGNORECASE,
)
_LONE = re.compile(
    rf"^[^\w\n]*(?:(?:therefore|thus|so|hence|overall)[^\w\n]+)?(?:{_NOUN}[^\w\n]*)?([ab])[^\w:\n]*$", _FLAGS
)
_LONGEST_CLAUSE = 300  # characters that are searched for a denial
_MARKUP = re.compile(r"[*_`\"“”]")


def stated_letter(reply: str) -> Literal["A", "B"] | None:
    """The letter of the answer that a reply finds better.

    A verdict is a sentence such as "Output (a) is better" or "I prefer B", a mark such as "[[A]]" or "Answer: B", or
    a line of its own such as "(b)". The last one counts; what a model thinks, up to `</think>`, does not.

    Args:
        reply: What a judge said about answers A and B.

    Returns:
        None where there is no verdict, or where the last one names both, neither, or is denied.
    """
    said = reply.rpartition("</think>")[2].partition("<think>")[0]
    text = _MARKUP.sub("", normalize("NFKC", said)).strip()
    # Long runs of spaces would take long to match.
    text = re.sub(r"\s*\n\s*", "\n", re.sub(r"[^\S\n]+", " ", text))
    found = sorted([*_stated(text), *_lone(text)], key=lambda item: item[0])
    letter = found[-1][1] if found else None
    return None if letter is None else ("A" if letter == "A" else "B")


def _stated(text: str) -> Iterator[tuple[int, str | None]]:
    """Where each verdict ends, and its letter; None for one that leaves it open."""
    for match in _UNDECIDED.finditer(text):
        yield match.end(), None
    for pattern in _VERDICTS:
        for match in pattern.finditer(text):
            led = "lead" in pattern.groupindex and match["lead"] is not None
            end = match.end("lead") if led else match.start()
            clause = re.split(r"[.!?\n]", text[max(0, end - _LONGEST_CLAUSE) : end])[-1]
            denied = _DENIED.search(clause)
            yield match.end(), None if denied else match[match.lastindex or 0].upper()


def _lone(text: str) -> Iterator[tuple[int, str]]:
    """A letter on a line of its own; of several that differ only one that ends the reply, as others are headings."""
    lines = list(_LONE.finditer(text))
    alike = len({line[1].upper() for line in lines}) == 1
    headings = len(lines) < len(text.split("\n"))
    if lines and (alike or (headings and lines[-1].end() == len(text))):
        yield lines[-1].end(), lines[-1][1].upper()
