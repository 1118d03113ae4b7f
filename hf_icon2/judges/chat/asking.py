"""One request to an endpoint, once: its reply, or what is the matter."""

from __future__ import annotations

import email.utils
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_icon2.judges.chat.keys import without_key
from hf_icon2.judges.chat.records import ChatReply, ChatRequest

if TYPE_CHECKING:
    from huggingface_hub import InferenceClient

_LONGEST_SENTENCE = 200  # characters of what a server says
_UNSENT = {
    "ConnectError",
    "ConnectTimeout",
    "PoolTimeout",
}  # of httpx or httpx2, whichever huggingface_hub uses
_NO_COMPLETION = (ValueError, TypeError, AttributeError, LookupError, RecursionError)
"""What huggingface_hub, and reading its result, make of a body that is not JSON or no chat completion."""


@dataclass(frozen=True)
class Trouble:
    """Why an attempt has brought no reply.

    Args:
        reason: Part of a sentence, without a key.
        status: HTTP status; None without one, or where the reply itself is at fault.
        passes: Whether the same request may succeed later.
        hopeless: Whether no other request can succeed either.
        pause: Seconds for which the endpoint wants no requests; None if it does not say.
        charged: Whether the endpoint may have answered all the same, and charge for it.
    """

    reason: str
    status: int | None = None
    passes: bool = False
    hopeless: bool = False
    pause: float | None = None
    charged: bool = False


def ask(
    client: InferenceClient, model: str | None, extra: Mapping[str, Any], request: ChatRequest
) -> ChatReply | Trouble:
    """Sends a request once.

    Args:
        client: With the endpoint, its key and the timeout.
        model: Name of the model at the endpoint.
        extra: Further fields of the request's body.
        request: What is asked.
    """
    # HTTPError is httpx's or httpx2's, whichever huggingface_hub uses, and not among its exports.
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]

    try:
        completion = client.chat_completion(
            [dict(message) for message in request.messages],
            model=model,
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            logprobs=None if request.top_logprobs is None else True,
            top_logprobs=request.top_logprobs,
            extra_body=dict(extra) or None,
        )
        return _reply(completion)
    except OfflineModeIsEnabled:
        return Trouble("HF_HUB_OFFLINE=1 forbids requests, even to this machine; unset it", hopeless=True)
    except (HTTPError, *_NO_COMPLETION) as error:
        response = _refusal(error)
        if response is not None:
            return _refused(response, client.token)
        if isinstance(error, HTTPError):
            return _unanswered(error, client)
        said = _short(without_key(str(error), client.token))
        return Trouble(f"the reply is no chat completion ({said})", passes=True, charged=True)


def wanted_pause(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that `Retry-After` asks for, as a number or as a date; None without one that can be read.

    Args:
        headers: Of the reply, names in lower case or read without regard to it. Its own `Date` is the clock where
            there is one, since that of this machine may be off.
        now: This machine's clock, in seconds since 1970.
    """
    text = headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        until = _time_of(text)
        sent = _time_of(headers.get("date", ""))
        return None if until is None else max(0.0, until - (now if sent is None else sent))
    return seconds if 0 <= seconds < math.inf else None


def _time_of(text: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def _reply(completion: Any) -> ChatReply:  # noqa: ANN401
    """The first choice of a chat completion; a missing part raises one of `_NO_COMPLETION`."""
    if not completion.choices:
        said = _said(completion)
        raise ValueError(f"it says {said!r}" if said else "it has no choices")
    choice = completion.choices[0]
    text = choice.message.content
    if text is not None and not isinstance(text, str):
        raise TypeError(f"its text is a {type(text).__name__}")
    ends = choice.finish_reason
    return ChatReply(
        text or "",  # models that only thought, or called a tool, say nothing
        ends if isinstance(ends, str) else None,
        _alternatives(choice.logprobs),
        *(_count(completion.usage, name) for name in ("prompt_tokens", "completion_tokens")),
    )


def _alternatives(logprobs: Any) -> tuple[tuple[str, float], ...]:  # noqa: ANN401
    if logprobs is None or not logprobs.content:
        return ()
    found = ((str(item.token), float(item.logprob)) for item in logprobs.content[0].top_logprobs or ())
    return tuple((token, value) for token, value in found if math.isfinite(value))


def _count(usage: Any, name: str) -> int:  # noqa: ANN401
    value = getattr(usage, name, None)
    return max(0, value) if isinstance(value, int) else 0


def _refusal(error: BaseException | None) -> Any:  # noqa: ANN401
    """The response with a status of error from which an exception came; huggingface_hub stumbles over some."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return response
        error = error.__context__
    return None


def _refused(response: Any, key: str | None) -> Trouble:  # noqa: ANN401
    status = int(response.status_code)
    said = _short(without_key(_sentence(response), key))
    return Trouble(
        f"the endpoint answers with status {status}" + (f": {said}" if said else ""),
        status,
        passes=status in (408, 425, 429) or status >= 500,
        hopeless=status in (401, 402),
        pause=wanted_pause(response.headers, time.time()),
    )


def _unanswered(error: Exception, client: InferenceClient) -> Trouble:
    """Of an exception of httpx without a response."""
    kind = (
        type(error.__cause__ or error).__name__ if isinstance(error, TimeoutError) else type(error).__name__
    )
    charged = kind not in _UNSENT
    if isinstance(error, TimeoutError):
        return Trouble(f"the endpoint gives no answer in {client.timeout:g} s", passes=True, charged=charged)
    said = _short(without_key(str(error), client.token)) or kind
    found = "the connection broke off" if charged else "the endpoint cannot be reached"
    return Trouble(f"{found} ({said})", passes=True, charged=charged)


def _sentence(response: Any) -> str:  # noqa: ANN401
    """What a server says about its refusal, in any of the usual places."""
    try:
        return _said(json.loads(response.content)) or str(response.text)
    except (ValueError, RecursionError):
        return str(response.text)
    except RuntimeError:  # of httpx: the body broke off, or never came
        return ""


def _said(data: Any) -> str:  # noqa: ANN401
    for name in ("error", "message", "detail"):
        if isinstance(data, dict) and data.get(name):
            return _said(data[name]) or str(data[name])
    return ""


def _short(said: object) -> str:
    text = " ".join(str(said).split())
    return text if len(text) <= _LONGEST_SENTENCE else f"{text[:_LONGEST_SENTENCE]} ..."
