"""A chain of thought as a model writes it: reasons in whole sentences, and "The answer is 7." at the end."""

from __future__ import annotations

import re

from hf_icon2.storage import shortened

_ANSWER_IS = re.compile(r"\bthe\s+(?:final\s+)?[*_]*answer[*_]*\s+is\b[\s:]*", re.IGNORECASE)
_MATHEMATICS = (("\\(", "\\)"), ("\\[", "\\]"), ("$", "$"), ("\\boxed{", "}"))
"""What models put around an answer in LaTeX."""

_SENTENCE_END = re.compile(r"[.!?](?![0-9A-Za-z])|\n")


def split_chain(reply: str) -> tuple[str, str]:
    """The rationale and the answer of a reply; strict, so that nothing blank, cut or ambiguous passes for one.

    Args:
        reply: The answer stands after the last "The answer is" (or "The final answer is"), on one line that ends the
            reply. What a model thinks before its reply, up to `</think>`, is passed over.

    Returns:
        The rationale, up to the last end of a sentence or a line before "The answer is"; and the answer, see
        `bare_answer`.

    Raises:
        ValueError: With the reason, up to its first colon always the same words.
    """
    said = spoken(reply)
    stated = list(_ANSWER_IS.finditer(said))
    if not stated:
        raise ValueError(f'the reply does not say "The answer is": {shortened(said)}')
    label = said[stated[-1].end() :].strip()
    if len(label.splitlines()) > 1:
        raise ValueError(f"the reply goes on after the answer: {shortened(label)}")
    rationale = _whole_sentences(said[: stated[-1].start()])
    if not says_something(label):
        raise ValueError("the answer of the reply is blank")
    if not says_something(rationale):
        raise ValueError(f"the reply has no whole sentence before the answer: {shortened(said)}")
    return rationale, bare_answer(label)


def spoken(reply: str) -> str:
    """A reply without what the model thinks before it, up to `</think>`.

    Raises:
        ValueError: If it is no valid Unicode, which JSON can carry and no file can.
    """
    said = reply.rpartition("</think>")[2].strip()
    try:
        said.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the reply is no valid Unicode: {shortened(said)}") from None
    return said


def bare_answer(text: str) -> str:
    """Without the full stop of the sentence, and without the quotes, marks and LaTeX that stand around it."""
    before = None
    while text != before:
        before = text
        text = _without_mathematics(text.strip().removesuffix(".").strip("*_`\"'“”‘’ "))
    return text


def _without_mathematics(text: str) -> str:
    for opening, closing in _MATHEMATICS:
        inner = text.removeprefix(opening).removesuffix(closing)
        if f"{opening}{inner}{closing}" == text and opening not in inner and closing not in inner:
            return inner
    return text


def says_something(text: str) -> bool:
    """Whether there is a letter or a digit in it."""
    return any(map(str.isalnum, text))


def _whole_sentences(text: str) -> str:
    """Up to the last end of a sentence; the point of a number such as 4.2 ends none."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]].strip() if ends else ""
