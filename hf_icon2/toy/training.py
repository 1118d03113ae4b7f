"""Base training of the bundled models: next-token loss on conversations, with a disturbed residual stream.

Loss falls on every token, so that the model also writes instructions and not only answers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hf_icon2.toy.corpus import Corpus
from hf_icon2.toy.tokenizer import CONTEXT, encode

PARTS = 3  # a batch is cut into so many parts of like length


@dataclass(frozen=True)
class ModelPlan:
    """Shape and training of one bundled model.

    Args:
        hidden: Width of the residual stream.
        layers: Number of decoder blocks.
        inner: Width of the feed-forward layers.
        heads: Attention heads.
        steps: Optimiser steps of one learning-rate cycle.
        cycles: Learning-rate cycles, one after the other.
        batch: Conversations per step.
        rate: Highest learning rate of embeddings and norms (Adam, one cycle).
        matrix_rate: Highest learning rate of the blocks' matrices (Muon, one cycle).
        seed: Seed of weights, corpus and disturbance.
    """

    hidden: int = 128
    layers: int = 6
    inner: int = 344
    heads: int = 4
    steps: int = 1900
    cycles: int = 2
    batch: int = 64
    rate: float = 4e-3
    matrix_rate: float = 0.02
    seed: int = 0


@dataclass(frozen=True)
class Disturbance:
    """How strongly training shakes the residual stream, so that steering later does not break the text.

    Norms are relative to the mean residual norm of the layer in the batch.

    Args:
        jitter: Norm of the Gaussian noise added at every position.
        push: Largest norm of a constant direction, one per sequence and layer, from a random position on.
        rows: Share of the sequences that are pushed.
        layers: Share of the layers at which a pushed sequence is pushed.
    """

    jitter: float = 0.06
    push: float = 0.25
    rows: float = 0.5
    layers: float = 0.4


class ResidualDisturber:
    """Forward hooks that disturb every block's output while training; `close` removes them.

    Args:
        model: The model to train.
        disturbance: How strongly.
        seed: Seed of its own generator.
    """

    def __init__(self, model: LlamaForCausalLM, disturbance: Disturbance, *, seed: int) -> None:
        self._disturbance = disturbance
        self._generator = torch.Generator().manual_seed(seed)
        self._pushed_from = torch.zeros(0)
        self._handles = [layer.register_forward_hook(self._disturb) for layer in model.model.layers]

    def draw(self, rows: int, length: int) -> None:
        """Draw which rows of the coming batch are pushed, and from which position on."""
        start = torch.randint(length, (rows, 1), generator=self._generator)
        start[torch.rand(rows, 1, generator=self._generator) > self._disturbance.rows] = length
        self._pushed_from = (torch.arange(length) >= start).float()[..., None]  # (B, T, 1)

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def _disturb(self, module: torch.nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        rows, _, width = output.shape
        norm = output.detach().norm(dim=-1).mean()
        noise = torch.randn(output.shape, generator=self._generator) * (self._disturbance.jitter / width**0.5)
        direction = functional.normalize(torch.randn(rows, 1, width, generator=self._generator), dim=-1)
        size = torch.rand(rows, 1, 1, generator=self._generator) * self._disturbance.push
        here = torch.rand(rows, 1, 1, generator=self._generator) < self._disturbance.layers
        disturbed: Tensor = output + norm * (noise + direction * (size * here) * self._pushed_from)
        return disturbed


def batches(corpus: Corpus, vocab: dict[str, int], batch: int) -> Iterator[list[Tensor]]:
    """Endless batches of random conversations, each cut into a few parts of like length to pad little.

    Conversations are not sorted beyond one batch: whole batches of short, hence curt, answers would tear the
    weights to and fro, and attention to the system prompt would never form.

    Yields:
        Token ids of each part, (rows, T), right-padded.
    """
    while True:
        rows = sorted((encode(corpus.conversation(), vocab)[:CONTEXT] for _ in range(batch)), key=len)
        size = -(-batch // PARTS)
        parts = [[torch.tensor(row) for row in rows[first : first + size]] for first in range(0, batch, size)]
        yield [pad_sequence(part, batch_first=True, padding_value=vocab["<pad>"]) for part in parts]


def next_token_loss(model: LlamaForCausalLM, ids: Tensor, pad: int) -> Tensor:
    """Next-token loss in nats, summed over all real tokens of right-padded rows; ids (B, T)."""
    # No attention mask: under a causal mask real tokens never see the padding to their right.
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    loss: Tensor = functional.cross_entropy(
        logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=pad, reduction="sum"
    )
    return loss


def accumulate_gradient(
    model: LlamaForCausalLM, parts: Sequence[Tensor], pad: int, disturber: ResidualDisturber
) -> float:
    """Add the gradient of the mean loss over all parts' tokens; returns that loss in nats per token."""
    tokens = sum(int((ids[:, 1:] != pad).sum()) for ids in parts)
    total = 0.0
    for ids in parts:
        disturber.draw(ids.shape[0], ids.shape[1] - 1)
        loss = next_token_loss(model, ids, pad) / tokens
        loss.backward()
        total += loss.item()
    return total


def new_model(plan: ModelPlan, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained model of this shape."""
    torch.manual_seed(plan.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=plan.hidden,
        intermediate_size=plan.inner,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.heads,
        num_key_value_heads=plan.heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.07,  # near 1/sqrt(width): the usual 0.02 is for models ten times as wide
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model: LlamaForCausalLM = LlamaForCausalLM(config).float()
    return model


def _optimizers(model: LlamaForCausalLM, plan: ModelPlan) -> list[Optimizer | LRScheduler]:
    """Muon for the blocks' matrices and Adam for embeddings and norms, each with its one-cycle schedule.

    With Adam alone attention to the system prompt had not formed after 1,500 steps; with Muon (torch 2.9 or
    later) it forms within 200.
    """
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers." in name]
    others = [p for name, p in model.named_parameters() if not (p.ndim == 2 and "layers." in name)]
    muon = torch.optim.Muon(matrices, lr=plan.matrix_rate, momentum=0.95, weight_decay=0.05)
    adam = torch.optim.AdamW(others, lr=plan.rate, betas=(0.9, 0.98), weight_decay=0.0)
    schedules = [
        OneCycleLR(optimizer, rate, total_steps=plan.steps, pct_start=0.05, cycle_momentum=False)
        for optimizer, rate in ((muon, plan.matrix_rate), (adam, plan.rate))
    ]
    return [muon, adam, *schedules]


def train(
    plan: ModelPlan,
    tokenizer: PreTrainedTokenizerFast,
    *,
    disturbance: Disturbance,
    on_step: Callable[[LlamaForCausalLM], None] | None = None,
) -> LlamaForCausalLM:
    """Train one model from scratch; the same plan gives the same weights on the same machine.

    Args:
        plan: Shape, steps and seed.
        tokenizer: The world's tokenizer.
        disturbance: How strongly the residual stream is shaken.
        on_step: Called after every step, for example to save a checkpoint.
    """
    model = new_model(plan, tokenizer)
    for cycle in range(plan.cycles):
        train_cycle(model, plan, tokenizer, disturbance=disturbance, cycle=cycle, on_step=on_step)
    model.eval()
    return model


def train_cycle(
    model: LlamaForCausalLM,
    plan: ModelPlan,
    tokenizer: PreTrainedTokenizerFast,
    *,
    disturbance: Disturbance,
    cycle: int,
    on_step: Callable[[LlamaForCausalLM], None] | None = None,
) -> None:
    """Train a model in place for one learning-rate cycle, with its own stretch of the corpus.

    Each cycle depends on the weights alone, so training can go on from those of any finished cycle.
    """
    vocab, seed = tokenizer.get_vocab(), plan.seed + 1000 * cycle
    steppers = _optimizers(model, plan)
    disturber = ResidualDisturber(model, disturbance, seed=seed)
    stream = batches(Corpus(seed), vocab, plan.batch)
    model.train()
    label = f"train {plan.hidden}x{plan.layers}, cycle {cycle + 1} of {plan.cycles}"
    with tqdm(total=plan.steps, desc=label, mininterval=5) as progress:
        for _ in range(plan.steps):
            loss = accumulate_gradient(model, next(stream), vocab["<pad>"], disturber)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for stepper in steppers:
                stepper.step()
            model.zero_grad()
            progress.update()
            progress.set_postfix(loss=f"{loss:.3f}", refresh=False)
            if on_step is not None:
                on_step(model)
    disturber.close()


def set_threads(threads: int | None) -> None:
    """Use this many CPU threads; all the process may use when None."""
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
