"""Classifier-free guidance of a steered model: its second, unconditional prompt has a last token of its own."""

from __future__ import annotations

from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, UnbatchedClassifierFreeGuidanceLogitsProcessor

from hf_icon2.steering.plans import Plan
from hf_icon2.steering.state import SteeringState


class _SteeredGuidance(LogitsProcessor):
    """Runs a guidance processor, and so its unconditional passes, under a plan of its own."""

    def __init__(self, processor: LogitsProcessor, state: SteeringState, plan: Plan) -> None:
        self.processor = processor
        self.state = state
        self.plan = plan

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        with self.state.active(self.plan):
            guided: Tensor = self.processor(input_ids, scores)
        return guided


def steer_guidance(
    processors: LogitsProcessorList, state: SteeringState, plan: Plan | None
) -> LogitsProcessorList:
    """Has the unconditional prompt steered as the prompt is: from its own last token on.

    Guidance then compares two prompts of one and the same steered model.

    Args:
        processors: Of one `generate` call; other processors stay as they are.
        state: Of the model.
        plan: Of the call; one that steers every column needs no other for the second prompt.

    Raises:
        ValueError: If the plan starts at a column given for the prompt.
    """
    if plan is None or plan.start is None:
        return processors
    return LogitsProcessorList(
        _SteeredGuidance(processor, state, _unconditional(processor, plan))
        if isinstance(processor, UnbatchedClassifierFreeGuidanceLogitsProcessor)
        else processor
        for processor in processors
    )


def _unconditional(processor: UnbatchedClassifierFreeGuidanceLogitsProcessor, plan: Plan) -> Plan:
    if plan.masked:
        raise ValueError(
            "guidance_scale runs a second prompt, for which steer(start=...) gives no column; use "
            "make_steerable() and generate(steering=...), which starts at the last token of each prompt"
        )
    prompt = processor.unconditional_context["input_ids"]
    columns = (
        prompt.shape[1] if isinstance(prompt, Tensor) else 1
    )  # without one it is the prompt's last token
    return Plan(plan.vectors, start=columns - 1, masked=False)
