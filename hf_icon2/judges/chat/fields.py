"""The fields of a request's body; some models refuse what others require."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hf_icon2.judges.chat.records import ChatRequest

_LIMIT = "max_tokens"
_NEW_LIMIT = "max_completion_tokens"
SAMPLING = frozenset({"temperature", "top_p"})
"""Fields that a request can do without, though its reply is another then."""

_NOT_TAKEN = re.compile(r"unsupported|not? support|n't support|no longer support|deprecated|only the default")


def fields_of(request: ChatRequest, extra: Mapping[str, Any], without: frozenset[str]) -> dict[str, Any]:
    """What `InferenceClient.chat_completion` is called with, besides messages and model.

    Args:
        request: What is asked.
        extra: Further fields of the body.
        without: Fields that the model does not take, of `refused_fields`.
    """
    fields: dict[str, Any] = {
        _LIMIT: request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
        "logprobs": None if request.top_logprobs is None else True,
        "top_logprobs": request.top_logprobs,
    }
    more = dict(extra)
    if _LIMIT in without:
        more = {_NEW_LIMIT: request.max_tokens} | more
    return {name: value for name, value in fields.items() if name not in without} | {
        "extra_body": more or None
    }


def refused_fields(sentence: str) -> frozenset[str]:
    """The fields that a model does not take, by what the endpoint says, and that it can be asked without.

    OpenAI's reasoning models take no `temperature` or `top_p` but their own, and `max_completion_tokens` in place of
    `max_tokens`; only an endpoint that names the one is asked without the other, as its replies might have no limit.

    Args:
        sentence: With the status 400.
    """
    said = sentence.lower()
    if not _NOT_TAKEN.search(said):
        return frozenset()
    if _NEW_LIMIT in said:
        return frozenset({_LIMIT})
    return frozenset(name for name in SAMPLING if re.search(rf"\b{name}\b", said))
