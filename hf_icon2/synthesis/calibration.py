"""How strong a steering may be before it breaks the text, found without any judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hf_icon2.blocks import find_blocks, unwrap
from hf_icon2.directions.config import StrengthRange
from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.prompts import Instruction, encode_prompt, pad_batch, pad_token_id
from hf_icon2.steering.decoding import Sampling, generate_variants
from hf_icon2.steering.hooks import steering_state
from hf_icon2.steering.padding import Padding, try_padding
from hf_icon2.steering.plans import plan_steering

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def calibrate_maximum(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    directions: DirectionVectors,
    instructions: Sequence[Instruction],
    *,
    target: float = 1.0,
    quantile: float = 0.95,
    new_tokens: int = 20,
    limit: float = 4.0,
) -> DirectionVectors:
    """Stores the largest strength that leaves the text intact, found without any judge.

    It is the strength at which the 95th percentile of the per-token KL divergence from the unsteered model, over
    the model's own greedy continuations, reaches `target`. Found by bisection on the logarithm of the strength.

    Args:
        model: Causal LM, or a PEFT model around one.
        tokenizer: Its tokenizer.
        directions: With the control layers that will be used.
        instructions: A few dozen.
        target: Nats.
        quantile: Of the per-token divergences, 0 to 1.
        new_tokens: Length of the continuations.
        limit: Largest strength looked at, in the directions' unit.

    Returns:
        The directions with `maximum` set for every criterion; both signs must stay below the target. A criterion
        without tuned strengths gets half of it for the chosen side and minus a quarter for the rejected one: the
        paper's proportion, and where tuning by a reward ended on the bundled model (0.4 to 0.6 of the maximum).
    """
    probe = _KLProbe.build(model, tokenizer, instructions, new_tokens)
    ranges = {}
    for name in directions.names:
        low, high = 1e-3, limit
        if probe.quantile(directions, name, high, quantile) > target:
            while high / low > 1.03:
                middle = (low * high) ** 0.5
                if probe.quantile(directions, name, middle, quantile) > target:
                    high = middle
                else:
                    low = middle
            high = low
        old = directions.config.strengths.get(name, StrengthRange())
        ranges[name] = StrengthRange(
            round(high / 2, 4) if old.positive is None else old.positive,
            round(-high / 4, 4) if old.negative is None else old.negative,
            round(high, 4),
        )
    return directions.with_strengths(ranges)


def unlimited(directions: DirectionVectors) -> DirectionVectors:
    """The same directions without recommended strengths, so that searching beyond them does not warn."""
    cleared: Mapping[str, StrengthRange] = {name: StrengthRange() for name in directions.names}
    return directions.with_strengths(cleared)


@dataclass(frozen=True)
class _KLProbe:
    """Fixed continuations and the unsteered model's distributions over them."""

    model: PreTrainedModel
    padding: Padding
    ids: Tensor  # (B, T)
    mask: Tensor  # (B, T)
    start: int  # column of the last prompt token
    plain: Tensor  # (B, T', V) log-probabilities

    @classmethod
    def build(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        instructions: Sequence[Instruction],
        new_tokens: int,
    ) -> _KLProbe:
        prompts = [encode_prompt(tokenizer, instruction) for instruction in instructions]
        pad = pad_token_id(tokenizer)
        padding = try_padding(unwrap(model), find_blocks(model).trunk, pad)
        if not padding.harmless and len(set(map(len, prompts))) > 1:
            raise ValueError(
                f"padding changes what {type(unwrap(model)).__name__} puts out, so its safe maximum can only be "
                "found on instructions whose prompts have one length; choose such, or set strengths by hand"
            )
        greedy = Sampling(max_new_tokens=new_tokens, temperature=0)
        none, zeros = [None] * len(prompts), [0] * len(prompts)
        answers = generate_variants(model, prompts, [none], sampling=greedy, seeds=[zeros], pad=pad)[0]
        left, left_mask = pad_batch(prompts, pad, side="left")
        right, right_mask = pad_batch([answer.ids or [pad] for answer in answers], pad, side="right")
        ids, mask = torch.cat([left, right], 1), torch.cat([left_mask, right_mask], 1)
        probe = cls(
            model, padding, ids.to(model.device), mask.to(model.device), left.shape[1] - 1, torch.empty(0)
        )
        return cls(model, padding, probe.ids, probe.mask, probe.start, probe.logps())

    def logps(self) -> Tensor:
        """Log-probabilities from the last prompt token on, (B, T', V) float32."""
        positions = self.padding.arguments((self.mask.cumsum(-1) - 1).clamp(min=0))
        with torch.no_grad():
            logits = self.model(input_ids=self.ids, attention_mask=self.mask, **positions).logits
        return torch.log_softmax(logits[:, self.start : -1].float(), dim=-1)

    def quantile(self, directions: DirectionVectors, name: str, strength: float, quantile: float) -> float:
        """The larger of the two signs' quantiles of the per-token KL(plain || steered), in nats."""
        state, worst = steering_state(self.model), 0.0
        real = self.mask[:, self.start + 1 :].bool()
        for signed in (strength, -strength):
            plan = plan_steering(unlimited(directions), {name: signed}, start=self.start, masked=True)
            with state.active(plan):
                steered = self.logps()
            divergence = (self.plain.exp() * (self.plain - steered)).sum(-1)[real]
            worst = max(worst, float(torch.quantile(divergence, quantile)))
        return worst
