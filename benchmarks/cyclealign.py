"""What CycleAlign's demonstrations are worth: the bundled student, ranked by the toy's black box over real HTTP.

    python benchmarks/cyclealign.py

Each run has the same instructions, cycles and requests: per cycle the student answers 400 training instructions 8
times, the 4 most different answers are ranked twice by the black box, and one pass trains on its rankings. Arms differ
in the demonstrations and in whether the black box heeds them. No run ends early. The settings of training
come from trials with rankings by the truth table, on validation prompts. The first noise was chosen because
demonstrations matter there: it was tried with seeds 0 and 1 beside the second, where they hardly do. The tables are of
other seeds and of the 512 test prompts. Runs lie in `--output` and are not made twice.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import protocol

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

INSTRUCTIONS, CYCLES, SAMPLES, KEEP = 400, 5, 8, 4
TRAINING: dict[str, Any] = {
    "loss_type": "listmle",
    "sft_weight": 1.0,
    "learning_rate": 3e-4,
    "batch_size": 16,
}


@dataclass(frozen=True)
class Arm:
    """One way to run the cycles: how the black box behaves, and what it is shown."""

    noise: float
    coupling: float = 1.0
    updates: bool = True
    right: bool = True  # whether the hand-written demonstrations are


def arms(noise: float, *, controls: bool = True) -> dict[str, Arm]:
    heeded = Arm(noise)
    deaf = replace(heeded, coupling=0.0)
    compared = {"updated": heeded, "frozen": replace(heeded, updates=False)}
    if not controls:
        return compared
    return {
        **compared,
        "frozen, wrong ones": replace(heeded, updates=False, right=False),
        "updated, not heeded": deaf,
        "frozen, not heeded": replace(deaf, updates=False),
    }


class Runs(protocol.Kept):
    """Accuracies and figures of the cycles by arm, settings, seed and split; runs in folders beside them."""

    def after(self, arm: Arm, training: dict[str, Any], seed: int, split: str) -> dict[str, Any]:
        def measure() -> dict[str, Any]:
            folder = self.folder / folder_name(arm, training, seed)
            last, history, rightness = cycles(arm, training, seed, folder)
            return {
                **accuracy(str(last), split, seed),
                "tau": [figures["tau"] for figures in history],
                "ranked": [figures["ranked"] for figures in history],
                "requests": sum(figures["usage"]["requests"] for figures in history),
                "right": rightness,
            }

        return dict(self.of(json.dumps([vars(arm), training, seed, split]), measure))

    def before(self, seed: int) -> float:
        from hf_icon2.toy import student_path

        key = json.dumps(["before", seed])
        return float(self.of(key, lambda: accuracy(student_path(), "test", seed)["correct"]))


def folder_name(arm: Arm, training: dict[str, Any], seed: int) -> str:
    parts = [*vars(arm).values(), *training.values(), seed]
    return "-".join(str(part) for part in parts)


def cycles(
    arm: Arm, training: dict[str, Any], seed: int, folder: Path
) -> tuple[Path, list[dict[str, Any]], list[float]]:
    """The last student, the figures of all cycles, and how well the black box ranked in each."""
    from random import Random

    from hf_icon2.distillation.cycle_recipe import CycleRecipe
    from hf_icon2.distillation.cyclealign import CycleAlign
    from hf_icon2.judges.chat.client import ChatClient
    from hf_icon2.judges.ranking import RankingJudge
    from hf_icon2.judges.verdicts import Demonstration
    from hf_icon2.toy import instructions, student_path
    from hf_icon2.toy.ranker import RankerServer
    from hf_icon2.toy.ranking import RankingRule, static_demonstrations

    recipe = CycleRecipe.from_dict(
        {
            "number": INSTRUCTIONS,
            "cycles": CYCLES,
            "seed": seed,
            "update_demonstrations": arm.updates,
            "stop_early": False,
            "sampling": {"samples": SAMPLES, "keep": KEEP, "max_new_tokens": 32, "batch_size": 32},
            "training": training,
        }
    )
    shown = [
        Demonstration(question, answers if arm.right else answers[::-1])
        for question, answers in static_demonstrations()
    ]
    prompts = Random(seed).sample([item.text for item in instructions("train")], INSTRUCTIONS)
    with RankerServer(RankingRule(arm.noise, arm.coupling, seed=seed)) as server:
        judge = RankingJudge(ChatClient(server.endpoint, cache=folder / "chat.sqlite"), seed=seed)
        loop = CycleAlign(
            student_path(), prompts, judge, folder, recipe, demonstrations=shown, show_progress=False
        )
        last = loop.run()
    rightness = [share_right(folder / f"cycle-{number}") for number in range(1, CYCLES + 1)]
    return last, loop.history, rightness


def share_right(cycle: Path) -> float:
    """Of the pairs of answers that the black box orders and the truth table does too, those ordered alike."""
    from hf_icon2.prompts import answer_text, as_messages
    from hf_icon2.storage import read_json_lines
    from hf_icon2.toy.ranking import worth

    scores = {one["id"]: one["scores"] for one in read_json_lines(cycle / "rankings.jsonl") if one["scores"]}
    right = []
    for one in read_json_lines(cycle / "candidates.jsonl"):
        question = as_messages(one["prompt"])[-1]["content"]
        truth = [worth(question, answer_text(response)) for response in one["responses"]]
        given = scores.get(one["id"], [0] * KEEP)
        steps = [(given[i] - given[j]) * (truth[i] - truth[j]) for i, j in combinations(range(KEEP), 2)]
        right += [step > 0 for step in steps if step]
    return statistics.fmean(right)


def accuracy(path: str, split: str, seed: int) -> dict[str, float]:
    import pad

    from hf_icon2.loading import load_model

    return pad.accuracy(load_model(path), split, seed)


def row(name: str, values: Sequence[float], rest: Sequence[str]) -> list[str]:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return [name, *(f"{value:.3f}" for value in values), f"{statistics.fmean(values):.3f}{spread}", *rest]


def table(runs: Runs, ways: dict[str, Arm], seeds: Sequence[int]) -> str:
    before = [runs.before(seed) for seed in seeds]
    found = {name: [runs.after(arm, TRAINING, seed, "test") for seed in seeds] for name, arm in ways.items()}
    rows = [row("student before", before, ["", "", "", "", ""])]
    for name, results in found.items():
        values = [one["correct"] for one in results]
        rival = found[name.replace("updated", "frozen")]
        ahead = [ours - other["correct"] for ours, other in zip(values, rival, strict=True)]
        rows.append(
            row(
                name,
                values,
                [
                    f"{statistics.fmean(ahead):+.3f} ({min(ahead):+.3f} to {max(ahead):+.3f})"
                    if name.startswith("updated")
                    else "",
                    " ".join(f"{value:.2f}" for value in means(one["right"] for one in results)),
                    " ".join(f"{value:.2f}" for value in means(one["tau"] for one in results)),
                    " ".join(f"{value:.0f}" for value in means(one["ranked"] for one in results)),
                    f"{statistics.fmean(one['requests'] for one in results):.0f}",
                ],
            )
        )
    header = [
        "demonstrations",
        *(f"seed {seed}" for seed in seeds),
        "mean",
        "ahead of frozen, paired",
        "black box right, by cycle",
        "tau with student, by cycle",
        "ranked, by cycle",
        "requests",
    ]
    return str(protocol.table(header, rows))


def means(lists: Any) -> list[float]:
    return [statistics.fmean(column) for column in zip(*lists, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--noises", type=float, nargs="+", default=[2.0, 1.0])
    parser.add_argument("--output", type=Path, default=Path("runs/cyclealign-benchmark"))
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("hf_icon2").setLevel(logging.ERROR)
    runs = Runs(arguments.output)
    for place, noise in enumerate(arguments.noises):
        ways = arms(noise, controls=place == 0)
        protocol.write_section(
            f"cyclealign {noise:g}",
            f"### CycleAlign on the bundled student, noise {noise:g} (aim: updated ahead of frozen, gain ≥ 0.15)\n\n"
            f"{len(arguments.seeds)} seeds, 512 test prompts, {INSTRUCTIONS} instructions, {CYCLES} cycles. Noise is "
            "the black box's standard deviation without demonstrations; an answer is worth 0 to 1.1. It is right about "
            "a pair of answers if the truth table orders the pair alike.\n\n"
            + table(runs, ways, arguments.seeds),
        )


if __name__ == "__main__":
    main()
