"""Ways to make pairs and to train on them: each arm is one run of DPO from the same model, on the same token budget."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from datasets import Dataset

from evidence import lab
from evidence.cells import Cell, Figures
from evidence.preparation import before, home, prepare
from hf_icon2.directions.config import StrengthRange
from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.judges.pairwise import PairwiseJudge
from hf_icon2.steering.noise import row_seed
from hf_icon2.synthesis.conversations import synthesize_conversations
from hf_icon2.synthesis.flags import DROPPED_FLAGS
from hf_icon2.synthesis.pairs import generate_pairs
from hf_icon2.synthesis.strategies.refined import Refinement
from hf_icon2.synthesis.strategies.steered import PAPER_STRENGTHS
from hf_icon2.toy import skills
from hf_icon2.toy.systems import JUDGE_PROMPTS

WITHOUT_CRITERIA = ("sampling-ranking", "self-rewarding", "self-refine")


@dataclass(frozen=True)
class Scale:
    """How much an arm may spend.

    Args:
        tokens: Generated to make pairs, thrown-away samples included.
        steps: Of DPO, 32 pairs each.
        instructions: Different ones.
    """

    tokens: int = 50_000
    steps: int = 100
    instructions: int = 300


FULL = Scale()
QUICK = Scale(tokens=30_000, steps=60)


@dataclass(frozen=True)
class Arm:
    """One way; what is not named is as in the first line of Table 1.

    Args:
        strategy: Of `generate_pairs`.
        criteria: Whose directions or system prompts are used.
        source: Of the instructions; "chained" puts self-written ones behind each other, with the model's own answer.
        filtered: Whether the more consistent half of the instructions is used, or any.
        score: Of consistency.
        layers: "tuned" per criterion, "middle" third for all (strengths tuned there), or "paper": the middle third
            and the paper's strengths.
        turns: User turns per conversation.
        reward: Of Sampling-Ranking: the "truth" table, which no reward model equals, or a "noisy" one.
        rounds: Times that directions and pairs are made anew, from the policy as it is then.
    """

    strategy: str = "icon2"
    criteria: str = "3H"
    source: str = "self-written"
    filtered: bool = True
    score: str = "standardized"
    layers: str = "tuned"
    turns: int = 1
    rounds: int = 1
    reward: str = "truth"

    @property
    def name(self) -> str:
        changed = [
            f"{field.name}={getattr(self, field.name)}"
            for field in fields(self)[2:]
            if getattr(self, field.name) != field.default
        ]
        return ", ".join([f"{self.strategy} {self.criteria}", *changed])


ICON2 = Arm()
TABLE_1 = [
    *(
        Arm(strategy, criteria)
        for criteria in ("3H", "General", "General + 3H")
        for strategy in ("icon2", "direct-prompting", "icon2-independent")
    ),
    *(Arm(strategy) for strategy in WITHOUT_CRITERIA),
    Arm("sampling-ranking", reward="noisy"),
]
TABLE_3 = [
    Arm(source=source, filtered=filtered)
    for source in ("self-written", "given", "facts only")
    for filtered in (True, False)
]
ROUNDS = Arm(rounds=2)
TURNS, CHAINED = Arm(turns=2), Arm(source="chained", turns=2)
LAYERS = [Arm(layers="middle"), Arm(layers="paper")]
SCORES = [Arm(score="cosine"), Arm(score="dot")]
ALL = list(dict.fromkeys([*TABLE_1, *TABLE_3, TURNS, CHAINED, ROUNDS, *LAYERS, *SCORES]))
IN_SHORT = [arm for arm in TABLE_1 if arm.criteria == "3H"]


def cells(seed: int, arms: list[Arm], scale: Scale) -> list[Cell]:
    """Preparation, the model as it is, and all arms of a seed."""
    first = f"prepared/seed {seed}"
    return [
        Cell(first, prepare, (seed,)),
        Cell(f"before/seed {seed}", before, (seed,)),
        *(Cell(f"{arm.name}/seed {seed}", run, (asdict(arm), seed, asdict(scale)), (first,)) for arm in arms),
    ]


def run(folder: Path, arm: Figures, seed: int, scale: Figures) -> Figures:
    """Makes pairs, trains on them and answers the held-out prompts."""
    return Run(folder, Arm(**arm), seed, Scale(**scale)).figures()


@dataclass
class Run:
    """One arm with one seed."""

    folder: Path
    arm: Arm
    seed: int
    scale: Scale

    def figures(self) -> Figures:
        model, tokenizer = lab.assistant()
        source = home(self.folder, self.seed) / ("tuned" if self.arm.layers == "tuned" else "middle")
        directions = DirectionVectors.from_pretrained(source)
        rounds, curve = [], []
        training = lab.Meter()
        scratch = home(self.folder, self.seed) / self.arm.name
        for number in range(self.arm.rounds):
            if number:
                directions = self.regenerated(model, tokenizer, number)
            pairs, found = self.pairs(model, tokenizer, directions, number)
            rounds.append(found)
            with training():
                steps = self.scale.steps // self.arm.rounds
                curve += lab.train(model, tokenizer, pairs, steps, self.seed, scratch)
            model.eval()
            found["right after"] = self.answered(model, tokenizer)["right"]
        return {
            "arm": asdict(self.arm),
            "seed": self.seed,
            "rounds": rounds,
            "training_cpu": training.cpu,
            "curve": curve,
            "shares": self.answered(model, tokenizer, save=True),
            "two turns": self.answered_in_two_turns(model, tokenizer),
        }

    def answered(self, model: Any, tokenizer: Any, *, save: bool = False) -> Figures:
        answers = lab.answers_of(model, tokenizer, lab.held_out(), self.seed)
        if save:
            lab.save_rows(home(self.folder, self.seed) / f"{self.arm.name}.jsonl", answers)
        return lab.shares(lab.held_out(), answers)

    def answered_in_two_turns(self, model: Any, tokenizer: Any) -> Figures | None:
        if self.arm not in (ICON2, TURNS, CHAINED):
            return None
        return lab.shares(lab.held_out(), lab.two_turn_answers(model, tokenizer, self.seed))

    def regenerated(self, model: Any, tokenizer: Any, number: int) -> DirectionVectors:
        """Directions of the current policy, tuned anew."""
        seed = row_seed(self.seed, f"round {number}")
        written = lab.self_written(model, tokenizer, 256, row_seed(seed, "extraction"))
        directions = lab.measured_directions(model, tokenizer, written)
        return lab.tuned(
            model, tokenizer, directions, lab.raw_instructions(model, tokenizer, "self-written", seed), seed
        )

    def pairs(
        self, model: Any, tokenizer: Any, directions: DirectionVectors, number: int
    ) -> tuple[Dataset, Figures]:
        """The arm's pairs within its budget, and what they cost."""
        arm, seed = self.arm, row_seed(self.seed, f"round {number}") if number else self.seed
        preparing, generating = lab.Meter(), lab.Meter()
        with preparing():
            rows = self.instructions(model, tokenizer, directions, seed)
        with generating():
            made = generate_pairs(
                model,
                tokenizer,
                directions,
                draws(rows, 40),
                strategy=arm.strategy,
                strengths=strengths(arm, directions),
                reward=lab.truth if arm.reward == "truth" else lab.noisy_truth,
                judge=self_judge(model, tokenizer) if arm.strategy == "self-rewarding" else None,
                refine=TOY_REFINEMENT,
                token_budget=self.scale.tokens // arm.rounds,
                sampling=lab.ANSWERS,
                drop=(),
                seed=seed,
                batch_size=64,
                show_progress=False,
            )
        good = made.filter(lambda row: not set(row["flags"]) & set(DROPPED_FLAGS))
        flags = [flag for row in made["flags"] for flag in row]
        return good, {
            "instructions": len(rows),
            "made": len(made),
            "kept": len(good),
            "tokens": sum(made["tokens_generated"]),
            "flags": {name: flags.count(name) for name in sorted(set(flags))},
            "criteria": {
                name: made["criterion"].count(name) for name in sorted({*made["criterion"]} - {None})
            },
            "instructions_cpu": preparing.cpu,
            "pairs_cpu": generating.cpu,
            "tokens_chosen": sum(good["tokens_chosen"]) / len(good),
            "tokens_rejected": sum(good["tokens_rejected"]) / len(good),
            **lab.pair_quality(good),
        }

    def instructions(self, model: Any, tokenizer: Any, directions: DirectionVectors, seed: int) -> Dataset:
        arm = self.arm
        if arm.source == "chained":
            written = lab.raw_instructions(model, tokenizer, "self-written", seed)
            prompts: list[Any] = lab.chained(model, tokenizer, written, row_seed(seed, "chained"))
        elif arm.turns > 1:
            prompts = list(
                synthesize_conversations(
                    model,
                    tokenizer,
                    lab.RAW,
                    turns=arm.turns,
                    sampling=lab.USER_TURNS,
                    answers=lab.ANSWERS,
                    seed=row_seed(seed, "conversations"),
                    exclude=lab.excluded(),
                    show_progress=False,
                )["prompt"]
            )
        else:
            prompts = lab.raw_instructions(model, tokenizer, arm.source, seed)
        return lab.routed(
            model,
            tokenizer,
            directions.select(lab.CRITERIA[arm.criteria]),
            prompts,
            score=arm.score,
            keep=0.5 if arm.filtered else None,
            number=self.scale.instructions,
            seed=seed,
        )


def draws(rows: Dataset, times: int) -> Dataset:
    """Every instruction `times` times, all of them once before any twice; the budget ends it."""
    return Dataset.from_list([{**row, "id": f"{row['id']}/{draw}"} for draw in range(times) for row in rows])


def strengths(arm: Arm, directions: DirectionVectors) -> dict[str, StrengthRange] | None:
    return dict.fromkeys(directions.names, PAPER_STRENGTHS) if arm.layers == "paper" else None


def self_judge(model: Any, tokenizer: Any) -> PairwiseJudge:
    """The model itself, asked in the words it was trained with."""
    return PairwiseJudge.from_model(
        model, tokenizer, ask=lambda question, a, b: skills.ab_prompt(text(question), text(a), text(b)),
        system=JUDGE_PROMPTS[0],
    )  # fmt: skip


def text(value: Any) -> str:
    return value if isinstance(value, str) else str(value[-1]["content"])


TOY_REFINEMENT = Refinement(
    critique=lambda question, answer: skills.critique_turns(text(question), answer),
    revise=lambda question, answer, said: skills.critique_turns(text(question), answer, critique=said),
)
