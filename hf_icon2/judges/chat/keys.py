"""Which key an endpoint is shown: from the environment only, and never the Hub's token to strangers."""

from __future__ import annotations

import os
from urllib.parse import parse_qsl, urlsplit

KEY = "HF_ICON2_ENDPOINT_KEY"
"""The environment variable with the endpoint's key."""

ROUTER = "https://router.huggingface.co/v1"
"""The Hub's Inference Providers."""

_OWN_HOSTS = (".huggingface.co", ".endpoints.huggingface.cloud")
_HARMLESS = {"api-version"}  # what a query may say


def key_for(endpoint: str) -> str | None:
    """What an endpoint is shown; `InferenceClient` alone would show every host the token of the Hub.

    Returns:
        The key of the environment, else None (the Hub's token) for hosts of Hugging Face over https, a dash for
        others.

    Raises:
        ValueError: If the key of the environment cannot stand in a header.
    """
    key = os.environ.get(KEY, "").strip()
    if key and not (key.isascii() and key.isprintable()):
        raise ValueError(f"{KEY} holds characters that no key has; set it to the key alone")
    if key:
        return key
    parts = urlsplit(endpoint)
    own = parts.scheme == "https" and f".{parts.hostname or ''}".endswith(_OWN_HOSTS)
    return None if own else "-"


def without_key(text: str, key: str | None) -> str:
    """The text with the key, or the Hub's token for None, blotted out: some servers repeat what they refuse."""
    from huggingface_hub import get_token

    secret = get_token() if key is None else key
    return text if secret is None or secret == "-" else text.replace(secret, "***")


def checked_endpoint(endpoint: str) -> str:
    """An endpoint's address without a slash at its end, its `http` in small letters as `InferenceClient` needs it.

    Raises:
        ValueError: If it is no http address, or holds a user name, a password or a query, which may be a key and
            would stand in logs and error messages. The message does not repeat the address.
    """
    try:
        parts = urlsplit(endpoint)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if not whole:
        raise ValueError("the endpoint is no address; give one like http://127.0.0.1:8000/v1")
    asked = {name.lower() for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
    if "@" in parts.netloc or parts.fragment or asked - _HARMLESS:
        raise ValueError(
            f"the address of the endpoint at {parts.hostname} holds a user name, a query or a fragment, and with "
            f"it perhaps a key; give the bare address and put the key into the environment variable {KEY}"
        )
    return parts.scheme + endpoint[len(parts.scheme) :].rstrip("/")
