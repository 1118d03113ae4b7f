"""Measures directions: contrast two system prompts over many instructions, keep the contrasts' main axis.

The trunk runs without the LM head and only down to the deepest layer asked for; each system prompt is
prefilled once and its cache shared by every batch; of each state only what the pooling needs is kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, get_args

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_icon2.blocks import Blocks, evaluating, find_blocks, input_device, read_states, unwrap
from hf_icon2.criteria import DEFAULT_CRITERIA, Criterion, named
from hf_icon2.directions.config import DirectionVectorConfig, Method, Pooling, Scale, check_choice
from hf_icon2.directions.estimation import FINDERS, evidence, scale_norms
from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.prefix import Prefix, shared_prefix
from hf_icon2.prompts import (
    Instruction,
    encode_prompt,
    has_system_role,
    pad_batch,
    pad_token_id,
    refuse_one_text,
    template_fingerprint,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

RESPONSE_TOKENS = 64
"""Length of the answers that `pooling="response"` averages over."""


def extract_directions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    instructions: Sequence[Instruction],
    criteria: Sequence[Criterion] = DEFAULT_CRITERIA,
    *,
    layers: Sequence[int] | None = None,
    pooling: Pooling | Mapping[str, Pooling] = "last",
    method: Method = "pca",
    scale: Scale = "residual",
    batch_size: int = 32,
    show_progress: bool = True,
) -> DirectionVectors:
    """Measures one direction per criterion and layer (Icon², section 3.1, Algorithm 1).

    For each instruction the contrast is the state under the criterion's positive side minus the state under
    its negative side. The direction is the first principal component of the contrasts, not centred, with the
    sign of the mean contrast: the paper leaves both open, and centring removes the signal.

    Args:
        model: Causal LM, or a PEFT model around one.
        tokenizer: Its tokenizer; without a chat template the criteria's sides are plain text.
        instructions: At least 2; the paper uses 1,024. Conversations must end with a user turn.
        criteria: What to measure.
        layers: Blocks to measure; all by default.
        pooling: Which states are contrasted, for all criteria or for each: "last" is the last token of the
            prompt (the paper's), "response" the mean over the answer that the model itself gives greedily to
            each side.
        method: "pca" (above), "mean_difference" or "centred_pca".
        scale: Norm of the stored vectors, which is the unit of strength: "residual" (mean norm of the
            residual stream at the layer, makes strengths portable), "contrast" (norm of the mean contrast) or
            "unit".
        batch_size: Rows per forward pass.
        show_progress: Whether to show a progress bar.

    Returns:
        Directions with evidence: how well they separate held-out contrasts, and how stable they are.

    Raises:
        ValueError: For fewer than 2 instructions, a layer the model lacks, an unsupported architecture,
            pooling that names an unknown criterion, or a criterion whose two sides look alike to the model.
    """
    by_name = named(criteria)
    poolings = _poolings(pooling, list(by_name))
    check_choice("method", method, get_args(Method))  # before hours of work, not after
    check_choice("scale", scale, get_args(Scale))
    refuse_one_text(instructions)
    if len(instructions) < 2:
        raise ValueError(
            f"directions need at least 2 instructions, got {len(instructions)}; 100 or more serve well"
        )
    if tokenizer.chat_template is not None and not has_system_role(tokenizer):
        logger.warning("the chat template has no system role; the criteria's texts go into the user turn")
    reader = _Reader(model, tokenizer, find_blocks(model), layers, batch_size)
    tensors, norms, records, contrast_norms = [], [], {}, {}
    total = 2 * len(by_name) * len(instructions)
    with tqdm(total=total, desc="directions", disable=not show_progress) as bar:
        for name, criterion in by_name.items():
            sides, side_norms = zip(
                *(
                    reader.states(instructions, side, poolings[name], bar.update)
                    for side in (criterion.positive, criterion.negative)
                ),
                strict=True,
            )
            contrasts = sides[0] - sides[1]  # (N, L, D)
            _check_contrasts(contrasts, name)
            norms.append(torch.stack(side_norms).mean(dim=(0, 1)))
            contrast_norms[name] = _floats(contrasts.mean(0).norm(dim=-1))
            tensors.append(FINDERS[method](contrasts))
            records[name] = evidence(contrasts, FINDERS[method])
    config = DirectionVectorConfig(
        base_model=unwrap(model).config.name_or_path or None,
        base_model_revision=getattr(unwrap(model).config, "_commit_hash", None),
        hidden_size=reader.blocks.hidden_size,
        num_layers=len(reader.blocks.layers),
        layers=tuple(reader.layers),
        criteria=tuple(by_name.values()),
        control_layers={name: _middle_third(reader.layers, len(reader.blocks.layers)) for name in by_name},
        pooling=poolings,
        method=method,
        scale=scale,
        residual_norms=_floats(torch.stack(norms).mean(0)),
        contrast_norms=contrast_norms,
        instructions={"number": len(instructions), "fingerprint": fingerprint(instructions)},
        chat_template_sha256=template_fingerprint(tokenizer),
        evidence=records,
        versions={package: version(package) for package in ("torch", "transformers", "tokenizers")},
    )
    unit = torch.stack(tensors)
    return DirectionVectors(config, unit * scale_norms(config)[..., None])


def fingerprint(instructions: Sequence[Instruction]) -> str:
    """SHA-256 of the instructions in order."""
    return hashlib.sha256(json.dumps(list(instructions), ensure_ascii=False).encode()).hexdigest()


def last_token_states(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    instructions: Sequence[Instruction],
    *,
    layers: Sequence[int] | None = None,
    system: str | None = None,
    batch_size: int = 32,
    progress: Callable[[int], object] = lambda _done: None,
) -> Tensor:
    """States at the last token of each prompt (the end of the answer's header), (N, L, D) float32 on the CPU."""
    reader = _Reader(model, tokenizer, find_blocks(model), layers, batch_size)
    return reader.states(instructions, system, "last", progress)[0]


@dataclass
class _Reader:
    """Reads pooled states of prompts under one system prompt at a time."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    blocks: Blocks
    wanted: Sequence[int] | None
    batch_size: int

    def __post_init__(self) -> None:
        wanted = range(len(self.blocks.layers)) if self.wanted is None else self.wanted
        self.layers = sorted(set(wanted))
        self.blocks.check(self.layers)
        self.pad = pad_token_id(self.tokenizer)

    def states(
        self,
        instructions: Sequence[Instruction],
        system: str | None,
        pooling: Pooling,
        progress: Callable[[int], object],
    ) -> tuple[Tensor, Tensor]:
        """Pooled states of every instruction under one side, (N, L, D), and the mean norms of the states, (N, L)."""
        with evaluating(self.model):
            prompts = [encode_prompt(self.tokenizer, instruction, system) for instruction in instructions]
            answers = self._answers(prompts) if pooling == "response" else [[] for _ in prompts]
            rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
            starts = [len(row) - max(len(answer), 1) for row, answer in zip(rows, answers, strict=True)]
            prefix = shared_prefix(self.model, self.blocks.trunk, rows, limit=min(starts))
            result = torch.empty(len(rows), len(self.layers), self.blocks.hidden_size + 1)
            for batch in _by_length([len(row) for row in rows], self.batch_size):
                spans = [(rows[index], starts[index]) for index in batch]
                result[batch] = self._read(spans, prefix)
                progress(len(batch))
            return result[..., :-1], result[..., -1]

    def _read(self, spans: list[tuple[list[int], int]], prefix: Prefix) -> Tensor:
        """Mean over the positions from each row's start to its end of states and of their norms, (B, L, D + 1)."""
        rows, starts = [row for row, _ in spans], [start for _, start in spans]
        # Right padding: real tokens keep their columns, so causal attention never sees a pad, neither sliding
        # windows nor absolute positions are off, and each model counts its positions as it was trained to.
        ids, mask = pad_batch([row[prefix.length :] for row in rows], self.pad, side="right")
        columns = torch.arange(prefix.length, prefix.length + ids.shape[1])
        keep = mask.bool() & (columns >= torch.tensor(starts)[:, None])  # (B, T)
        device = input_device(self.model)
        weights = (keep / keep.sum(1, keepdim=True)).to(device)
        single = bool((keep.sum(1) == 1).all())
        last = keep.int().argmax(1).to(device)
        rows_index = torch.arange(len(rows), device=device)

        def pool(states: Tensor) -> Tensor:  # (B, T, D) -> (B, D + 1)
            if single:
                pooled = states[rows_index.to(states.device), last.to(states.device)].float()
                return torch.cat([pooled, pooled.norm(dim=-1, keepdim=True)], dim=-1)
            states = states.float()
            with_norms = torch.cat([states, states.norm(dim=-1, keepdim=True)], dim=-1)
            return torch.einsum("bt,btd->bd", weights.to(states.device), with_norms)

        attention = torch.cat([torch.ones(len(rows), prefix.length, dtype=torch.long), mask], dim=1)
        return read_states(
            self.blocks,
            self.layers,
            pool,
            input_ids=ids.to(device),
            attention_mask=attention.to(device),
            **prefix.expanded(len(rows)),
        )

    def _answers(self, prompts: list[list[int]]) -> list[list[int]]:
        """The model's own greedy answer to each prompt; the end token only where there is nothing else."""
        answers: list[list[int]] = [[] for _ in prompts]
        for batch in _by_length([len(prompt) for prompt in prompts], self.batch_size):
            ids, mask = pad_batch([prompts[index] for index in batch], self.pad, side="left")
            output = self.model.generate(  # type: ignore[operator]
                input_ids=ids.to(input_device(self.model)),
                attention_mask=mask.to(input_device(self.model)),
                max_new_tokens=RESPONSE_TOKENS,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=self.pad,
            )
            ends = _end_ids(self.model)
            for index, row in zip(batch, output[:, ids.shape[1] :].tolist(), strict=True):
                length = next((place for place, token in enumerate(row) if token in ends), len(row))
                answers[index] = row[: max(length, 1)]
        return answers


def _by_length(lengths: list[int], batch_size: int) -> Iterator[list[int]]:
    """Batches of like length, so that little is padded; longest first shows memory trouble early."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _poolings(pooling: Pooling | Mapping[str, Pooling], names: Sequence[str]) -> dict[str, Pooling]:
    given = dict.fromkeys(names, pooling) if isinstance(pooling, str) else pooling
    if unknown := set(given) - set(names):
        raise ValueError(f"pooling names unknown criteria {sorted(unknown)}; there are: {', '.join(names)}")
    for name, value in given.items():
        check_choice(f"pooling of {name!r}", value, get_args(Pooling))
    return {name: given.get(name, "last") for name in names}


def _middle_third(layers: Sequence[int], count: int) -> tuple[int, ...]:
    """The paper's control layers, the middle third of the model, or the measured layer nearest to it."""
    middle = tuple(layer for layer in layers if count // 3 <= layer < max(2 * count // 3, count // 3 + 1))
    return middle or (min(layers, key=lambda layer: abs(layer - count // 2)),)


def _end_ids(model: PreTrainedModel) -> set[int]:
    ends = model.generation_config.eos_token_id
    if ends is None:
        return set()
    return {ends} if isinstance(ends, int) else set(ends)


def _check_contrasts(contrasts: Tensor, name: str) -> None:
    """Refuses contrasts (N, L, D) that have no direction: states overflowed, or both sides are the same."""
    if not bool(torch.isfinite(contrasts).all()):
        raise ValueError(
            f"the states for {name!r} have NaN or infinite values; load the model in bfloat16 or float32"
        )
    if not bool(contrasts.any()):
        raise ValueError(
            f"the two sides of criterion {name!r} give the same states: the tokenizer or the chat template "
            "does not let their difference through; reword them"
        )


def _floats(values: Tensor) -> tuple[float, ...]:
    return tuple(float(f"{float(value):.7g}") for value in values)
