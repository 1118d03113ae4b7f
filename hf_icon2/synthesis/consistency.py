"""Which criterion an instruction is about, and how clearly: consistency scores, routing and filtering.

The score says where in the model's own preference space an instruction lies; no label and no judge is
involved.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from datasets import Dataset, Value
from torch import Tensor
from tqdm.auto import tqdm

from hf_icon2.blocks import find_blocks
from hf_icon2.directions.extraction import last_token_states
from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.prompts import Instruction, as_messages, default_system_prompt, refuse_one_text
from hf_icon2.synthesis.distribution import routing_shares, score_ranges, scored_criteria
from hf_icon2.synthesis.instructions import instruction_id

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

Score = Literal["cosine", "dot", "standardized"]
_CHUNK = 512  # instructions whose states of all layers are held at once
_ONE_SIDED = 0.95  # share routed to one criterion that calls for a warning ...
_FEW = 20  # ... among at least so many instructions


def score_consistency(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    directions: DirectionVectors,
    instructions: Dataset | Sequence[Instruction],
    *,
    score: Score = "cosine",
    layers: Sequence[int] | None = None,
    criteria: Sequence[str] | None = None,
    batch_size: int = 32,
    show_progress: bool = True,
) -> Dataset:
    """Scores how well each instruction fits each criterion, and names the best one (Icon², Eq. 2 and 3).

    h is the instruction's state at the last token of the generation prompt, without a system prompt; u the
    unit direction, whatever the stored scale. `dot` is the paper's mean over layers of h . u, which deep layers
    dominate because their norms are larger; `cosine`, the default, divides by |h| per layer. In both, a criterion
    may score higher than the others whatever the instruction, and then takes nearly all of them: a warning in the
    log says so, and `standardized` removes such offsets.

    Args:
        model: The model the directions were measured on.
        tokenizer: Its tokenizer.
        directions: Directions of the criteria.
        instructions: Texts, conversations that end with a user turn, or a dataset with such a `prompt`
            column.
        score: "cosine", "dot", or "standardized" (`dot` as z-scores over these instructions, per criterion).
        layers: Layers that count; all that have a direction by default.
        criteria: Names of the criteria that compete, for example without the general one; all by default.
        batch_size: Rows per forward pass.
        show_progress: Whether to show a progress bar.

    Returns:
        The given rows with `consistency` (score per competing criterion), `criterion` (the best), `score`
        (its score); `id` is added where it is missing.

    Raises:
        ValueError: For no instructions, a missing column, an unknown criterion, layer or score, directions of
            another model or chat template, or states that are not finite.
    """
    if score not in get_args(Score):
        raise ValueError(f"score is {score!r}; allowed: {', '.join(get_args(Score))}")
    rows = _as_dataset(instructions)
    if score == "standardized" and len(rows) < 2:
        raise ValueError("standardized scores compare instructions, and only 1 was given; use score='cosine'")
    chosen = directions if criteria is None else directions.select(criteria)
    blocks = find_blocks(model)
    chosen.check_model(blocks.hidden_size, len(blocks.layers), tokenizer)
    units, used = _units(chosen, layers)
    if tokenizer.chat_template is not None and (injected := default_system_prompt(tokenizer)):
        logger.warning("the chat template injects a system prompt; states are read under it: %r", injected)
    prompts: list[Instruction] = list(rows["prompt"])
    values = np.zeros((len(prompts), len(chosen.names)))
    with tqdm(total=len(prompts), desc="consistency", disable=not show_progress) as bar:
        for chunk in _chunks(prompts):
            texts = [prompts[index] for index in chunk]
            states = last_token_states(
                model, tokenizer, texts, layers=used, batch_size=batch_size, progress=bar.update
            )
            values[chunk] = project(states, units, normalize=score == "cosine").double().numpy()
    _check_finite(values)
    if score == "standardized":
        values = (values - values.mean(0)) / values.std(0).clip(min=1e-12)
    scored = _with_scores(rows, chosen.names, values)
    _warn_of_one_sided_routing(scored, score)
    return scored


def project(states: Tensor, units: Tensor, *, normalize: bool) -> Tensor:
    """Mean over layers of h . u, or of the cosine between them (Icon², Eq. 2).

    Args:
        states: h, (N, L, D) float32, in units of the residual stream.
        units: u, directions of norm 1, (C, L, D).
        normalize: Whether to divide by |h| at each layer.

    Returns:
        (N, C); between -1 and 1 if normalized.
    """
    if normalize:
        states = torch.nn.functional.normalize(states, dim=-1)
    return torch.einsum("nld,cld->nc", states, units) / units.shape[1]


def filter_instructions(
    scored: Dataset,
    *,
    keep: int | Mapping[str, int] | None = None,
    threshold: float | Mapping[str, float] | None = None,
    criteria_per_instruction: int = 1,
) -> Dataset:
    """Keeps the instructions that fit a criterion best, and says which criterion each one serves.

    Args:
        scored: Rows of `score_consistency`.
        keep: At most so many per criterion, best first (equal scores by id). As a mapping, criteria that it
            does not name keep nothing.
        threshold: Lowest score to keep, the paper's theta; as a mapping, as for `keep`. Both may be given;
            with neither, rows are only routed.
        criteria_per_instruction: How many criteria one instruction may serve, best first. A further criterion
            is a row of its own, with that criterion and score, and `id` extended by its name.

    Returns:
        Rows in the given order, those of one instruction together.

    Raises:
        ValueError: For no rows, missing columns, an unknown criterion, or if nothing would be kept.
    """
    names = scored_criteria(scored)
    if not 1 <= criteria_per_instruction <= len(names):
        raise ValueError(
            f"criteria_per_instruction must be 1 to {len(names)} (these were scored: {', '.join(names)}), "
            f"got {criteria_per_instruction}"
        )
    limits, floors = _per_criterion("keep", keep, names), _per_criterion("threshold", threshold, names)
    by_criterion: dict[str, list[_Candidate]] = {name: [] for name in names}
    for candidate in _candidates(scored, criteria_per_instruction):
        if candidate[3] >= floors.get(candidate[2], -np.inf if threshold is None else np.inf):
            by_criterion[candidate[2]].append(candidate)
    for name, found in by_criterion.items():
        found.sort(key=lambda item: (-item[3], item[4]))
        if keep is not None:
            del found[int(limits.get(name, 0)) :]
    kept = sorted(candidate for found in by_criterion.values() for candidate in found)
    if not kept:
        raise ValueError(
            f"keep={keep} and threshold={threshold} leave none of {len(scored)} instructions; their scores "
            f"are {score_ranges(scored)}; lower the threshold or keep more"
        )
    columns = scored.select([candidate[0] for candidate in kept])[:]
    for column, place in (("id", 4), ("criterion", 2), ("score", 3)):
        columns[column] = [candidate[place] for candidate in kept]
    return Dataset.from_dict(columns, features=scored.features)


_Candidate = tuple[int, int, str, float, str]
"""Row, rank of the criterion for that row, criterion, score, id."""


def _candidates(scored: Dataset, ranks: int) -> Iterator[_Candidate]:
    for row, (name, values) in enumerate(zip(scored["id"], scored["consistency"], strict=True)):
        best = sorted(values, key=lambda criterion: -values[criterion])[
            :ranks
        ]  # stable: ties keep their order
        for rank, criterion in enumerate(best):
            yield row, rank, criterion, values[criterion], name if rank == 0 else f"{name}:{criterion}"


def _units(directions: DirectionVectors, layers: Sequence[int] | None) -> tuple[Tensor, list[int]]:
    """Unit directions at the layers that count, (C, L, D), and these layers, ascending."""
    have = directions.config.layers
    used = list(have) if layers is None else sorted(set(layers))
    if not used or not set(used) <= set(have):
        raise ValueError(f"layers {layers} are not all in these directions; available: {have}")
    return directions.unit()[:, [have.index(layer) for layer in used]], used


def _chunks(prompts: Sequence[Instruction]) -> Iterator[list[int]]:
    """Indices in order of text length, so that few batches mix short and long prompts."""
    order = sorted(range(len(prompts)), key=lambda index: len(str(prompts[index])))
    for start in range(0, len(order), _CHUNK):
        yield order[start : start + _CHUNK]


def _as_dataset(instructions: Dataset | Sequence[Instruction]) -> Dataset:
    """The instructions as rows with `prompt` and `id`; refuses an empty set and a dataset without prompts."""
    refuse_one_text(instructions)
    if len(instructions) == 0:
        raise ValueError("there are no instructions to score; synthesize some, or pass your own")
    if not isinstance(instructions, Dataset):
        mixed = any(not isinstance(instruction, str) for instruction in instructions)
        prompts = [as_messages(item) if mixed else item for item in instructions]
        instructions = Dataset.from_dict({"prompt": prompts})
    if "prompt" not in instructions.column_names:
        raise ValueError(
            f"instructions need a column 'prompt', this dataset has: {', '.join(instructions.column_names)}; "
            "rename the column with the instruction's text, dataset.rename_column(..., 'prompt')"
        )
    if "id" not in instructions.column_names:
        instructions = instructions.add_column(
            "id", [instruction_id(item) for item in instructions["prompt"]]
        )
    return instructions


def _check_finite(values: np.ndarray) -> None:
    bad = int((~np.isfinite(values)).any(1).sum())
    if bad:
        raise ValueError(
            f"the model's states of {bad} of {len(values)} instructions are not finite; load it in float32 "
            "or bfloat16"
        )


def _warn_of_one_sided_routing(scored: Dataset, score: Score) -> None:
    shares = routing_shares(scored)
    name, share = max(shares.items(), key=lambda item: item[1])
    if len(shares) > 1 and len(scored) >= _FEW and share > _ONE_SIDED:
        logger.warning(
            "%.0f%% of the instructions are routed to %r by score=%r: its scores are higher throughout, whatever the "
            "instruction. score='standardized' compares each criterion with its own mean; fewer layers may do as well",
            100 * share,
            name,
            score,
        )


def _with_scores(rows: Dataset, names: Sequence[str], values: np.ndarray) -> Dataset:
    """The rows with their scores; earlier scores are replaced."""
    best = values.argmax(1)
    old = [name for name in ("consistency", "criterion", "score") if name in rows.column_names]
    struct = {name: Value("float64") for name in names}
    scores = [dict(zip(names, row, strict=True)) for row in values.tolist()]
    result = rows.remove_columns(old).add_column("consistency", scores, feature=struct)
    result = result.add_column("criterion", [names[index] for index in best])
    return result.add_column("score", values.max(1).tolist())


def _per_criterion(
    what: str, value: float | Mapping[str, float] | None, names: Sequence[str]
) -> Mapping[str, float]:
    """The value for each criterion it holds for."""
    if not isinstance(value, Mapping):
        return {} if value is None else dict.fromkeys(names, value)
    if unknown := set(value) - set(names):
        raise ValueError(f"{what} names unknown criteria {sorted(unknown)}; scored were: {', '.join(names)}")
    return value
