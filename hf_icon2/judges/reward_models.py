"""Reward models: any sequence classifier with one output, by Hub id or path."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from hf_icon2.judges.reward_judge import ScoringJudge
from hf_icon2.prompts import Instruction

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RewardModel(ScoringJudge):
    """Scores answers to prompts with a sequence classifier that has one output.

    As a judge it takes the difference of two rewards as log-odds (Bradley-Terry, as most are trained).

    Args:
        model: The classifier.
        tokenizer: Its tokenizer; its chat template lays out prompt and answer.
        batch_size: Rows per forward pass.
        max_length: Longest row in tokens, if model and tokenizer allow as many; longer ones lose what the tokenizer's
            `truncation_side` says, and are counted in a warning.

    Raises:
        ValueError: If the classifier has another number of outputs: it is not said which of them is the reward.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    batch_size: int = 16
    max_length: int = 2048

    scale = 1.0  # not annotated, so that it is no argument

    def __post_init__(self) -> None:
        outputs = self.model.config.num_labels
        if outputs != 1:
            raise ValueError(
                f"{self.model.name_or_path or 'the model'} has {outputs} outputs; a reward model has one "
                "(num_labels=1)"
            )

    @classmethod
    def from_pretrained(cls, source: str) -> RewardModel:
        """Loads a reward model; code in its repo is never run.

        Raises:
            ValueError: If it has more outputs than one, or lacks weights, such as a language model's that has no
                head for rewards: its rewards would be random.
        """
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        model, found = AutoModelForSequenceClassification.from_pretrained(source, output_loading_info=True)
        if model.config.num_labels == 1 and found["missing_keys"]:
            raise ValueError(
                f"{source} lacks the weights {', '.join(sorted(found['missing_keys']))}, without which rewards are "
                "random; give a trained reward model"
            )
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(model.to(device).eval(), AutoTokenizer.from_pretrained(source))

    @torch.no_grad()
    def __call__(
        self, prompts: Sequence[Instruction], answers: Sequence[str], *, progress: str | None = None
    ) -> list[float]:
        """Rewards, one per answer, in the model's own unit.

        Args:
            prompts: Texts or conversations.
            answers: One to each.
            progress: Name of the progress bar; None shows none.
        """
        rows = [self._text(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
        rewards: list[float] = []
        with tqdm(desc=progress, total=len(rows), disable=progress is None) as bar:
            for start in range(0, len(rows), self.batch_size):
                rewards += self._rewards(rows[start : start + self.batch_size])
                bar.update(len(rewards) - bar.n)
        self._warn_of_cuts(rows)
        return rewards

    def _rewards(self, rows: list[str]) -> list[float]:
        """Of one batch; one row at a time where the model cannot tell the tokenizer's padding from text."""
        padding = self.tokenizer.pad_token_id
        together = padding is not None and padding == self.model.config.pad_token_id
        rewards: list[float] = []
        for part in [rows] if together else [[row] for row in rows]:
            encoded = self._encoded(
                part,
                return_tensors="pt",
                padding=len(part) > 1,
                padding_side="right",  # on the left it would move the positions of the text
                truncation=True,
                max_length=self._most_tokens,
            ).to(self.model.device)
            rewards += self.model(**encoded).logits[:, 0].float().tolist()
        return rewards

    @property
    def _most_tokens(self) -> int:
        positions = getattr(self.model.config, "max_position_embeddings", None) or self.max_length
        return int(min(self.max_length, positions, self.tokenizer.model_max_length))

    def _encoded(self, rows: list[str], **options: Any) -> BatchEncoding:
        plain = self.tokenizer.chat_template is None
        encoded: BatchEncoding = self.tokenizer(rows, add_special_tokens=plain, **options)
        return encoded

    def _warn_of_cuts(self, rows: list[str]) -> None:
        most = self._most_tokens
        lengths = map(len, self._encoded(rows, verbose=False)["input_ids"]) if rows else ()
        if cut := sum(length > most for length in lengths):
            logger.warning(
                "%d of %d rows are longer than %d tokens, and their rewards are those of a part; take a model that "
                "reads more, or raise max_length where it can",
                cut,
                len(rows),
                most,
            )

    def _text(self, prompt: Instruction, answer: str) -> str:
        if self.tokenizer.chat_template is None:
            return (
                f"{prompt}\n{answer}"
                if isinstance(prompt, str)
                else "\n".join([*(message["content"] for message in prompt), answer])
            )
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        turns.append({"role": "assistant", "content": answer})
        return str(self.tokenizer.apply_chat_template(turns, tokenize=False))
