"""How likely a model finds given texts: several continuations of one prompt, which is read once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_icon2.blocks import input_device
from hf_icon2.prefix import Prefix, shared_prefix
from hf_icon2.prompts import pad_batch

_LOGITS_PER_PASS = 2**28
"""1 GiB in float32."""
_IGNORED = -100  # what losses of transformers leave out


def continuation_log_probs(
    model: PreTrainedModel, prompt: Sequence[int], continuations: Sequence[Sequence[int]]
) -> list[Tensor]:
    """Log-probability of every token of several continuations of one prompt.

    Args:
        model: Causal LM in eval mode.
        prompt: Token ids, not empty.
        continuations: N lists of token ids, none empty.

    Returns:
        N tensors (T_i,), float32 on the CPU, in nats.
    """
    return response_log_probs(model, [prompt] * len(continuations), continuations)


def response_log_probs(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
) -> list[Tensor]:
    """Log-probability of every token of responses, each to its own prompt.

    Args:
        model: Causal LM in eval mode.
        prompts: N lists of token ids, none empty; what they begin with in common is read once.
        responses: N lists of token ids, none empty.

    Returns:
        N tensors (T_i,), float32 on the CPU, in nats.
    """
    rows = [[*prompt, *response] for prompt, response in zip(prompts, responses, strict=True)]
    starts = iter(len(prompt) - 1 for prompt in prompts)
    result: list[Tensor] = []
    for part, first, logits in _passes(model, rows, limit=min(map(len, prompts)) - 1):
        for row, scores in zip(part, logits, strict=True):
            start = next(starts)  # the logits that predict the first token of the response
            tokens = torch.tensor(row[start + 1 :], device=scores.device)
            predictions = scores[start - first : start - first + len(tokens)].float().log_softmax(-1)
            result.append(predictions.gather(1, tokens[:, None])[:, 0].cpu())
    return result


def target_log_probs(
    model: PreTrainedModel, inputs: Sequence[Sequence[int]], targets: Sequence[Sequence[Sequence[int]]]
) -> list[list[Tensor]]:
    """Log-probability of every token of several targets of each input; each input is encoded once.

    Args:
        model: Encoder-decoder model in eval mode.
        inputs: N lists of token ids for the encoder, none empty.
        targets: Per input K lists of token ids, none empty; K is the same for all.

    Returns:
        N lists of K tensors (T_i,), float32 on the CPU, in nats.
    """
    device, number = input_device(model), len(targets[0])
    ids, mask = pad_batch(inputs, 0, side="right")
    labels, _ = pad_batch([target for row in targets for target in row], _IGNORED, side="right")
    with torch.no_grad():
        states = model.get_encoder()(input_ids=ids.to(device), attention_mask=mask.to(device))[0]
        logits: Tensor = model(
            encoder_outputs=(states.repeat_interleave(number, 0),),
            attention_mask=mask.to(device).repeat_interleave(number, 0),
            labels=labels.to(device),
        ).logits
    found = logits.float().log_softmax(-1).cpu().gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    flat = iter(found)
    return [[next(flat)[: len(target)] for target in row] for row in targets]


def next_token_log_probs(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> Tensor:
    """Log-probabilities of the token after each row; what the rows begin with in common is read once.

    Args:
        model: Causal LM in eval mode.
        rows: R lists of token ids, none empty.

    Returns:
        (R, V) float32 on the CPU, in nats.
    """
    limit = min(map(len, rows)) - 1
    return torch.stack(
        [
            scores[len(row) - 1 - first].float().log_softmax(-1).cpu()
            for part, first, logits in _passes(model, rows, limit)
            for row, scores in zip(part, logits, strict=True)
        ]
    )


def _passes(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], limit: int
) -> Iterator[tuple[list[Sequence[int]], int, Tensor]]:
    """Rows, the column their logits begin at, and the logits (R, T, V), as many rows at a time as memory allows."""
    with torch.no_grad():
        prefix = shared_prefix(model, model.base_model, rows, limit)
        longest = max(map(len, rows)) - prefix.length
        size = max(1, _LOGITS_PER_PASS // (longest * model.config.get_text_config().vocab_size))
        for start in range(0, len(rows), size):
            part = list(rows[start : start + size])
            yield part, prefix.length, _logits(model, part, prefix)


def _logits(model: PreTrainedModel, rows: Sequence[Sequence[int]], prefix: Prefix) -> Tensor:
    # Filled up on the right, where a causal model does not look back from.
    ids, mask = pad_batch([row[prefix.length :] for row in rows], 0, side="right")
    attention = torch.cat([torch.ones(len(rows), prefix.length, dtype=torch.long), mask], dim=1)
    device = input_device(model)
    logits: Tensor = model(
        input_ids=ids.to(device),
        attention_mask=attention.to(device),
        **prefix.expanded(len(rows)),
    ).logits
    return logits
