"""Steering by contrast: scores shift to what the model says under +steering more than under -steering."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import DynamicCache, LogitsProcessor

from hf_icon2.blocks import find_blocks, unwrap
from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.steering.hooks import steering_state
from hf_icon2.steering.masks import check_left_padding
from hf_icon2.steering.plans import Plan, Steering, plan_steering
from hf_icon2.steering.separate_runs import shares_prefill


class Icon2LogitsProcessor(LogitsProcessor):
    """Adds guidance x (log p+ - log p-) to the scores, like classifier-free guidance between the two signs.

    p+ and p- are the model's next-token probabilities under +steering and -steering from the last prompt
    token on. They come from an extra pass of two rows per row with a cache of its own; other passes of the
    model, steered or not, are left as they are.

    The first `input_ids` are taken for the prompt, and so are any that do not continue it. Rows that extend
    cached rows by one token (sampling, beams) cost one token each; all others (prompt lookup) prefill again.

    Args:
        model: Causal LM, or a PEFT model around one.
        directions: Measured on this model.
        steering: Strength per criterion, or a list with one such mapping (or None) per prompt.
        guidance_scale: Factor of the difference; 0 changes nothing.
        attention_mask: Of the N prompts, (N, P) with 1 for real tokens; needed where they are left-padded.

    Raises:
        ValueError: For an unknown criterion, directions of another model, right padding, or a list of another
            length than the mask.
    """

    def __init__(
        self,
        model: nn.Module,
        directions: DirectionVectors,
        steering: Steering,
        guidance_scale: float = 2.0,
        attention_mask: Tensor | None = None,
    ) -> None:
        if not math.isfinite(guidance_scale):
            raise ValueError(f"guidance_scale must be finite, got {guidance_scale}")
        check_left_padding(attention_mask)
        self._model = unwrap(model)
        self._shares_prefill = shares_prefill(self._model)
        self._state = steering_state(model)
        self._trunk = find_blocks(model).trunk
        self._state.check(directions)
        rows = None if attention_mask is None else len(attention_mask)
        self._vectors = plan_steering(directions, steering, start=None, masked=False, rows=rows).vectors
        self._prompts = rows or (1 if isinstance(steering, Mapping) else len(steering))
        self._attention_mask = attention_mask
        self._guidance_scale = guidance_scale
        self._prompt: Tensor | None = None  # (B, P)
        self._seen: Tensor | None = None  # the last input_ids, (B, T)
        self._cache: DynamicCache | None = None  # 2B rows; holds them all once they have been seen

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The shifted scores.

        Args:
            input_ids: All tokens so far, (B, T); B is a multiple of the number of prompts.
            scores: Of the next token, (B, V).

        Returns:
            (B, V) in the dtype of `scores`; `scores` itself where there is nothing to add.

        Raises:
            ValueError: If the rows do not fit the prompts that the steering or the mask are for.
        """
        if self._guidance_scale == 0 or not self._vectors:
            return scores
        if not self._continues(input_ids):
            self._set_prompt(input_ids)
        cached = self._cached_columns(input_ids)
        logits = self._steered_logits(input_ids, cached)
        self._seen = input_ids.clone()
        positive, negative = logits.float().log_softmax(-1).chunk(2)
        return scores + (self._guidance_scale * (positive - negative)).to(scores)

    def _continues(self, ids: Tensor) -> bool:
        """Whether `ids` is the prompt and what follows; no decoding method skips ahead by two tokens."""
        if self._prompt is None or self._seen is None or len(ids) != len(self._prompt):
            return False
        width = self._prompt.shape[1]
        return width <= ids.shape[1] <= self._seen.shape[1] + 1 and torch.equal(ids[:, :width], self._prompt)

    def _set_prompt(self, ids: Tensor) -> None:
        """Takes `ids` for the prompt and fits steering and mask to its rows."""
        rows, width = ids.shape
        mask = self._attention_mask
        if width == 0:
            raise ValueError("the logits processor needs the prompt as input_ids, not as inputs_embeds")
        if rows % self._prompts:
            raise ValueError(f"the logits processor was made for {self._prompts} prompts, got {rows} rows")
        if mask is not None and mask.shape[1] != width:
            raise ValueError(
                f"the attention_mask is for prompts of {mask.shape[1]} tokens, got {width}; make a new "
                "processor for new prompts"
            )
        first = ids[:, 0] == self._model.generation_config.pad_token_id
        if mask is None and bool(first.any()) and not bool(first.all()):
            raise ValueError("some prompts are padded; pass attention_mask=inputs['attention_mask']")
        mask = torch.ones_like(ids) if mask is None else mask.to(ids)
        self._prompt, self._seen = ids.clone(), None
        self._prompt_mask = mask.repeat_interleave(rows // len(mask), dim=0)
        both = {}
        for layer, vectors in self._vectors.items():
            positive = vectors.repeat_interleave(rows // len(vectors), dim=0)
            both[layer] = torch.cat([positive, -positive])
        self._plan = Plan(both, start=width - 1, masked=False)

    def _cached_columns(self, ids: Tensor) -> int:
        """Readies the cache for `ids` and says how many of their columns it holds."""
        if not self._shares_prefill:
            return 0  # a state cannot be cut back to the prompt: such models read everything again
        parents = self._parents(ids)
        if parents is None:
            return self._prefill()
        if parents != list(range(len(ids))):
            both = torch.tensor(parents + [row + len(ids) for row in parents], device=ids.device)
            self._cache.reorder_cache(both)  # type: ignore[union-attr, arg-type]
        return ids.shape[1] - 1

    def _parents(self, ids: Tensor) -> list[int] | None:
        """For each row the cached row that it extends by one token; None if any has none."""
        seen = self._seen
        if seen is None or ids.shape[1] != seen.shape[1] + 1:
            return None
        if torch.equal(ids[:, :-1], seen):
            return list(range(len(ids)))
        beams = len(ids) // self._prompts  # they change places, but stay with their prompt
        places = {(index // beams, *row): index for index, row in enumerate(seen.tolist())}
        wanted = [(index // beams, *row) for index, row in enumerate(ids[:, :-1].tolist())]
        return [places[key] for key in wanted] if places.keys() >= set(wanted) else None

    def _prefill(self) -> int:
        """Caches the prompt but its last token, unsteered, once for both signs."""
        ids, mask = self._prompt[:, :-1], self._prompt_mask[:, :-1]  # type: ignore[index]
        self._cache = DynamicCache(config=self._model.config)
        if ids.shape[1]:
            with self._state.active(None):
                self._trunk(past_key_values=self._cache, use_cache=True, **_inputs(self._trunk, ids, mask))
        self._cache.reorder_cache(torch.arange(len(ids), device=ids.device).repeat(2))  # type: ignore[arg-type]
        return ids.shape[1]

    def _steered_logits(self, ids: Tensor, cached: int) -> Tensor:
        """Next-token logits of all rows under +steering, then of all under -steering; (2B, V)."""
        new = ids.new_ones(len(ids), ids.shape[1] - self._prompt_mask.shape[1])
        mask = torch.cat([self._prompt_mask, new], dim=1)
        inputs = _inputs(self._model, ids[:, cached:].repeat(2, 1), mask.repeat(2, 1))
        if "logits_to_keep" in inspect.signature(self._model.forward).parameters:
            inputs["logits_to_keep"] = 1
        cache = self._cache if self._shares_prefill else None
        with self._state.active(self._plan):
            output = self._model(past_key_values=cache, use_cache=cache is not None, **inputs)
        logits: Tensor = output.logits
        return logits[:, -1]


def _inputs(module: nn.Module, ids: Tensor, mask: Tensor) -> dict[str, object]:
    """The arguments of a pass over the last columns of left-padded rows."""
    inputs: dict[str, object] = {"input_ids": ids, "attention_mask": mask}
    if "position_ids" in inspect.signature(module.forward).parameters:
        inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    return inputs
