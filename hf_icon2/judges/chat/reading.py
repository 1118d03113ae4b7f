"""What an endpoint's reply says, in any of the forms that endpoints give it."""

from __future__ import annotations

import json
import math
from typing import Any

from hf_icon2.judges.chat.records import ChatReply

_LONGEST_SENTENCE = 200  # characters of what a server says
_LONGEST_QUOTE = 1000  # before the key is taken out, and it is shortened
_MOST_TOKENS = 10**12  # no reply has so many; SQLite cannot count without end

UNREADABLE = (ValueError, TypeError, AttributeError, LookupError, RecursionError)
"""What huggingface_hub, and reading its result, make of a body that is not JSON or no chat completion."""


def read_completion(completion: Any) -> ChatReply:  # noqa: ANN401
    """The first choice of a chat completion.

    Raises:
        Exception: One of `UNREADABLE` if a part is missing or of another kind.
    """
    if not completion.choices:
        said = said_in(completion)
        raise ValueError(f"it says {said!r}" if said else "it has no choices")
    choice = completion.choices[0]
    ends = choice.finish_reason
    return ChatReply(
        sound(_text(choice.message)),
        ends if isinstance(ends, str) else None,
        _alternatives(choice.logprobs),
        *(_count(completion.usage, name) for name in ("prompt_tokens", "completion_tokens")),
    )


def said_in(data: Any) -> str:  # noqa: ANN401
    """The sentence in the JSON of a refusal, in any of the usual places; empty without one."""
    for name in ("error", "message", "detail"):
        if isinstance(data, dict) and data.get(name):
            return said_in(data[name]) or str(data[name])
    return ""


def what_is_wrong(error: Exception) -> str:
    """Of one of `UNREADABLE`: what it says, and the beginning of a body that is not JSON."""
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    return f"{error}; it says {error.doc[:_LONGEST_QUOTE]!r}" if error.doc.strip() else "it is empty"


def shortened_sentence(said: object) -> str:
    """What a server says, in one line that is not too long."""
    text = sound(" ".join(str(said).split()))
    return text if len(text) <= _LONGEST_SENTENCE else f"{text[:_LONGEST_SENTENCE]} ..."


def sound(text: str) -> str:
    """The text without halves of characters, which JSON can hold and no file in UTF-8."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _text(message: Any) -> str:  # noqa: ANN401
    """Models that only thought, or called a tool, say nothing; some endpoints send parts, the thoughts among them."""
    content = message.content
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part["type"] == "text")
    if content is not None and not isinstance(content, str):
        raise TypeError(f"its text is a {type(content).__name__}")
    return content or str(getattr(message, "refusal", None) or "")


def _alternatives(logprobs: Any) -> tuple[tuple[str, float], ...]:  # noqa: ANN401
    if logprobs is None or not logprobs.content:
        return ()
    items = logprobs.content[0].top_logprobs or ()
    # JSON has no minus infinity; some servers write null.
    found = ((str(item.token), float(item.logprob)) for item in items if item.logprob is not None)
    return tuple((token, value) for token, value in found if math.isfinite(value))


def _count(usage: Any, name: str) -> int:  # noqa: ANN401
    value = getattr(usage, name, None)
    return value if isinstance(value, int) and 0 <= value <= _MOST_TOKENS else 0
