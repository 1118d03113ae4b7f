"""One request to an endpoint, once: its reply, or what is the matter."""

from __future__ import annotations

import email.utils
import json
import math
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from hf_icon2.judges.chat.fields import fields_of, refused_fields
from hf_icon2.judges.chat.keys import without_key
from hf_icon2.judges.chat.reading import (
    UNREADABLE,
    read_completion,
    said_in,
    shortened_sentence,
    what_is_wrong,
)
from hf_icon2.judges.chat.records import ChatReply, ChatRequest

if TYPE_CHECKING:
    from huggingface_hub import InferenceClient

_UNSENT = {
    "ConnectError",
    "ConnectTimeout",
    "PoolTimeout",
}  # of httpx or httpx2, whichever huggingface_hub uses
_NO_CREDIT = {"insufficient_quota", "billing_not_active"}  # OpenAI says so with status 429


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
        refuses: Fields that were sent and that the model does not take; it may take the same request without.
    """

    reason: str
    status: int | None = None
    passes: bool = False
    hopeless: bool = False
    pause: float | None = None
    charged: bool = False
    refuses: frozenset[str] = frozenset()


def open_connections() -> None:
    """Makes huggingface_hub's session, which all clients share.

    Raises:
        ValueError: If it cannot be made as the environment says.
    """
    from huggingface_hub import get_session

    try:
        get_session()
    except (ImportError, OSError, ValueError) as error:
        raise ValueError(
            f"no connection can be made as the environment says ({error}); correct its proxies (HTTP_PROXY, "
            "HTTPS_PROXY, ALL_PROXY) and certificates (SSL_CERT_FILE, SSL_CERT_DIR)"
        ) from error


def ask(
    client: InferenceClient,
    model: str | None,
    extra: Mapping[str, Any],
    request: ChatRequest,
    without: frozenset[str] = frozenset(),
) -> ChatReply | Trouble:
    """Sends a request once.

    Args:
        client: With the endpoint, its key and the timeout.
        model: Name of the model at the endpoint.
        extra: Further fields of the request's body.
        request: What is asked.
        without: Fields that the model does not take.
    """
    # HTTPError is httpx's or httpx2's, whichever huggingface_hub uses, and not among its exports.
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]

    try:
        completion = client.chat_completion(
            [dict(message) for message in request.messages],
            model=model,
            **fields_of(request, extra, without),
        )
        return read_completion(completion)
    except OfflineModeIsEnabled:
        return Trouble(
            "offline mode forbids requests, even to this machine; unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE",
            hopeless=True,
        )
    except (HTTPError, *UNREADABLE) as error:
        response = _refusal(error)
        if response is not None:
            return _refused(response, client.token, without, nameless=model is None)
        if isinstance(error, HTTPError):
            return _unanswered(error, client)
        said = shortened_sentence(without_key(what_is_wrong(error), client.token))
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


def _refusal(error: BaseException | None) -> Any:  # noqa: ANN401
    """The response with a status of error from which an exception came; huggingface_hub stumbles over some."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return response
        error = error.__context__
    return None


def _refused(response: Any, key: str | None, without: frozenset[str], nameless: bool) -> Trouble:  # noqa: ANN401
    status = int(response.status_code)
    sentence, codes = _said_by(response)
    said = shortened_sentence(without_key(sentence, key))
    moved = without_key(_moved(response), key)
    # What huggingface_hub calls a model without a name.
    name = "; give the name of a model that it serves" if nameless and "dummy" in said else ""
    return Trouble(
        f"the endpoint answers with status {status}" + (f": {said}" if said else "") + moved + name,
        status,
        passes=status in (408, 425, 429) or status >= 500,
        hopeless=status in (401, 402) or bool(codes & _NO_CREDIT),
        pause=wanted_pause(response.headers, time.time()),
        refuses=refused_fields(sentence) - without if status == 400 else frozenset(),
    )


def _said_by(response: Any) -> tuple[str, set[str]]:  # noqa: ANN401
    """What a server says about its refusal, and its codes for it."""
    try:
        data = json.loads(response.content)
    except (ValueError, RecursionError):
        return str(response.text), set()
    except RuntimeError:  # of httpx: the body broke off, or never came
        return "", set()
    error = data.get("error", data) if isinstance(data, dict) else None
    codes = {str(error.get(name)) for name in ("type", "code")} if isinstance(error, dict) else set()
    return said_in(data) or str(response.text), codes


def _moved(response: Any) -> str:  # noqa: ANN401
    """Where a refusal comes from if not from the address that was asked; without its query, which may hold a key."""
    if not response.history:
        return ""
    return f" (redirected to {str(response.url).partition('?')[0]}; give that address)"


def _unanswered(error: Exception, client: InferenceClient) -> Trouble:
    """Of an exception of httpx without a response."""
    kind = (
        type(error.__cause__ or error).__name__ if isinstance(error, TimeoutError) else type(error).__name__
    )
    charged = kind not in _UNSENT
    if isinstance(error, TimeoutError):
        return Trouble(f"the endpoint gives no answer in {client.timeout:g} s", passes=True, charged=charged)
    said = shortened_sentence(without_key(str(error), client.token)) or kind
    if charged:
        return Trouble(f"the connection broke off ({said})", passes=True, charged=True)
    return Trouble(f"the endpoint cannot be reached ({said}){_proxy_hint(str(client.model))}", passes=True)


def _proxy_hint(address: str) -> str:
    """Proxies of the environment take requests to this machine too, and then look for the endpoint on theirs."""
    parts = urlsplit(address)
    host = parts.hostname or ""
    if not urllib.request.getproxies().keys() & {parts.scheme, "all"} or urllib.request.proxy_bypass(host):
        return ""
    return f", asked through a proxy of the environment; NO_PROXY={host} goes around it"
