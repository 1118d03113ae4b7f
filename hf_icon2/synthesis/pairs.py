"""Preference pairs without labels: one call for every way to make them, and the rows it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from datasets import Dataset, Features, List, Value
from tqdm.auto import tqdm

from hf_icon2.criteria import Criterion
from hf_icon2.directions.config import StrengthRange
from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.judges.ranking import Ranker
from hf_icon2.prompts import Instruction, as_messages, refuse_one_text
from hf_icon2.steering.decoding import Sampling
from hf_icon2.steering.noise import row_seed
from hf_icon2.synthesis.flags import FLAGS, UNDECIDED, pair_flags
from hf_icon2.synthesis.strategies.choosing import (
    Means,
    StrategyName,
    check_name,
    choose_strategy,
    criteria_by_name,
)
from hf_icon2.synthesis.strategies.drafting import Draft, PairRow, Writer
from hf_icon2.synthesis.strategies.refined import Refinement
from hf_icon2.synthesis.strategies.spending import draft_within
from hf_icon2.synthesis.strategies.steered import Noise
from hf_icon2.synthesis.tuning import Reward

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Row = dict[str, Any]


def generate_pairs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    directions: DirectionVectors | None,
    instructions: Dataset | Sequence[Instruction],
    *,
    strategy: StrategyName = "icon2",
    criterion: str | None = None,
    criteria: Sequence[Criterion] | None = None,
    strengths: Mapping[str, StrengthRange] | None = None,
    reward: Reward | Ranker | None = None,
    judge: Ranker | Reward | None = None,
    refine: Refinement | None = None,
    samples: int | None = None,
    token_budget: int | None = None,
    sampling: Sampling | None = None,
    noise: Noise | None = None,
    drop: Sequence[str] = ("identical", "undecided"),
    seed: int = 0,
    batch_size: int = 32,
    show_progress: bool = True,
) -> Dataset:
    """Answers every instruction twice or more by the model itself, and keeps a better and a worse answer of each.

    The strategies:

    - `icon2`: both answers from one prefill, under + and - steering (Icon², Eq. 4, Algorithm 3). They share their
      sampling noise, so that they differ only where steering matters; that is an addition to the paper.
    - `icon2-independent`: the paper's sampling, each answer with noise of its own.
    - `direct-prompting`: under the criterion's positive and negative system prompt, as in RLCD.
    - `sampling-ranking`: the best and the worst of `samples` answers by `reward`.
    - `self-rewarding`: the same by the model's own judgement of all pairs, in both orders; or by `judge`.
    - `self-refine`: chosen is the first of `samples` answers, revised after the model's own critique; rejected is a
      random one of them.

    Args:
        model: Causal LM, or a PEFT model around one.
        tokenizer: Its tokenizer.
        directions: Measured on this model; None where nothing is steered.
        instructions: Rows of `filter_instructions` (`prompt`, `criterion`, `id`), or plain instructions.
        strategy: How the two answers come about, one of `STRATEGIES`.
        criterion: What a pair is about where the rows do not say. Strategies without steering or system prompts need
            none.
        criteria: System prompts of `direct-prompting`; those of the directions, else `DEFAULT_CRITERIA`.
        strengths: Per criterion; those recommended by the directions, else the paper's +0.1 and -0.05.
        reward: Of `sampling-ranking`: a function of (prompts, answers), or a judge.
        judge: Of `self-rewarding`: whatever ranks answers, in the place of the model itself.
        refine: Of `self-refine`: how critique and revision are asked for.
        samples: Answers per instruction where several are drawn; by default 5, and 3 for `self-refine`, as in the
            paper.
        token_budget: Most tokens generated in all, thrown-away answers and critiques included: instructions are
            answered in order as long as the sum fits. Questions to a judge are read, not generated, and are free.
        sampling: How tokens are chosen; temperature 1 and up to 256 tokens by default.
        noise: Follows from the strategy; "independent" with `icon2` is `icon2-independent`.
        drop: Flags (see `FLAGS`) whose rows are left out; `()` keeps all rows, flagged.
        seed: Of the run; each row's seed follows from it and the row's id.
        batch_size: Instructions per batch, so twice as many rows or more.
        show_progress: Whether to show a progress bar.

    Returns:
        Columns `prompt`, `chosen`, `rejected` as TRL expects them (message lists; strings for a base model without
        a chat template), and the provenance: `id`, `criterion`, `strategy`, `strength_chosen`, `strength_rejected`,
        `directions_sha256`, `noise`, `seed`, `flags`, token counts and finish reason of both answers,
        `tokens_generated` (for the pair in all, end tokens not counted), `reward_chosen`, `reward_rejected` (rewards,
        or a judge's scores) and `questions_asked` (of a judge, about all samples). What a strategy has no use for is
        null.

    Raises:
        TypeError: For one text in the place of many, or a reward or judge that is none.
        ValueError: For an unknown strategy, an empty set, an unknown criterion, directions of another model or chat
            template, what a strategy needs and was not given, or rewards that are no finite numbers.
    """
    name = check_name(strategy, noise)
    if isinstance(drop, str) or not set(drop) <= set(FLAGS):
        raise ValueError(f"drop={drop!r} is no list of flags; allowed: any of {', '.join(FLAGS)}")
    if token_budget is not None and token_budget < 1:
        raise ValueError(f"token_budget must be at least 1 token, or None for no bound, got {token_budget}")
    bar = (
        "judging" if show_progress and token_budget is None else None
    )  # within a budget there would be one per batch
    means = Means(directions, criteria, strengths, reward, judge, refine, samples, bar)
    rows = _rows(instructions, criterion, criteria_by_name(name, means), seed)
    maker = choose_strategy(name, model, tokenizer, means)
    with tqdm(total=maker.texts_per_row * len(rows), desc="pairs", disable=not show_progress) as written:
        writer = Writer(model, tokenizer, sampling or Sampling(), batch_size, written.update)
        drafts = draft_within(maker, writer, rows, token_budget)
    pairs = [_pair(writer, name, row, draft) for row, draft in zip(rows[: len(drafts)], drafts, strict=True)]
    kept = [pair for pair in pairs if not set(pair["flags"]) & set(drop)]
    return pair_dataset(kept, tokenizer.chat_template is not None)


def pair_dataset(rows: Sequence[Row], chat: bool) -> Dataset:
    """Preference rows as a typed dataset, also where there are none; columns that a row lacks are null."""
    features = pair_features(chat)
    return Dataset.from_dict({name: [row.get(name) for row in rows] for name in features}, features=features)


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
            "strategy": Value("string"),
            "strength_chosen": Value("float64"),
            "strength_rejected": Value("float64"),
            "directions_sha256": Value("string"),
            "noise": Value("string"),
            "seed": Value("int64"),
            "flags": List(Value("string")),
            "tokens_chosen": Value("int64"),
            "tokens_rejected": Value("int64"),
            "tokens_generated": Value("int64"),
            "finish_chosen": Value("string"),
            "finish_rejected": Value("string"),
            "reward_chosen": Value("float64"),
            "reward_rejected": Value("float64"),
            "questions_asked": Value("int64"),
        }
    )


def _rows(
    instructions: Dataset | Sequence[Instruction],
    criterion: str | None,
    known: Mapping[str, Criterion] | None,
    seed: int,
) -> list[PairRow]:
    """Every instruction with its criterion and seeds, checked."""
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
        if known is not None and name not in known:
            raise ValueError(
                f"row {index} is to be about criterion {name!r}; known are {', '.join(known)}. Give the rows a column "
                "`criterion`, or pass criterion=..."
            )
        own = str(index if row.get("id") is None else row["id"])
        seeds = row_seed(seed, own), row_seed(seed, f"{own}/rejected")
        result.append(PairRow(row["prompt"], own, name, *seeds))
    return result


def _pair(writer: Writer, strategy: str, row: PairRow, draft: Draft) -> Row:
    """The columns of a pair; those of other strategies are left to `pair_dataset`."""
    both = draft.chosen, draft.rejected
    return {
        **_texts(
            row.prompt, [writer.text(side) for side in both], writer.tokenizer.chat_template is not None
        ),
        **draft.columns,
        "id": row.id,
        "criterion": row.criterion,
        "strategy": strategy,
        "seed": row.seed,
        "flags": [*pair_flags(*both), *([UNDECIDED] if draft.undecided else [])],
        "tokens_chosen": len(draft.chosen.ids),
        "tokens_rejected": len(draft.rejected.ids),
        "tokens_generated": draft.tokens,
        "finish_chosen": draft.chosen.finish_reason,
        "finish_rejected": draft.rejected.finish_reason,
    }


def _texts(prompt: Instruction, answers: Sequence[str], chat: bool) -> Row:
    if not chat:
        return {"prompt": prompt, "chosen": answers[0], "rejected": answers[1]}
    chosen, rejected = ([{"role": "assistant", "content": answer}] for answer in answers)
    return {"prompt": as_messages(prompt), "chosen": chosen, "rejected": rejected}
