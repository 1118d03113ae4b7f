"""From a recipe's endpoint to the client that asks it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hf_icon2.distillation.endpoint import Endpoint
    from hf_icon2.judges.chat.client import ChatClient
    from hf_icon2.toy.serving import RuleServer

CACHE = "requests.sqlite"
"""In the folder of the run: what the black box has answered, and what it cost."""


@contextmanager
def served(settings: Endpoint, ours: Callable[[], RuleServer]) -> Iterator[str | None]:
    """The address of the endpoint; the toy's own black box is served as long as the context is open.

    Args:
        settings: Of the recipe.
        ours: Makes the toy's server.
    """
    if not settings.is_ours:
        yield settings.endpoint
        return
    with ours() as server:
        yield server.endpoint


def chat_client(settings: Endpoint, address: str | None, cache: Path) -> ChatClient:
    """A client within the recipe's budget.

    Args:
        settings: Of the recipe.
        address: The endpoint, or that of the toy's own black box.
        cache: File that keeps the replies.
    """
    from hf_icon2.judges.chat.budget import Budget, Prices
    from hf_icon2.judges.chat.client import ChatClient

    prices = None
    if settings.price_input is not None and settings.price_output is not None:
        prices = Prices(settings.price_input, settings.price_output)
    return ChatClient(
        address,
        settings.endpoint_model,
        concurrency=settings.concurrency,
        timeout=settings.timeout,
        retries=settings.retries,
        cache=cache,
        budget=Budget(settings.budget_requests, settings.budget_tokens, settings.budget_cost),
        prices=prices,
    )
