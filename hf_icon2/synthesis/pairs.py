"""Preference pairs without labels: each instruction is answered under both signs of its criterion's direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from datasets import Dataset, Features, List, Value
from tqdm.auto import tqdm

from hf_icon2.directions.config import StrengthRange
from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.prompts import (
    Instruction,
    as_messages,
    decode_answer,
    encode_prompt,
    pad_token_id,
    refuse_one_text,
)
from hf_icon2.steering.decoding import Sampling, generate_variants
from hf_icon2.steering.noise import row_seed
from hf_icon2.steering.plans import RowSteering
from hf_icon2.synthesis.checks import pair_flags

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Noise = Literal["shared", "independent"]
Row = dict[str, Any]

PAPER_STRENGTHS = StrengthRange(positive=0.1, negative=-0.05)
"""Icon², section 3.3: used where nothing was tuned."""


def generate_pairs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    directions: DirectionVectors,
    instructions: Dataset | Sequence[Instruction],
    *,
    criterion: str | None = None,
    strengths: Mapping[str, StrengthRange] | None = None,
    sampling: Sampling | None = None,
    noise: Noise = "shared",
    drop: Sequence[str] = ("identical",),
    seed: int = 0,
    batch_size: int = 32,
    show_progress: bool = True,
) -> Dataset:
    """Answers every instruction under + and - steering, in one batch over one prefill (Icon², Eq. 4, Algorithm 3).

    Two additions to the paper: both answers share their sampling noise by default, so that they differ only where
    steering matters, and every row carries what made it.

    Args:
        model: Causal LM, or a PEFT model around one.
        tokenizer: Its tokenizer.
        directions: Measured on this model.
        instructions: Rows of `filter_instructions` (`prompt`, `criterion`, `id`), or plain instructions.
        criterion: What to steer where the rows do not say.
        strengths: Per criterion; those recommended by the directions, else the paper's +0.1 and -0.05.
        sampling: How tokens are chosen; temperature 1 and up to 256 tokens by default.
        noise: "shared" (ours) or "independent" (the paper's) for the two sides.
        drop: Flags (see `pair_flags`) whose rows are left out; `()` keeps all rows, flagged.
        seed: Of the run; each row's seed follows from it and the row's id.
        batch_size: Instructions per batch, so twice as many rows.
        show_progress: Whether to show a progress bar.

    Returns:
        Columns `prompt`, `chosen`, `rejected` as TRL expects them (message lists; strings for a base model without
        a chat template), and the provenance: `id`, `criterion`, `strength_chosen`, `strength_rejected`,
        `directions_sha256`, `noise`, `seed`, `flags`, and token counts and finish reason of both answers.

    Raises:
        ValueError: For an empty set, an unknown criterion, or directions of another model or chat template.
    """
    directions.check_model(directions.config.hidden_size, directions.config.num_layers, tokenizer)
    rows = _rows(instructions, criterion, directions)
    ranges = {name: _strengths(name, directions, strengths) for name in {row["criterion"] for row in rows}}
    steerings: list[list[RowSteering | None]] = [
        [{row["criterion"]: ranges[row["criterion"]][side]} for row in rows] for side in (0, 1)
    ]
    seeds = [[row_seed(seed, row["id"]) for row in rows] for _ in range(2)]
    if noise == "independent":
        seeds[1] = [row_seed(seed, f"{row['id']}/rejected") for row in rows]
    with tqdm(total=2 * len(rows), desc="pairs", disable=not show_progress) as bar:
        sides = generate_variants(
            model,
            [encode_prompt(tokenizer, row["prompt"]) for row in rows],
            steerings,
            sampling=sampling or Sampling(),
            seeds=seeds,
            pad=pad_token_id(tokenizer),
            directions=directions,
            batch_size=batch_size,
            progress=bar.update,
        )
    chat = tokenizer.chat_template is not None
    pairs = [
        {
            **_texts(row["prompt"], [decode_answer(tokenizer, side.ids) for side in both], chat),
            "id": row["id"],
            "criterion": row["criterion"],
            "strength_chosen": ranges[row["criterion"]][0],
            "strength_rejected": ranges[row["criterion"]][1],
            "directions_sha256": directions.sha256,
            "noise": noise,
            "seed": row_seed(seed, row["id"]),
            "flags": pair_flags(*both),
            "tokens_chosen": len(both[0].ids),
            "tokens_rejected": len(both[1].ids),
            "finish_chosen": both[0].finish_reason,
            "finish_rejected": both[1].finish_reason,
        }
        for row, both in zip(rows, zip(*sides, strict=True), strict=True)
    ]
    kept = [pair for pair in pairs if not set(pair["flags"]) & set(drop)]
    return pair_dataset(kept, chat)


def pair_dataset(rows: Sequence[Row], chat: bool) -> Dataset:
    """Preference rows as a typed dataset, also where there are none."""
    features = pair_features(chat)
    return Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features=features)


def pair_features(chat: bool = True) -> Features:
    """Types of a preference row; `chat` says whether texts are message lists or strings."""
    text = List({"role": Value("string"), "content": Value("string")}) if chat else Value("string")
    return Features(
        {
            "prompt": text,
            "chosen": text,
            "rejected": text,
            "id": Value("string"),
            "criterion": Value("string"),
            "strength_chosen": Value("float64"),
            "strength_rejected": Value("float64"),
            "directions_sha256": Value("string"),
            "noise": Value("string"),
            "seed": Value("int64"),
            "flags": List(Value("string")),
            "tokens_chosen": Value("int64"),
            "tokens_rejected": Value("int64"),
            "finish_chosen": Value("string"),
            "finish_rejected": Value("string"),
        }
    )


def _rows(
    instructions: Dataset | Sequence[Instruction], criterion: str | None, directions: DirectionVectors
) -> list[Row]:
    """Prompt, id and criterion of every instruction, checked."""
    refuse_one_text(instructions)
    rows: list[Row] = (
        [dict(row) for row in instructions]
        if isinstance(instructions, Dataset)
        else [{"prompt": instruction} for instruction in instructions]
    )
    if not rows:
        raise ValueError(
            "there are no instructions to answer; synthesise some, or lower the filter's threshold"
        )
    if "prompt" not in rows[0]:
        raise ValueError(f"instructions need a column `prompt`, got {sorted(rows[0])}")
    result = []
    for index, row in enumerate(rows):
        name = row.get("criterion") or criterion
        if name not in directions.names:
            raise ValueError(
                f"row {index} is to be steered by criterion {name!r}; these directions have "
                f"{', '.join(directions.names)}. Give the rows a column `criterion`, or pass criterion=..."
            )
        result.append({"prompt": row["prompt"], "id": str(row.get("id", index)), "criterion": name})
    return result


def _strengths(
    name: str, directions: DirectionVectors, given: Mapping[str, StrengthRange] | None
) -> tuple[float, float]:
    """Strength of the chosen and of the rejected side."""
    for source in (given or {}, directions.config.strengths):
        if name in source and source[name].positive is not None and source[name].negative is not None:
            return float(source[name].positive), float(source[name].negative)  # type: ignore[arg-type]
    return float(PAPER_STRENGTHS.positive), float(PAPER_STRENGTHS.negative)  # type: ignore[arg-type]


def _texts(prompt: Instruction, answers: Sequence[str], chat: bool) -> Row:
    if not chat:
        return {"prompt": prompt, "chosen": answers[0], "rejected": answers[1]}
    chosen, rejected = ([{"role": "assistant", "content": answer}] for answer in answers)
    return {"prompt": as_messages(prompt), "chosen": chosen, "rejected": rejected}
