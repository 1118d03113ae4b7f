"""What happens when a visitor clicks: values in, values for named parts of the page out. No gradio here."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from hf_icon2.playground.answers import Answer, Request, stream_answers
from hf_icon2.playground.consistency import ConsistencyMeter
from hf_icon2.playground.markup import (
    Card,
    answers_html,
    colour_limit,
    consistency_html,
    legend_html,
    pieces,
    prompt_html,
    steering_text,
)
from hf_icon2.playground.projections import token_projections
from hf_icon2.playground.sliders import strength_note
from hf_icon2.playground.snippet import snippet
from hf_icon2.playground.subject import Subject
from hf_icon2.prompts import decode_answer, encode_prompt, pad_token_id

logger = logging.getLogger(__name__)

_EVERY = 0.08  # seconds; with every token of a fast model a browser falls behind, and Stop comes late

_OF_TORCH = (
    TypeError,
    RuntimeError,
    IndexError,
)  # out of memory, wrong shapes, ids outside of the vocabulary

Update = dict[str, Any]
"""New values of parts of the page, by name; parts that are not named stay."""


@dataclass(frozen=True)
class Shown:
    """What stands on one visitor's page: the prompt's ids, and the answers under -, 0 and +."""

    request: Request
    prompt: tuple[int, ...]
    answers: tuple[Answer, ...]


class Events:
    """The page's events for one subject; keeps nothing of its visitors.

    Args:
        subject: The model on show.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.pad = pad_token_id(subject.tokenizer)
        self.measure = ConsistencyMeter(subject)

    def generate(
        self, prompt: str, steering: Mapping[str, float], sampling: Mapping[str, Any], look: tuple[str, int]
    ) -> Iterator[Update]:
        """Answers an instruction; what cannot be done is said in the status.

        Args:
            prompt: The instruction.
            steering: Strength per criterion.
            sampling: `max_new_tokens`, `temperature` and `seed`.
            look: Criterion and layer of the colours.

        Yields:
            Snippet and consistency, the answers as they grow, and at last their colours.
        """
        try:
            strengths = {name: _number(value) for name, value in steering.items()}
            request = Request(prompt or "", strengths, **sampling)
            yield from self._generate(request, look)
        except ValueError as error:
            yield {"status": status_html(str(error), error=True)}
        except _OF_TORCH as error:
            logger.exception("generation failed")
            first = (str(error).splitlines() or [type(error).__name__])[0]
            yield {"status": status_html(f"The model failed on this instruction: {first}", error=True)}

    def recolour(self, shown: Shown | None, look: tuple[str, int]) -> Update:
        """The page's answers in the colours of another criterion or layer; nothing where nothing is shown."""
        if shown is None:
            return {}
        criterion, layer = look
        rows = [[*shown.prompt, *answer.ids] for answer in shown.answers]
        projections = token_projections(
            self.subject.blocks, self.subject.directions, rows, criterion=criterion, layer=layer, pad=self.pad
        )
        start = len(shown.prompt)
        answers = [row[start:] for row in projections]
        limit = colour_limit([projections[0][:start], *answers])
        cards = [
            replace(card, pieces=pieces(self._decode, answer.ids), projections=values)
            for card, answer, values in zip(self._cards(shown), shown.answers, answers, strict=True)
        ]
        prompt = pieces(self._decode_all, shown.prompt)
        return {
            "answers": answers_html(cards, limit),
            "legend": legend_html(criterion, layer, limit)
            + prompt_html(prompt, projections[0][:start], limit),
        }

    def stop(self, shown: Shown | None, look: tuple[str, int]) -> Update:
        """What is shown when a visitor has stopped the answers."""
        return {"status": status_html("Stopped."), **self.recolour(shown, look)}

    def _generate(self, request: Request, look: tuple[str, int]) -> Iterator[Update]:
        ids = encode_prompt(self.subject.tokenizer, request.prompt)
        request = self._fitting(request, len(ids))
        shown = Shown(request, tuple(ids), (Answer(),) * len(request.steerings))
        yield {
            "status": status_html("Answering …"),
            "legend": "",
            "snippet": self._snippet(request),
            **self._plain(shown),
        }
        found = self.measure(request.prompt)
        yield {"consistency": consistency_html(found.scores, found.meaning, found.full)}
        began = time.perf_counter()
        for answers in stream_answers(self.subject.model, ids, request, pad=self.pad, every=_EVERY):
            shown = replace(shown, answers=tuple(answers))
            yield self._plain(shown)
        done = f"Done in {time.perf_counter() - began:.1f} s."
        yield {"status": status_html(done, *self._notes(shown)), **self.recolour(shown, look)}

    def _fitting(self, request: Request, length: int) -> Request:
        """The request with as many new tokens as the model's context has room for."""
        context = self.subject.context
        if context is None or length + request.max_new_tokens <= context:
            return request
        if length >= context:
            raise ValueError(
                f"The instruction is {length:,} tokens long with its template, and this model reads at most "
                f"{context:,}; shorten it."
            )
        return replace(request, max_new_tokens=context - length)

    def _notes(self, shown: Shown) -> Iterator[str]:
        unknown = self.subject.tokenizer.unk_token_id
        if unknown is not None and (count := shown.prompt.count(unknown)):
            yield f"This model does not know {count} of the instruction's words."
        if note := strength_note(self.subject.directions.config, shown.request.steering):
            yield note
        if not any(shown.request.steering.values()):
            yield "All strengths are 0, so the three answers are the same; move a slider."

    def _plain(self, shown: Shown) -> Update:
        """The answers as they grow, without colours."""
        cards = [
            replace(card, pieces=[self._decode(list(answer.ids))])
            for card, answer in zip(self._cards(shown), shown.answers, strict=True)
        ]
        return {"answers": answers_html(cards), "shown": shown}

    def _cards(self, shown: Shown) -> list[Card]:
        return [
            Card(steering_text(steering or {}), status=_status(answer, shown.request.max_new_tokens))
            for steering, answer in zip(shown.request.steerings, shown.answers, strict=True)
        ]

    def _snippet(self, request: Request) -> str:
        noise = f"SharedNoise(seed={request.seed}, temperature={request.temperature!r})"
        return snippet(
            self.subject.loading,
            request.prompt,
            request.steering,
            chat=self.subject.tokenizer.chat_template is not None,
            max_new_tokens=request.max_new_tokens,
            noise=noise if request.temperature else None,
        )

    def _decode(self, ids: list[int]) -> str:
        return decode_answer(self.subject.tokenizer, ids)

    def _decode_all(self, ids: list[int]) -> str:
        return str(self.subject.tokenizer.decode(ids))


def status_html(*sentences: str, error: bool = False) -> str:
    """The line that says what goes on; screen readers speak it."""
    kind, role = ("error", "alert") if error else ("", "status")
    return f'<p class="status {kind}" role="{role}">{escape(" ".join(sentences))}</p>'


def _status(answer: Answer, limit: int) -> str:
    count = f"{len(answer.ids)} token{'' if len(answer.ids) == 1 else 's'}"
    if answer.ended:
        return count
    return f"{count}, cut at the limit" if len(answer.ids) >= limit else f"{count} …"


def _number(value: object) -> float:
    """A slider's value without the noise of binary fractions, so that the page and its snippet agree."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"A strength must be a number, got {value!r}.")
    return float(f"{value:.6g}")
