"""The stages of a run, in order. Each reads what earlier ones left in the folder and returns its figures."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from hf_icon2.directions.extraction import extract_directions
from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.pipeline.evaluation import evaluate_models
from hf_icon2.pipeline.folder import Figures, RunFolder
from hf_icon2.pipeline.instructions import balanced_sample, distinct, pair_sampling, self_written
from hf_icon2.pipeline.subject import Subject, given_rows, read_instructions
from hf_icon2.recipe import Recipe
from hf_icon2.steering.noise import row_seed
from hf_icon2.synthesis.calibration import calibrate_maximum
from hf_icon2.synthesis.checks import summarize_checks
from hf_icon2.synthesis.consistency import filter_instructions, score_consistency
from hf_icon2.synthesis.distribution import consistency_histogram
from hf_icon2.synthesis.flags import DROPPED_FLAGS
from hf_icon2.synthesis.pairs import generate_pairs, pair_dataset
from hf_icon2.synthesis.sieve import SynthesisReport
from hf_icon2.synthesis.tuning import tune

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A folder and the model it aligns."""

    folder: RunFolder
    subject: Subject

    @property
    def recipe(self) -> Recipe:
        """The recipe of the folder."""
        return self.folder.recipe


def extract(run: Run) -> Figures:
    """Measures directions on the given instructions, or on ones the model writes for this purpose."""
    settings, subject = run.recipe.extraction, run.subject
    if settings.instructions:
        found = read_instructions(settings.instructions, settings.column)
        instructions = random.Random(run.recipe.seed).sample(found, min(settings.number, len(found)))
    else:
        instructions = list(self_written(subject, run.recipe, settings.number, "extraction")["prompt"])
    directions = extract_directions(
        subject.model,
        subject.tokenizer,
        instructions,
        run.recipe.criteria,
        pooling=settings.pooling,
        method=settings.method,
        batch_size=settings.batch_size,
    )
    directions.save_pretrained(run.folder.path / "directions")
    return {"instructions": len(instructions), "evidence": directions.config.evidence}


def synthesize(run: Run) -> Figures:
    """Lets the model write its instructions, or takes the given ones; held-out prompts are left out."""
    settings = run.recipe.synthesis
    if settings.instructions:
        found = read_instructions(settings.instructions, settings.column)
        rows = given_rows(found, settings.number, run.recipe.seed, run.subject.excluded)
        run.folder.write_rows("instructions/raw.jsonl", rows)
        return {"raw": len(found), "unique": len(rows), "dropped": {}}
    reports: list[SynthesisReport] = []
    rows = self_written(
        run.subject,
        run.recipe,
        settings.number,
        "instructions",
        turns=settings.turns,
        on_report=reports.append,
    )
    run.folder.write_rows("instructions/raw.jsonl", rows)
    return {"raw": reports[0].raw, "unique": len(rows), "dropped": dict(reports[0].dropped)}


def select(run: Run) -> Figures:
    """Scores consistency, routes every instruction to its criteria and keeps the most consistent."""
    settings, subject = run.recipe.filter, run.subject
    raw = run.folder.read_rows("instructions/raw.jsonl")
    directions = DirectionVectors.from_pretrained(run.folder.path / "directions")
    scored = score_consistency(subject.model, subject.tokenizer, directions, raw, score=settings.score)
    routed = filter_instructions(scored, criteria_per_instruction=settings.criteria_per_instruction)
    counts = Counter(routed["criterion"])
    kept = filter_instructions(
        scored,
        keep={name: max(1, round(settings.keep * count)) for name, count in counts.items()},
        criteria_per_instruction=settings.criteria_per_instruction,
    )
    run.folder.write_rows("instructions/kept.jsonl", kept)
    return {
        "raw": len(raw),
        "kept": len(distinct(kept)),
        "per_criterion": dict(sorted(Counter(kept["criterion"]).items())),
        "histogram": consistency_histogram(scored),
    }


def choose_strengths(run: Run) -> Figures:
    """Tunes control layers and strengths on a small sample, and bounds the strengths by the KL to the plain model."""
    settings, subject = run.recipe.tuning, run.subject
    kept = run.folder.read_rows("instructions/kept.jsonl")
    directions = DirectionVectors.from_pretrained(run.folder.path / "directions")
    sample = balanced_sample(kept, settings.instructions, run.recipe.seed)
    trials: list[Figures] = []
    if subject.reward is not None:
        tuning = tune(
            subject.model,
            subject.tokenizer,
            directions,
            sample,
            subject.reward,
            strengths=settings.strengths,
            samples=settings.samples,
            sampling=pair_sampling(run.recipe),
            seed=row_seed(run.recipe.seed, "tuning"),
        )
        directions = tuning.directions
        trials = [vars(trial) for trial in tuning.trials]
    directions = calibrate_maximum(
        subject.model,
        subject.tokenizer,
        directions,
        distinct(sample)[:32],
        target=settings.max_kl,
    )
    directions.save_pretrained(run.folder.path / "tuned")
    return {
        "strengths": {
            name: {
                "layers": list(directions.config.control_layers[name]),
                **vars(directions.config.strengths[name]),
            }
            for name in directions.names
        },
        "instructions_seen": len(distinct(sample)),
        "trials": trials,
    }


def make_pairs(run: Run) -> Figures:
    """Makes a pair of every kept instruction; each shard of pairs is written before the next begins."""
    settings = run.recipe.pairs
    kept = run.folder.read_rows("instructions/kept.jsonl")
    directions = DirectionVectors.from_pretrained(run.folder.path / "tuned")
    for number, start in enumerate(range(0, len(kept), settings.shard)):
        name = f"pairs/{number:05d}.jsonl"
        if not (run.folder.path / name).is_file():
            shard = kept.select(range(start, min(start + settings.shard, len(kept))))
            run.folder.write_rows(name, _pairs_of(run, directions, shard))
    pairs = read_pairs(run, keep_flagged=True)
    good = read_pairs(run)
    warnings = summarize_checks(pairs).warnings
    for warning in warnings:
        logger.warning("%s", warning)
    if not len(good):
        raise ValueError(
            f"none of {len(pairs)} pairs is usable ({dict(Counter(_flags(pairs)))}); raise the strengths if they are "
            "identical, lower them if the text is broken"
        )
    return {
        "warnings": list(warnings),
        "generated": len(pairs),
        "kept": len(good),
        "flags": dict(sorted(Counter(_flags(pairs)).items())),
        "per_criterion": {
            name: _pair_figures(run, good.filter(lambda row, name=name: row["criterion"] == name))
            for name in directions.names
        },
        "decisive_right": _pair_figures(run, good)["decisive_right"],
    }


def train(run: Run) -> Figures:
    """DPO on the kept pairs; takes up the last checkpoint if there is one."""
    from hf_icon2.pipeline.training import train_dpo

    return train_dpo(run.subject.recipe, run.subject, read_pairs(run), run.folder.path)


def evaluate(run: Run) -> Figures:
    """Answers the held-out prompts before and after, and, for the toy, under the positive system prompt."""
    figures, rows = evaluate_models(run.subject, run.folder.path / "model")
    run.folder.write_rows("evaluation.jsonl", rows)
    return figures


STAGES: dict[str, Callable[[Run], Figures]] = {
    "extract": extract,
    "synthesize": synthesize,
    "filter": select,
    "tune": choose_strengths,
    "pairs": make_pairs,
    "train": train,
    "evaluate": evaluate,
}
"""Name on the command line -> stage, in order."""


def read_pairs(run: Run, *, keep_flagged: bool = False) -> Dataset:
    """The run's pairs, all of them or only those the self-check found usable."""
    rows: list[Any] = []
    for path in sorted((run.folder.path / "pairs").glob("*.jsonl")):
        rows += list(run.folder.read_rows(f"pairs/{path.name}"))
    usable = [row for row in rows if keep_flagged or not set(row["flags"]) & set(DROPPED_FLAGS)]
    return pair_dataset(usable, run.subject.tokenizer.chat_template is not None)


def _pairs_of(run: Run, directions: DirectionVectors, instructions: Dataset) -> Dataset:
    """All pairs of some instructions, flagged; `per_instruction` draws each."""
    settings = run.recipe.pairs
    draws = Dataset.from_list(
        [
            {**row, "id": f"{row['id']}/{draw}"}
            for row in instructions.select_columns(["prompt", "id", "criterion"])
            for draw in range(settings.per_instruction)
        ]
    )
    return generate_pairs(
        run.subject.model,
        run.subject.tokenizer,
        directions,
        draws,
        sampling=pair_sampling(run.recipe),
        strategy=settings.strategy,
        samples=settings.samples,
        noise=None if settings.noise == "shared" else settings.noise,  # the default contradicts no strategy
        reward=run.subject.reward,
        judge=run.subject.judge,
        refine=run.subject.refinement,
        drop=(),
        seed=run.recipe.seed,
        batch_size=settings.batch_size,
    )


def _flags(pairs: Dataset) -> list[str]:
    return [flag for flags in pairs["flags"] for flag in flags]


def _pair_figures(run: Run, pairs: Dataset) -> Figures:
    """Number of pairs and, where there is a truth, how many are decisive and how many of those right."""
    figures: Figures = {"kept": len(pairs), "decisive": None, "decisive_right": None}
    if run.subject.is_toy:
        rewards = [_graded(run, pairs, side) for side in ("chosen", "rejected")]
        gaps = [better - worse for better, worse in zip(*rewards, strict=True) if better != worse]
        figures["decisive"] = len(gaps)
        figures["decisive_right"] = round(sum(gap > 0 for gap in gaps) / len(gaps), 4) if gaps else None
    return figures


def _graded(run: Run, pairs: Dataset, side: str) -> Sequence[float]:
    prompts = [row[-1]["content"] for row in pairs["prompt"]]
    return run.subject.reward(prompts, [row[0]["content"] for row in pairs[side]])  # type: ignore[misc]
