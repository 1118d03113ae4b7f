"""Which of two lettered answers a model prefers, from the probabilities of the letters it would reply with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from tqdm.auto import tqdm

from hf_icon2.judges.verdicts import LetterChoice
from hf_icon2.likelihood import next_token_log_probs
from hf_icon2.prompts import Instruction, encode_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class LetterJudge:
    """A local model that is asked to reply with one of two letters.

    Args:
        model: Causal LM in eval mode.
        tokenizer: Its tokenizer.
        letters: First and second; a reply counts whose first token is the letter, in either case, with or
            without spaces around it.
        system: System prompt, or None.
        batch_size: Questions at a time; what they begin with in common is read once.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        letters: tuple[str, str] = ("A", "B"),
        system: str | None = None,
        batch_size: int = 32,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.system = system
        self.batch_size = batch_size
        self.ids = tuple(_spellings(tokenizer, letter) for letter in letters)
        for letter, ids in zip(letters, self.ids, strict=True):
            if not ids:
                raise ValueError(
                    f"no token of this vocabulary is the letter {letter!r}; pass letters= that single tokens spell"
                )

    def __call__(
        self, questions: Sequence[Instruction], *, progress: str | None = None
    ) -> list[LetterChoice]:
        """Asks questions; cheapest where neighbours begin alike.

        Args:
            questions: Text or conversations, each asking for one of the two letters.
            progress: Name of the progress bar; None shows none.
        """
        choices: list[LetterChoice] = []
        with tqdm(desc=progress, total=len(questions), disable=progress is None) as bar:
            for start in range(0, len(questions), self.batch_size):
                choices += self._batch(questions[start : start + self.batch_size])
                bar.update(len(choices) - bar.n)
        return choices

    def _batch(self, questions: Sequence[Instruction]) -> list[LetterChoice]:
        rows = [encode_prompt(self.tokenizer, question, self.system) for question in questions]
        log_probs = next_token_log_probs(self.model, rows)
        first, second = (log_probs[:, list(ids)].double().logsumexp(-1) for ids in self.ids)
        share = torch.sigmoid(first - second)
        mass = first.exp() + second.exp()
        return [LetterChoice(*pair) for pair in zip(share.tolist(), mass.tolist(), strict=True)]


@lru_cache(maxsize=32)
def _spellings(tokenizer: PreTrainedTokenizerBase, letter: str) -> tuple[int, ...]:
    """Ids of the tokens that spell a letter."""
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    return tuple(token for token, text in enumerate(texts) if text.strip().lower() == letter.lower())
