"""Reward models: any sequence classifier with one output, by Hub id or path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class RewardModel:
    """Scores answers to prompts with a sequence classifier that has one output.

    Args:
        model: The classifier.
        tokenizer: Its tokenizer; its chat template lays out prompt and answer.
        batch_size: Rows per forward pass.
        max_length: Longest row in tokens; longer ones lose their beginning.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    batch_size: int = 16
    max_length: int = 2048

    @classmethod
    def from_pretrained(cls, source: str) -> RewardModel:
        """Loads a reward model; code in its repo is never run."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        model = AutoModelForSequenceClassification.from_pretrained(source)
        if model.config.num_labels != 1:
            raise ValueError(
                f"{source} has {model.config.num_labels} outputs; a reward model has one (num_labels=1)"
            )
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(model.to(device).eval(), AutoTokenizer.from_pretrained(source))

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str | list[dict[str, str]]], answers: Sequence[str]) -> list[float]:
        """Rewards, one per answer, in the model's own unit."""
        rows = [self._text(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
        rewards: list[float] = []
        for start in range(0, len(rows), self.batch_size):
            # One row at a time where the model cannot tell padding from text.
            batch = rows[start : start + self.batch_size]
            for part in [batch] if self.model.config.pad_token_id is not None else [[row] for row in batch]:
                encoded = self.tokenizer(
                    part,
                    return_tensors="pt",
                    padding=len(part) > 1,
                    truncation=True,
                    max_length=self.max_length,
                    add_special_tokens=self.tokenizer.chat_template is None,
                ).to(self.model.device)
                rewards += self.model(**encoded).logits[:, 0].float().tolist()
        return rewards

    def _text(self, prompt: str | list[dict[str, str]], answer: str) -> str:
        if self.tokenizer.chat_template is None:
            return (
                f"{prompt}\n{answer}"
                if isinstance(prompt, str)
                else "\n".join([*(message["content"] for message in prompt), answer])
            )
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        turns.append({"role": "assistant", "content": answer})
        return str(self.tokenizer.apply_chat_template(turns, tokenize=False))
