"""Steering of continuous batches: many requests packed into one row, each steered from its last prompt token on.

Transformers runs these batches in a thread of its own and tells the model nothing of prompts and answers, so the
plan is handed to that thread and asks the manager which requests a pass holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import ContinuousBatchingConfig
from transformers.generation.continuous_batching import ContinuousBatchingManager

from hf_icon2.steering.plans import Plan
from hf_icon2.steering.state import SteeringState


class Request(NamedTuple):
    """A request's share of one pass.

    Args:
        first: Column of its sequence at which the share begins.
        tokens: Number of columns.
        prompt: Length of the prompt.
    """

    first: int
    tokens: int
    prompt: int


class ContinuousPlan(Plan):
    """One steering for all requests of a continuous batch.

    Args:
        plan: What to add; one row. Where it starts counts for every request: its column `start`, every column if
            it is for any pass, and otherwise the last prompt token.

    Attributes:
        requests: Tells the requests of the current pass, in their order in the row.
    """

    def __init__(self, plan: Plan) -> None:
        per_row = isinstance(plan.start, Tensor) or any(len(rows) > 1 for rows in plan.vectors.values())
        if per_row:
            raise ValueError(
                "continuous batching packs its requests into one row, so it takes one steering for all of them, not "
                "one per row; call generate_batch() once per steering, or use generate(steering=[...])"
            )
        start = (plan.start or 0) if plan.masked else None
        super().__init__(plan.vectors, start=start, masked=True)
        self.requests: Callable[[], list[Request]] = list

    def begin_packed(self, inputs: Tensor, *, continuous: bool) -> None:
        """Notes which columns of the row are to be steered: 0 before a request's start, 1 from there on."""
        row: list[int] = []
        for request in self.requests():
            start = request.prompt - 1 if self.start is None else self.start
            before = min(max(0, start - request.first), request.tokens)
            row += [0] * before + [1] * (request.tokens - before)
        if not continuous or len(row) != inputs.shape[1]:
            raise RuntimeError(
                f"the continuous batch holds {len(row)} tokens by its requests, but the model runs "
                f"{inputs.shape[1]}; steering cannot tell them apart in this version of transformers"
            )
        self.ran = True
        self.offset = 0 if any(row) else None
        self.mask = None if all(row) else torch.tensor([row], device=inputs.device)


def steered_manager(
    make: Callable[[ContinuousBatchingConfig], ContinuousBatchingManager],
    config: ContinuousBatchingConfig | None,
    state: SteeringState,
    plan: ContinuousPlan,
) -> ContinuousBatchingManager:
    """A manager of continuous batches whose requests are all steered by one plan, as long as it lives.

    It shares no cache between requests: what one has generated would be another's unsteered prompt. CUDA graphs,
    compilation and asynchronous batches are off, as they would run without asking the plan.

    Args:
        make: Makes the manager from the settings for it.
        config: Settings asked for.
        state: Of the model.
        plan: What to add, and from where.

    Raises:
        ValueError: If compilation is asked for.
    """
    config = replace(
        config or ContinuousBatchingConfig(),
        allow_block_sharing=False,
        use_async_batching=False,
        use_cuda_graph=False,
        q_padding_interval_size=0,
        kv_padding_interval_size=0,
    )
    manager = make(config)
    used = manager.continuous_batching_config
    if used.varlen_compile_config is not None or used.decode_compile_config is not None:
        raise ValueError(
            "a compiled continuous batch cannot be steered; leave out the compile settings of "
            "ContinuousBatchingConfig and of the generation config"
        )
    plan.requests = lambda: list(_requests(manager))
    hand_over(manager, state, plan)
    return manager


def hand_over(manager: ContinuousBatchingManager, state: SteeringState, plan: Plan | None) -> None:
    """Has the manager's thread run under a plan, or knowingly under none."""
    run: Callable[[], None] = manager._run_generation_loop

    def run_steered() -> None:
        with state.active(plan):
            run()

    manager._run_generation_loop = run_steered  # type: ignore[method-assign]
    manager.plan = plan  # type: ignore[attr-defined]


def _requests(manager: Any) -> Iterator[Request]:  # noqa: ANN401  (no public way leads to the requests of a pass)
    for scheduled in manager.batch_processor.inputs_and_outputs.requests_in_batch:
        request = scheduled.state
        # A request that lost its cache comes again with its answer so far counted to the prompt.
        prompt = request._true_initial_tokens or len(request.initial_tokens)
        yield Request(request.position_offset - scheduled.query_length, scheduled.query_length, prompt)
