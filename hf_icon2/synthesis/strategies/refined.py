"""The model criticises its own answer and writes a better one: self-refine (arXiv 2303.17651; Icon²'s baseline)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hf_icon2.prompts import Instruction, Message, as_messages
from hf_icon2.synthesis.strategies.drafting import Draft, PairRow, Writer, count_tokens


def critique_prompt(question: Instruction, answer: str) -> list[Message]:
    """The conversation with the answer in it, then a request to criticise it."""
    return _continued(
        question,
        answer,
        "What is wrong with your answer? Say where it is untrue, incomplete, unclear or harmful, and how to mend it. "
        "Do not write a new answer yet.",
    )


def revision_prompt(question: Instruction, answer: str, critique: str) -> list[Message]:
    """The conversation with the answer and its critique in it, then a request for a better answer."""
    return [
        *critique_prompt(question, answer),
        {"role": "assistant", "content": critique},
        {
            "role": "user",
            "content": "Now write the better answer. Reply with that answer alone, as if it were your first.",
        },
    ]


@dataclass(frozen=True)
class Refinement:
    """How a model is asked to criticise and to revise.

    Args:
        critique: Question, answer -> what is asked to get the critique.
        revise: Question, answer, critique -> what is asked to get the better answer.
    """

    critique: Callable[[Instruction, str], Instruction] = critique_prompt
    revise: Callable[[Instruction, str, str], Instruction] = revision_prompt


@dataclass(frozen=True)
class Refined:
    """Chosen is the first sample, revised after the model's own critique; rejected is a random sample.

    Args:
        samples: Answers per row, 1 or more. The first is revised.
        refinement: The wording.
    """

    samples: int
    refinement: Refinement

    @property
    def texts_per_row(self) -> int:
        """The samples, the critique and the revision."""
        return self.samples + 2

    def draft(self, writer: Writer, rows: Sequence[PairRow]) -> list[Draft]:
        """One draft per row."""
        samples = writer.samples(rows, self.samples)
        firsts = [(row.prompt, writer.text(own[0])) for row, own in zip(rows, samples, strict=True)]
        (critiques,) = writer.variants(
            [self.refinement.critique(*first) for first in firsts],
            [[row.seed_of("critique") for row in rows]],
        )
        (revised,) = writer.variants(
            [
                self.refinement.revise(*first, writer.text(critique))
                for first, critique in zip(firsts, critiques, strict=True)
            ],
            [[row.seed_of("revision") for row in rows]],
        )
        return [
            Draft(better, own[row.seed_of("rejected") % self.samples], count_tokens([*own, critique, better]))
            for row, own, critique, better in zip(rows, samples, critiques, revised, strict=True)
        ]


def _continued(question: Instruction, answer: str, request: str) -> list[Message]:
    return [
        *as_messages(question),
        {"role": "assistant", "content": answer},
        {"role": "user", "content": request},
    ]
