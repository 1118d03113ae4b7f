"""What every strategy is given and gives back: rows to answer, a writer that answers them, drafts of pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.prompts import Instruction, decode_answer, encode_prompt, pad_token_id
from hf_icon2.steering.decoding import Completion, Sampling, generate_variants
from hf_icon2.steering.noise import row_seed
from hf_icon2.steering.plans import RowSteering

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class PairRow:
    """An instruction that is to become a pair.

    Args:
        prompt: The instruction.
        id: Its name.
        criterion: What the pair is about; None where the strategy needs none.
        seed: Of the chosen answer's noise; those of samples and later texts follow from it.
        rejected_seed: Of the rejected answer's noise, where the two are drawn independently.
    """

    prompt: Instruction
    id: str
    criterion: str | None
    seed: int
    rejected_seed: int

    def seed_of(self, purpose: str) -> int:
        """Seed of another text of this row, such as `sample 0`."""
        return row_seed(self.seed, purpose)


@dataclass(frozen=True)
class Draft:
    """A pair as a strategy leaves it.

    Args:
        chosen: The better answer.
        rejected: The worse answer.
        tokens: Generated for this pair in all, thrown-away texts included.
        undecided: Whether the strategy could not tell which answer is better.
        columns: What else the row says; columns of other strategies are null.
    """

    chosen: Completion
    rejected: Completion
    tokens: int
    undecided: bool = False
    columns: Mapping[str, Any] = field(default_factory=dict)


class Strategy(Protocol):
    """Makes pairs. The draft of a row depends on that row alone."""

    @property
    def texts_per_row(self) -> int:
        """How many texts are generated for a pair."""
        ...

    def draft(self, writer: Writer, rows: Sequence[PairRow]) -> list[Draft]:
        """One draft per row."""
        ...


@dataclass(frozen=True)
class Writer:
    """The model that answers.

    Args:
        model: Causal LM, or a PEFT model around one.
        tokenizer: Its tokenizer.
        sampling: How tokens are chosen.
        batch_size: Rows answered at a time.
        progress: Called with the number of texts finished.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    sampling: Sampling
    batch_size: int
    progress: Callable[[int], object]

    def variants(
        self,
        prompts: Sequence[Instruction],
        seeds: Sequence[Sequence[int]],
        *,
        systems: Sequence[str | None] | None = None,
        steerings: Sequence[Sequence[RowSteering | None]] | None = None,
        directions: DirectionVectors | None = None,
    ) -> list[list[Completion]]:
        """V texts for each of N prompts, each prompt prefilled once.

        Args:
            prompts: N instructions.
            seeds: V lists of N row seeds.
            systems: N system prompts; none by default.
            steerings: V lists of N steerings; none by default.
            directions: Needed where anything is steered.
        """
        return generate_variants(
            self.model,
            [
                encode_prompt(self.tokenizer, *pair)
                for pair in zip(prompts, systems or [None] * len(prompts), strict=True)
            ],
            steerings or [[None] * len(prompts)] * len(seeds),
            sampling=self.sampling,
            seeds=seeds,
            pad=pad_token_id(self.tokenizer),
            directions=directions,
            batch_size=self.batch_size,
            progress=self.progress,
        )

    def samples(self, rows: Sequence[PairRow], number: int) -> list[list[Completion]]:
        """For each row, `number` independent unsteered answers, by the seeds `sample 0`, `sample 1`, ..."""
        seeds = [[row.seed_of(f"sample {sample}") for row in rows] for sample in range(number)]
        answers = self.variants([row.prompt for row in rows], seeds)
        return [list(own) for own in zip(*answers, strict=True)]

    def text(self, answer: Completion) -> str:
        """What an answer says."""
        return decode_answer(self.tokenizer, answer.ids)


def count_tokens(answers: Sequence[Completion]) -> int:
    """Tokens of some answers, without their end tokens."""
    return sum(len(answer.ids) for answer in answers)
