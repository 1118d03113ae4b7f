"""A strategy by its name, from what the caller gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from hf_icon2.criteria import DEFAULT_CRITERIA, Criterion, named
from hf_icon2.directions.config import StrengthRange
from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.judges.pairwise import PairwiseJudge
from hf_icon2.judges.ranking import Ranker
from hf_icon2.synthesis.strategies.drafting import Strategy
from hf_icon2.synthesis.strategies.prompted import Prompted
from hf_icon2.synthesis.strategies.ranked import Ranked, questions_of, scorer_of
from hf_icon2.synthesis.strategies.refined import Refined, Refinement
from hf_icon2.synthesis.strategies.steered import Noise, Steered
from hf_icon2.synthesis.tuning import Reward

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

StrategyName = Literal[
    "icon2", "icon2-independent", "direct-prompting", "sampling-ranking", "self-rewarding", "self-refine"
]
STRATEGIES: tuple[StrategyName, ...] = get_args(StrategyName)
"""Names of the ways to make a pair; docs/pairs.md compares them."""

_NOISES: dict[StrategyName, Noise] = {"icon2": "shared", "icon2-independent": "independent"}


@dataclass(frozen=True)
class Means:
    """What the caller gave for strategies to work with; each takes what it needs. See `generate_pairs`."""

    directions: DirectionVectors | None = None
    criteria: Sequence[Criterion] | None = None
    strengths: Mapping[str, StrengthRange] | None = None
    reward: Reward | Ranker | None = None
    judge: Ranker | Reward | None = None
    refine: Refinement | None = None
    samples: int | None = None
    judging_bar: str | None = None
    """Name of the progress bar while a judge is asked; None shows none."""


def check_name(name: str, noise: str | None) -> StrategyName:
    """The strategy's name. With `icon2`, independent noise is the name `icon2-independent`.

    Raises:
        ValueError: For an unknown name, or noise that contradicts it.
    """
    if name not in STRATEGIES:
        raise ValueError(f"strategy={name!r} is unknown; allowed: {', '.join(STRATEGIES)}")
    if noise is None or noise == _NOISES.get(name):
        return name
    if name == "icon2" and noise == "independent":
        return "icon2-independent"
    own = f"has {_NOISES[name]} noise" if name in _NOISES else "draws every answer by itself"
    raise ValueError(
        f"noise={noise!r} contradicts strategy={name!r}, which {own}; leave noise out, or choose 'icon2' (shared) or "
        "'icon2-independent'"
    )


def criteria_by_name(name: StrategyName, means: Means) -> dict[str, Criterion] | None:
    """The criteria that a pair can be about; None if the strategy needs to know none.

    Raises:
        ValueError: If it steers, and there are no directions.
    """
    if name in _NOISES:
        if means.directions is None:
            raise ValueError(
                f"strategy={name!r} steers, so it needs directions; pass those of extract_directions, or choose "
                f"another strategy: {', '.join(other for other in STRATEGIES if other not in _NOISES)}"
            )
        return named(means.directions.config.criteria)
    if name != "direct-prompting":
        return None
    own = means.directions.config.criteria if means.directions is not None else DEFAULT_CRITERIA
    return named(own if means.criteria is None else means.criteria)


def choose_strategy(
    name: StrategyName, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, means: Means
) -> Strategy:
    """The strategy of that name.

    Raises:
        TypeError: For a reward or judge that is none.
        ValueError: If it lacks something, or directions are another model's.
    """
    if name in _NOISES and means.directions is not None:
        config = means.directions.config
        means.directions.check_model(config.hidden_size, config.num_layers, tokenizer)
        return Steered(means.directions, means.strengths or {}, _NOISES[name])
    if name == "direct-prompting":
        return Prompted(criteria_by_name(name, means) or {})
    if name == "self-refine":
        return _refined(tokenizer, means)
    return _ranked(name, model, tokenizer, means)


def _ranked(
    name: StrategyName, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, means: Means
) -> Ranked:
    samples = _samples(name, means.samples, default=5, least=2)
    if name == "sampling-ranking":
        if means.reward is None:
            raise ValueError(
                "strategy='sampling-ranking' needs reward=..., a function of (prompts, answers) or a judge; without "
                "one, 'self-rewarding' lets the model itself judge"
            )
        return Ranked(
            samples, scorer_of(means.reward, "reward", means.judging_bar), questions_of(means.reward)
        )
    judge = PairwiseJudge.from_model(model, tokenizer) if means.judge is None else means.judge
    return Ranked(samples, scorer_of(judge, "judge", means.judging_bar), questions_of(judge))


def _refined(tokenizer: PreTrainedTokenizerBase, means: Means) -> Refined:
    if means.refine is None and tokenizer.chat_template is None:
        raise ValueError(
            "this tokenizer has no chat template, so 'self-refine' cannot ask in turns; pass refine=Refinement(...) "
            "with functions that return one text, or set tokenizer.chat_template"
        )
    return Refined(_samples("self-refine", means.samples, default=3, least=1), means.refine or Refinement())


def _samples(name: StrategyName, given: int | None, *, default: int, least: int) -> int:
    if given is not None and given < least:
        raise ValueError(f"strategy={name!r} needs samples={least} or more, got {given}")
    return default if given is None else given
