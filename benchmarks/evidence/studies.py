"""What needs no training: how stable directions are, what layers and strengths do, how scores route instructions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evidence import lab
from evidence.cells import Cell, Figures
from evidence.preparation import home
from hf_icon2 import extract_directions
from hf_icon2.criteria import DEFAULT_CRITERIA
from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.prompts import decode_answer, encode_prompt, pad_token_id
from hf_icon2.steering.decoding import generate_variants
from hf_icon2.steering.noise import row_seed
from hf_icon2.synthesis.calibration import unlimited
from hf_icon2.synthesis.consistency import score_consistency
from hf_icon2.synthesis.flags import degenerate
from hf_icon2.toy import parse_instruction

NUMBERS = (16, 32, 64, 128, 256, 512)
GAMMAS = (0.01, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
WINDOWS = ((0, 1), (1, 2), (2, 3), (3, 4), (4, 5))
WINDOW_GAMMAS = (0.05, 0.1, 0.2, 0.4)
SAMPLE_SIZES = (25, 50, 100, 200)
SCORES = ("dot", "cosine", "standardized")
STUDIED = 200


def cells(seed: int) -> list[Cell]:
    needs = (f"prepared/seed {seed}",)
    return [
        Cell(f"stability/seed {seed}", stability, (seed,)),
        Cell(f"strengths/seed {seed}", strengths, (seed,), needs),
        Cell(f"layers/seed {seed}", layers, (seed,), needs),
        Cell(f"routing/seed {seed}", routing, (seed,), needs),
    ]


def stability(folder: Path, seed: int) -> Figures:
    """Cosines with the directions of all 800 training instructions, by number and source of the instructions."""
    model, tokenizer = lab.assistant()
    given = lab.raw_instructions(model, tokenizer, "given", seed, number=800)
    reference = lab.measured_directions(model, tokenizer, given)
    tried = {f"{number} given": given[:number] for number in NUMBERS}
    tried["256 self-written"] = lab.self_written(model, tokenizer, 256, row_seed(seed, "extraction"))
    tried["256 facts only"] = lab.raw_instructions(model, tokenizer, "facts only", seed, number=256)
    found = {
        name: _cosines(lab.measured_directions(model, tokenizer, prompts), reference)
        for name, prompts in tried.items()
    }
    centred = extract_directions(
        model, tokenizer, given, DEFAULT_CRITERIA, method="centred_pca", show_progress=False
    )
    return {"cosines": found | {"800 given, centred PCA": _cosines(centred, reference)}}


def _cosines(one: DirectionVectors, other: DirectionVectors) -> dict[str, list[float]]:
    """Per criterion, the cosine at each layer; the sign of a centred PCA is chance, so it does not count."""
    return {
        name: [abs(value) for _, value in sorted(layers.items())]
        for name, layers in one.cosine(other).items()
    }


def strengths(folder: Path, seed: int) -> Figures:
    """Reward by strength at each criterion's own layers, and what a smaller sample would have chosen."""
    bench = Bench(folder, seed)
    found = {}
    for name in bench.directions.names:
        rewards, broken = bench.rewards(name, bench.layers(name), [*GAMMAS, *(-g for g in GAMMAS)])
        positive, negative = rewards[: len(GAMMAS)], rewards[len(GAMMAS) :]
        found[name] = {
            "layers": list(bench.layers(name)),
            "instructions": rewards.shape[1],
            "positive": positive.mean(1).tolist(),
            "negative": negative.mean(1).tolist(),
            "right": [_right(positive[positive.mean(1).argmax()], row) for row in negative],
            "broken": broken,
            "unsteered": float(bench.rewards(name, bench.layers(name), [0.0])[0].mean()),
            "sub-samples": _subsamples(positive, seed),
        }
    return {"gammas": list(GAMMAS), "criteria": found}


def _right(positive: np.ndarray, negative: np.ndarray) -> dict[str, float | None]:
    """How often the chosen side's reward is the higher one: among all, and among those that differ."""
    differ = positive != negative
    better = positive > negative
    return {
        "of all": float(better.mean()),
        "of decisive": float(better[differ].mean()) if differ.any() else None,
    }


def _subsamples(rewards: np.ndarray, seed: int, times: int = 1000) -> dict[str, dict[str, float]]:
    """Of random samples of n instructions: spread of the best strength's mean reward, and regret of the choice."""
    draw = np.random.default_rng(seed)
    means = rewards.mean(1)
    best = means.argmax()
    found = {}
    for size in SAMPLE_SIZES:
        if size >= rewards.shape[1]:
            continue
        picks = np.stack([draw.choice(rewards.shape[1], size) for _ in range(times)])
        sampled = rewards[:, picks].mean(-1)  # (strengths, times)
        found[str(size)] = {
            "std": float(sampled[best].std()),
            "regret": float((means[best] - means[sampled.argmax(0)]).mean()),
        }
    return found


def layers(folder: Path, seed: int) -> Figures:
    """Gap between the rewards of both signs, by window of layers and strength."""
    bench = Bench(folder, seed)
    found: dict[str, list[Figures]] = {name: [] for name in bench.directions.names}
    for name in found:
        for window in WINDOWS:
            signed = [*WINDOW_GAMMAS, *(-g for g in WINDOW_GAMMAS)]
            rewards, broken = bench.rewards(name, window, signed, number=100)
            half = len(WINDOW_GAMMAS)
            for place, gamma in enumerate(WINDOW_GAMMAS):
                plus, minus = rewards[place], rewards[half + place]
                found[name].append(
                    {
                        "layers": list(window),
                        "strength": gamma,
                        "positive": float(plus.mean()),
                        "negative": float(minus.mean()),
                        "broken": max(broken[place], broken[half + place]),
                        "right": _right(plus, minus),
                    }
                )
    return {"criteria": found}


def routing(folder: Path, seed: int) -> Figures:
    """Which criterion gets which kind of instruction under each score."""
    bench = Bench(folder, seed)
    known = [(prompt, parse_instruction(prompt)) for prompt in bench.written]
    asked = [(prompt, found.kind) for prompt, found in known if found is not None]
    three = bench.directions.select(lab.CRITERIA["3H"])
    shares = {}
    for score in SCORES:
        scored = score_consistency(
            bench.model, bench.tokenizer, three, [p for p, _ in asked], score=score, show_progress=False
        )
        counts = Counter(zip((kind for _, kind in asked), scored["criterion"], strict=True))
        totals = Counter(kind for _, kind in asked)
        shares[score] = {
            kind: {name: counts[kind, name] / totals[kind] for name in three.names} for kind in sorted(totals)
        }
    return {"instructions": len(asked), "of": len(bench.written), "shares": shares}


class Bench:
    """Rewards of steered answers to one seed's own instructions."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.model, self.tokenizer = lab.assistant()
        self.directions = DirectionVectors.from_pretrained(home(folder, seed) / "tuned")
        self.written = lab.raw_instructions(self.model, self.tokenizer, "self-written", seed)
        self.seed = row_seed(seed, "bench")
        self.served: dict[str, list[str]] = {name: [] for name in self.directions.names}
        three = self.directions.select(lab.CRITERIA["3H"])
        routed = lab.routed(
            self.model, self.tokenizer, three, self.written,
            score="standardized", keep=None, number=len(self.written), seed=seed,
        )  # fmt: skip
        for row in routed:
            self.served[row["criterion"]].append(row["prompt"])
        self.served["general"] = list(routed["prompt"])

    def layers(self, name: str) -> tuple[int, ...]:
        return tuple(self.directions.config.control_layers[name])

    def rewards(
        self, name: str, window: tuple[int, ...], signed: Sequence[float], number: int = STUDIED
    ) -> tuple[np.ndarray, list[float]]:
        """(strengths, N) by the truth table, and the share of broken answers per strength."""
        prompts = self.served[name][:number]
        sides = generate_variants(
            self.model,
            [encode_prompt(self.tokenizer, prompt) for prompt in prompts],
            [[{name: strength} if strength else None] * len(prompts) for strength in signed],
            sampling=lab.ANSWERS,
            seeds=[[row_seed(self.seed, str(row)) for row in range(len(prompts))]] * len(signed),
            pad=pad_token_id(self.tokenizer),
            directions=unlimited(self.directions.with_control_layers({name: window})),
            batch_size=16,
        )
        rewards = [
            lab.truth(prompts, [decode_answer(self.tokenizer, one.ids) for one in side]) for side in sides
        ]
        broken = [sum(degenerate(one.ids) for one in side) / len(side) for side in sides]
        return np.array(rewards), broken
