"""Which of two answers, A or B, a reply names as the better one; strictly: in doubt, none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple
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
    r"(?:(?:the|a|by|far|much|slightly|clearly|clear|definitely|overall|significantly|generally|still|certainly|"
    r"marginally|somewhat|considerably|arguably|ultimately|indeed|also)\s+)*"
)
# Of "better written" and the like only a part of the answer is praised.
_BETTER = (
    r"(?:better|best|superior|preferable|preferred|stronger|winner)\b"
    r"(?!\s+(?:written|formatted|structured|organi[sz]ed|phrased|worded|presented|explained)\b)"
)
_END = r"(?=\s*(?:[^\w\s/>&+?=-]|\s[–—-]|$))(?!\s*,\s*[ab]\b)"
_FLAGS = re.IGNORECASE | re.MULTILINE

_VERDICTS = tuple(
    re.compile(pattern, _FLAGS)
    for pattern in (
        rf"(?:{_LABELLED}|{_SUBJECT})(?:['’]s\s+{_NOUN})?\s+(?:(?:is|was|(?:seems|appears)(?:\s+to\s+be)?)\s+{_DEGREE}{_BETTER}"
        r"|(?:wins|beats|outperforms)\b|serves\s+the\s+question\s+(?:\w+\s+)?better\b|better\s+serves\s+the\s+question\b)",
        rf"(?<!second.)(?<!next.)(?<!less.)(?<!least.)\b(?:better|best|superior|preferred|preferable|stronger|winning)"
        rf"(?:\s+(?:one|{_NOUN})|\s+serves\s+the\s+question)?\s*(?:is:?|:|=)\s*(?:(?:clearly|definitely)\s+)?{_NAMED}",
        r"(?:^|[^\w\s]|\b(?:the|my|final|correct|right|overall|so|thus|hence|therefore)\b)\s*"
        r"(?:verdict|answer|decision|choice|judge?ment|winner|preference|conclusion|selection|selected|letter|pick|vote)"
        rf"\s*(?:is:?|(?:would|should|must)\s+be|:|=)\s*(?:{_NOUN}\s*)?[(\[]*([ab])\b[)\]]*{_END}",
        rf"\b(?:choose|prefer|pick|select|favou?r|vote\s+for|go(?:ing)?\s+with|lean(?:ing)?\s+towards?)\s+{_NAMED}",
        r"\[\[\s*([ab])\s*(?:>+\s*[ab]\s*)?\]\]",
        r"\\boxed\{\s*(?:\\text\{)?\s*([ab])\s*\}",
        r"<(?:answer|verdict|choice|winner)>\s*([ab])\s*</",
        rf"\A\W*(?:{_NOUN}\s*)?([ab])\b[)\],]*\s+(?:because|since)\b",
    )
)
_UNDECIDED = re.compile(
    rf"{_NAMED}\s*(?:is\s+(?:not|no|never)|isn't)\s+{_DEGREE}{_BETTER}"
    r"|\ba\s+(?:tie|draw)\b|^[^\w\n]*tie[^\w\n]*$|\[\[\s*(?:c|tie|a\s*=\s*b)\s*\]\]|\b(?:choose|prefer|pick|select)\s+(?:neither|both|none)\b"
    r"|\bequally\s+(?:good|bad|well|helpful|correct|valid)\b"
    rf"|\b(?:neither|both)\s+(?:of\s+)?(?:them|one|is|are|{_NOUN}s?\s+(?:is|are))\s+{_DEGREE}{_BETTER}",
    _FLAGS,
)
# What stands before a verdict in its clause and takes it back.
_DENIED = re.compile(
    r"(?:\b(?:not|never|cannot|neither|nor|whether|if|unless|otherwise|nobody|no\s+(?:one|reason)|wrong\s+to|"
    r"(?:might|may|could)\s+(?:say|think|argue|believe))\b|n't\b)[^,;:]*$"
    rf"|\bor\s*$|{_NAMED}\s*and\s*$",
    re.IGNORECASE,
)
_CONCEDED = re.compile(r"\b(?:while|whilst|although|though|despite|even\s+if)\b[^,;:]*$", re.IGNORECASE)
_CLAUSE_ENDS = re.compile(r"[.!?\n]|\b(?:but|however|yet|so|thus|hence|therefore|overall)\b", re.IGNORECASE)
_ASKED = re.compile(r"[^.!?\n]*\?")
_LONE = re.compile(
    rf"^[^\w\n]*(?:(?:therefore|thus|so|hence|overall|clearly|definitely|sure)[^\w\n]+)?(?:{_NOUN}[^\w\n]*)?"
    r"([ab])[^\w:?\n]*$",
    _FLAGS,
)
# "A", or "A. It is the shorter one.".
_OPENING = re.compile(r"\A[^\w\n]*([AB])(?:\s?[.:)–—-]+ | \()(?=[^\W\d])(?![AB]\b)")
_OPENS_TOO = rf"(?:^|[.;!?]\s)[^\w\n]*(?:(?i:{_NOUN})\W*)?{{}}\b\s?(?:[.:)(*–—-]|$)"
_LONGEST_CLAUSE = 300  # characters that are searched for a denial
_MARKUP = re.compile(r"[*`\"“”]")


class _Verdict(NamedTuple):
    end: int
    start: int
    letter: str | None


def stated_letter(reply: str) -> Literal["A", "B"] | None:
    """The letter of the answer that a reply finds better.

    A verdict is a sentence such as "Output (a) is better" or "I prefer B", a mark such as "[[A]]" or "Answer: B", a
    line of its own such as "(b)", or what a reply begins with: "A. It is true." The last one counts; what a model
    thinks, up to `</think>`, does not.

    Args:
        reply: What a judge said about answers A and B.

    Returns:
        None where there is no verdict, or where the last one names both, neither, or is denied, or contradicts
        another in the same clause or the letter that the reply begins with.
    """
    said = reply.rpartition("</think>")[2].partition("<think>")[0]
    text = _MARKUP.sub("", normalize("NFKC", said).replace("_", " ")).strip()
    # Long runs of spaces would take long to match.
    text = re.sub(r"\s*\n\s*", "\n", re.sub(r"[^\S\n]+", " ", text))
    opening = _opening(text)
    found = sorted([*opening, *_stated(text), *_lone(text)], key=lambda verdict: verdict.end)
    if not found:
        return None
    last = found[-1]
    clause = last.start - len(_clause_before(text, last.start))
    rivals = [*opening, *(one for one in found if one.end > clause)]
    if any(one.letter != last.letter for one in rivals):
        return None
    return None if last.letter is None else ("A" if last.letter == "A" else "B")


def _stated(text: str) -> Iterator[_Verdict]:
    """Verdicts in sentences and marks; of no letter where one leaves it open."""
    for match in _UNDECIDED.finditer(text):
        yield _Verdict(match.end(), match.start(), None)
    for pattern in _VERDICTS:
        for match in pattern.finditer(text):
            led = "lead" in pattern.groupindex and match["lead"] is not None
            start = match.end("lead") if led else match.start()
            clause = _clause_before(text, start)
            if _CONCEDED.search(clause) or _ASKED.match(text, match.end(), match.end() + _LONGEST_CLAUSE):
                continue
            denied = _DENIED.search(clause)
            yield _Verdict(match.end(), start, None if denied else match[match.lastindex or 0].upper())


def _clause_before(text: str, end: int) -> str:
    """What stands before a place in its clause."""
    return _CLAUSE_ENDS.split(text[max(0, end - _LONGEST_CLAUSE) : end])[-1]


def _lone(text: str) -> Iterator[_Verdict]:
    """A letter on a line of its own; of several that differ only one that ends the reply, as others are headings."""
    lines = list(_LONE.finditer(text))
    alike = len({line[1].upper() for line in lines}) == 1
    headings = len(lines) < len(text.split("\n"))
    if lines and (alike or (headings and lines[-1].end() == len(text))):
        yield _Verdict(lines[-1].end(), lines[-1].start(), lines[-1][1].upper())


def _opening(text: str) -> list[_Verdict]:
    """The letter that a reply begins with, unless the other one begins a line or a sentence as well."""
    match = _LONE.match(text) or _OPENING.match(text)
    if match is None:
        return []
    letter = match[1].upper()
    other = "B" if letter == "A" else "A"
    if re.search(_OPENS_TOO.format(other), text, re.MULTILINE):
        return []
    return [_Verdict(match.end(), match.start(), letter)]
