"""What the page shows: a steerable model, its directions, and the Python that makes both again."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hf_icon2.blocks import Blocks, find_blocks
from hf_icon2.directions.config import StrengthRange
from hf_icon2.directions.extraction import extract_directions, last_token_states
from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.loading import load_model, load_tokenizer
from hf_icon2.playground.snippet import Loading, model_loading, toy_loading
from hf_icon2.steering.generation import make_steerable
from hf_icon2.synthesis.calibration import calibrate_maximum

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

TOY = "toy"
# Where ARCHITECTURE.md finds the bundled model's pairs right, and how strong.
TOY_LAYERS = (3, 4)
_TOY_STRENGTHS = StrengthRange(0.2, -0.2)
_CALIBRATED_ON = 16  # instructions
_MEASURED_ON = 256
_SHORT = 80  # characters of an example

_TOY_NOTE = (
    "It is tiny and knows one little world of facts, everyday tasks and harmful requests; asked anything else it "
    "answers nonsense, so start from the examples."
)
_TOY_EXAMPLES = (
    "which colour does the grass have ?",
    "how do i brush the teeth ?",
    "how can i sabotage a bridge ?",
    "what is the sound of the dog ?",
)
_EXAMPLES = (
    "How can I pick a lock?",
    "Why is the sky blue?",
    "What do you think of my plan to become a poet?",
)


@dataclass(frozen=True)
class Subject:
    """A model on show.

    Args:
        name: What the page calls it.
        model: Made steerable with `directions`.
        tokenizer: Its tokenizer.
        directions: With recommended strengths where they are known.
        blocks: Where its hidden states are read.
        instructions: What a typed instruction is compared with; may be empty.
        loading: Code that makes model, tokenizer and directions.
        examples: Instructions to start from.
        note: What a newcomer should know about this model.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    directions: DirectionVectors
    blocks: Blocks
    instructions: tuple[str, ...]
    loading: Loading
    examples: tuple[str, ...] = _EXAMPLES
    note: str = ""

    @property
    def context(self) -> int | None:
        """Longest sequence the model was made for, None where nothing is said."""
        limit: int | None = getattr(
            self.model.config.get_text_config(decoder=True), "max_position_embeddings", None
        )
        return limit

    @property
    def temperature(self) -> float:
        """The model's own: that of its generation config, 0 where it decodes greedily."""
        config = self.model.generation_config
        return float(config.temperature or 1.0) if config is not None and config.do_sample else 0.0


def open_toy(directions: str | None = None) -> Subject:
    """The bundled assistant; its directions are measured in a few seconds unless they are given.

    Args:
        directions: Folder or Hub repo.
    """
    from hf_icon2.toy import instructions, load_assistant

    model, tokenizer = load_assistant()
    texts = [item.text for item in instructions("train")[::3]]
    vectors = (
        DirectionVectors.from_pretrained(directions)
        if directions
        else _measure(model, tokenizer, texts, tuned=(TOY_LAYERS, _TOY_STRENGTHS))
    )
    return Subject(
        "the bundled assistant",
        *_steerable(model, tokenizer, vectors),
        tuple(texts),
        toy_loading(directions, TOY_LAYERS),
        _TOY_EXAMPLES,
        _TOY_NOTE,
    )


def open_model(
    source: str,
    directions: str | None = None,
    *,
    instructions: Sequence[str] = (),
    code: tuple[str, str] = ("", "[]"),
) -> Subject:
    """A model by id or path.

    Args:
        source: Hub id or path of a causal LM.
        directions: Folder or Hub repo; by default they are measured on `instructions`, and without these they
            are looked for beside the model's files.
        instructions: Texts; typed instructions are compared with them.
        code: An import and an expression that give the instructions, for the snippet on the page.

    Raises:
        FileNotFoundError: If there is no such model, or there are no directions and nothing to measure them on.
        ValueError: If the directions do not fit the model.
    """
    model, tokenizer = load_model(source), load_tokenizer(source)
    texts = list(instructions)[:_MEASURED_ON]
    if not directions and not texts:
        directions = source
    vectors = _load_directions(source, directions) if directions else _measure(model, tokenizer, texts)
    if not vectors.config.residual_norms:  # imported, and nothing is said of them
        vectors = _with_norms(model, tokenizer, vectors, texts or _EXAMPLES)
    return Subject(
        source,
        *_steerable(model, tokenizer, vectors),
        tuple(texts),
        model_loading(source, directions, (code[0], f"{code[1]}[:{_MEASURED_ON}]")),
        tuple(text for text in texts if len(text) <= _SHORT)[:3] or _EXAMPLES,
    )


def _load_directions(source: str, directions: str) -> DirectionVectors:
    try:
        return DirectionVectors.from_pretrained(directions)
    except FileNotFoundError as error:
        if directions != source:
            raise
        raise FileNotFoundError(
            f"{source} has no directions beside its files; give --directions <folder or repo>, or --instructions "
            "<file> to measure them"
        ) from error


def _measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    tuned: tuple[tuple[int, ...], StrengthRange] | None = None,
) -> DirectionVectors:
    """Directions, their recommended strengths and safe maximum."""
    directions = extract_directions(model, tokenizer, texts)
    if tuned:
        names = directions.names
        directions = directions.with_control_layers(dict.fromkeys(names, tuned[0]))
        directions = directions.with_strengths(dict.fromkeys(names, tuned[1]))
    logger.info("looking for the largest safe strength of each criterion")
    spread = texts[:: max(1, len(texts) // _CALIBRATED_ON)][:_CALIBRATED_ON]
    return calibrate_maximum(model, tokenizer, directions, spread)


def _with_norms(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    directions: DirectionVectors,
    texts: Sequence[str],
) -> DirectionVectors:
    """The directions with residual norms, measured at the last token of a few instructions."""
    config = directions.config
    some = list(texts[:_CALIBRATED_ON])
    states = last_token_states(model, tokenizer, some, layers=list(config.layers))  # (N, L, D)
    norms = tuple(states.norm(dim=-1).mean(0).tolist())
    return replace(directions, config=replace(config, residual_norms=norms))


def _steerable(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directions: DirectionVectors
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, DirectionVectors, Blocks]:
    blocks = find_blocks(model)
    directions.check_model(blocks.hidden_size, len(blocks.layers), tokenizer)
    return make_steerable(model, directions), tokenizer, directions, blocks
