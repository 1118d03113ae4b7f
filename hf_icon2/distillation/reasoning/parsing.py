"""What a teacher's replies say; strict, so that nothing blank, cut or ambiguous is ever learned.

The forms are those of the authors of Mind's Mirror. They train on a blank where a chain cannot be read, and take a
verdict from anywhere in an evaluation; here such replies are refused.
"""

from __future__ import annotations

import re

from hf_icon2.distillation.reasoning.answers import written_answer
from hf_icon2.distillation.reasoning.records import Chain, Evaluation, Question
from hf_icon2.distillation.reasoning.wording import EVALUATION
from hf_icon2.judges.chains import says_something, split_chain, spoken
from hf_icon2.judges.verdicts import VERDICTS, Verdict
from hf_icon2.storage import shortened

_MARKS = r"[\s*_`\"'.:#>-]*"
_RESULT = re.compile(rf"{_MARKS}evaluation\s+result\b(.*)", re.IGNORECASE)
_GIVEN = re.compile(
    rf"{_MARKS}(?:the\s+(?:given\s+)?answer\s+is{_MARKS})?({'|'.join(VERDICTS)}){_MARKS}", re.IGNORECASE
)
_ELSEWHERE = re.compile(
    rf"(\b(?:if|whether)\s+the\s+)?\bgiven\s+answer\s+is{_MARKS}({'|'.join(VERDICTS)})\b", re.IGNORECASE
)


def parse_chain(reply: str, question: Question) -> Chain:
    """The thoughts and the answer of a reply.

    Args:
        reply: See `split_chain`.
        question: Its task says what an answer is; see `written_answer`.

    Returns:
        The rationale, and the answer in the form of the task.

    Raises:
        ValueError: With the reason, up to its first colon always the same words.
    """
    rationale, label = split_chain(reply)
    try:
        return Chain(rationale, written_answer(question.task, label, question.choices))
    except ValueError as error:
        raise ValueError(f"the answer of the reply has not the form of the task: {error}") from None


def parse_evaluation(reply: str) -> Evaluation:
    """The reasons and the verdict of a reply.

    Args:
        reply: Its last line is "Evaluation result: the given answer is ..." with one verdict, or "Evaluation result:"
            with the verdict alone. Nothing else in it may state another; to ask whether the given answer is correct
            states none. What a model thinks before it, up to `</think>`, is passed over.

    Raises:
        ValueError: With the reason, up to its first colon always the same words.
    """
    said = spoken(reply)
    text, _, last = said.rpartition("\n")
    result = _RESULT.fullmatch(last)
    given = result and _GIVEN.fullmatch(result[1])
    if not given:
        raise ValueError(f"the last line of the reply is no evaluation result: {shortened(last)}")
    verdict = _verdict(given[1])
    if any(_verdict(other) != verdict for asked, other in _ELSEWHERE.findall(text) if not asked):
        raise ValueError(f"the reply states more than one verdict: {shortened(said)}")
    text = text.strip()
    if not says_something(re.sub(rf"\A{_MARKS}{EVALUATION}", "", text, flags=re.IGNORECASE)):
        raise ValueError("the reply gives no reasons before its verdict")
    return Evaluation(text, verdict)


def _verdict(word: str) -> Verdict:
    return next(verdict for verdict in VERDICTS if verdict == word.lower())
