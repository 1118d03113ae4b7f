"""How a black box is reached and paid, for the recipes of all methods that ask one. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from hf_icon2.settings import setting


@dataclass(frozen=True)
class Endpoint:
    """A black box behind an OpenAI-compatible endpoint."""

    endpoint: str | None = setting(
        None, "address of an OpenAI-compatible endpoint; its key is read from HF_ICON2_ENDPOINT_KEY"
    )
    endpoint_model: str | None = setting(
        None, "name of the model at the endpoint; alone, at the Hub's Inference Providers"
    )
    concurrency: int = setting(8, "most requests in flight")
    timeout: float = setting(120.0, "seconds without a byte after which the endpoint counts as silent")
    retries: int = setting(6, "times that a request is sent again")
    budget_requests: int | None = setting(None, "most requests to send in the run")
    budget_tokens: int | None = setting(None, "most tokens to spend in the run, of prompts and replies")
    budget_cost: float | None = setting(None, "most US dollars to spend in the run; needs the prices")
    price_input: float | None = setting(None, "US dollars per million tokens of prompt")
    price_output: float | None = setting(None, "US dollars per million tokens of reply")

    @property
    def is_ours(self) -> bool:
        """Whether the toy's black box answers, which comes along."""
        return self.endpoint is None and self.endpoint_model is None


def endpoint_checks(name: str, settings: Endpoint) -> dict[str, bool]:
    """Sentences about the settings of the recipe's section `name`, and whether they hold."""
    prices = (settings.price_input, settings.price_output)
    amounts = (settings.budget_requests, settings.budget_tokens, settings.budget_cost, *prices)
    return {
        f"{name}.concurrency must be 1 to 100": 1 <= settings.concurrency <= 100,
        f"{name}.timeout must be above 0": settings.timeout > 0,
        f"{name}.retries must be 0 or more": settings.retries >= 0,
        f"{name}'s budget and prices must be 0 or more": all(
            amount is None or amount >= 0 for amount in amounts
        ),
        f"{name}.price_input and {name}.price_output go together": prices.count(None) != 1,
        f"{name}.budget_cost needs {name}.price_input and {name}.price_output": settings.budget_cost is None
        or None not in prices,
    }


def free_settings(name: str) -> tuple[str, ...]:
    """Settings of the section that may change in a run that has begun: how the black box is asked and paid."""
    kept = ("endpoint", "endpoint_model")
    return tuple(f"{name}.{field}" for field in Endpoint.__dataclass_fields__ if field not in kept)
